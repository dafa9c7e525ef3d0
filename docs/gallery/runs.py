"""Measures the small runs that the gallery draws from, anew: python docs/gallery/runs.py (two minutes on two cores)."""

from pathlib import Path

import torch

import entropylab

HERE = Path(__file__).parent
EVERYTHING = ("entropy", "sigma2", "third", "fourth", "sensitivity", "gaussian", "slope", "rarefied")
PROMPT = "a red heart"


def main() -> None:
    """Write everything beside this file."""
    pipe = entropylab.load()
    settings = {"samples": 6, "steps": 6, "layers": "self"}
    sizes = [(48, 48), 64, 96, 128]
    of = {"statistics": EVERYTHING, "scaling": ("original", "sqrt_log"), "keep": ("sample", "layer", "head")}
    write("sizes", entropylab.measure(pipe, sizes, **of, **settings))
    write("steps", entropylab.measure(pipe, [64, 128], keep=("step", "layer"), **settings))
    rules = ("original", 1.05, 1.1, 1.2, 1.3, "sqrt_log")
    write("multipliers", entropylab.measure(pipe, [64, 128], scaling=rules, keep=("sample", "layer"), **settings))
    joint = entropylab.load("emoji-joint")
    of = {"statistics": EVERYTHING, "layers": "joint", "keep": ("sample", "layer", "head"), "samples": 4, "steps": 6}
    write("joint", entropylab.measure(joint, [48, 64, 96, 128], **of))

    with entropylab.record(pipe, layers="self", maps=True, keep=("layer", "step")) as rec:
        for size, rule in ((64, "original"), (128, "original"), (128, "sqrt_log")):
            generator = torch.Generator().manual_seed(1)
            with entropylab.rescale(pipe, rule):
                image = pipe(PROMPT, height=size, width=size, num_inference_steps=8, generator=generator).images[0]
            image.save(HERE / f"{size}_{rule}.png")
    write("maps", rec.maps)
    with entropylab.record(pipe, received=True, words=["red", "heart"], keep=()) as rec:
        pipe(PROMPT, height=64, width=64, num_inference_steps=8, generator=torch.Generator().manual_seed(1))
    write("words", rec.maps)


def write(name: str, found: object) -> None:
    """Write one run as netCDF."""
    entropylab.save(found, HERE / f"{name}.nc", overwrite=True)


if __name__ == "__main__":
    main()
