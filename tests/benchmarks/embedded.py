"""The embedded pipeline end to end: plain, measured in several ways, rescaled, and calibrated."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

import entropylab

from .paired import peak_memory, time_ratios

SIZES = (64, 96, 128)
STEPS = 8
PROMPTS = ["a red heart", "a cat"]
CALIBRATED = 96
"""Size to calibrate at."""

ALL = ("entropy", "sigma2", "third", "fourth", "sensitivity", "lse", "mean")


def contexts(pipe: Any) -> dict[str, Callable[[], AbstractContextManager]]:
    """The contestants: what to sample inside of."""
    return {
        "plain": nullcontext,
        "exact": lambda: entropylab.record(pipe),
        "all statistics": lambda: entropylab.record(pipe, statistics=ALL),
        "rows=256": lambda: entropylab.record(pipe, rows=256),
        "maps": lambda: entropylab.record(pipe, maps=True),
        "maps, received, words": lambda: entropylab.record(pipe, maps=True, received=True, words="heart"),
        "rescale": lambda: entropylab.rescale(pipe),
    }


def sample(
    pipe: Any, size: int, context: Callable[[], AbstractContextManager], steps: int = STEPS, images: int = 2
) -> None:
    """Two images with guidance, inside a context."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(images)]
    with context():
        pipe(
            PROMPTS[:images], height=size, width=size, num_inference_steps=steps, guidance_scale=3.0,
            generator=generators, output_type="latent",
        )  # fmt: skip


def calibrate(pipe: Any) -> None:
    """Two steps of Newton's at one size."""
    entropylab.calibrate(
        pipe, [CALIBRATED], prompts=PROMPTS, steps=STEPS, guidance_scale=3.0, iterations=2, tolerance=1e-9,
        held_out=False, progress=False,
    )  # fmt: skip


def as_often(pipe: Any) -> None:
    """Sampling as often as ``calibrate`` does, and nothing else."""
    sample(pipe, 64, nullcontext, 1, 1)
    for size in (64, CALIBRATED, CALIBRATED, CALIBRATED):
        sample(pipe, size, nullcontext)


def loaded() -> Any:
    """The embedded pipeline, silent; in a process that has imported what Datasets are made of, as a notebook's has."""
    import xarray  # noqa: F401

    pipe = entropylab.load()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make(size: int, name: str) -> Callable[[], None]:
    """The work of one contestant, in a process that has done nothing else."""
    pipe = loaded()
    return partial(sample, pipe, size, contexts(pipe)[name])


def run(repeats: int) -> list[dict[str, Any]]:
    """One row per size and contestant."""
    pipe, rows = loaded(), []
    for size in SIZES:
        works = {name: partial(sample, pipe, size, context) for name, context in contexts(pipe).items()}
        times = time_ratios(works, repeats)
        memory = {name: peak_memory(partial(make, size, name)) for name in works}
        for name, time in times.items():
            rows.append(
                {"benchmark": "embedded pipeline", "case": f"{size}x{size}", "contestant": name, **time}
                | {"memory_ratio": memory[name] / memory["plain"], "memory_mib": memory[name]}
            )
    works = {"sampling as often": partial(as_often, pipe), "calibrate": partial(calibrate, pipe)}
    for name, time in time_ratios(works, repeats).items():
        rows.append({"benchmark": "calibrate", "case": f"{CALIBRATED}x{CALIBRATED}", "contestant": name, **time})
    return rows
