"""The recipe of the embedded pipeline: ``python -m entropylab.models.train --out runs/emoji``.

It fetches its own pictures, trains the autoencoder, then the text encoder and the U-Net, continues from its last
checkpoint when it is started again, logs to ``log.jsonl`` and writes sample grids, and leaves a pipeline in fp16.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from . import train_autoencoder, train_denoiser
from .prompts import embedded_prompts
from .text import save_vocabulary


def rename_for_older_readers(weights: Path) -> None:
    """Give CLIP's weights the names that transformers before 5 looks for; without them it starts at random."""
    named = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(weights).items()}
    save_file(named, weights, metadata={"format": "pt"})


def save_pipeline(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Write a pipeline as fp16 safetensors, its tokenizer also in the form that older readers know."""
    for name in ("unet", "vae", "text_encoder"):
        getattr(pipe, name).half()
    pipe.save_pretrained(folder, safe_serialization=True)
    finish_text_encoder(folder / "text_encoder", folder / "tokenizer")


def finish_text_encoder(encoder: Path, tokenizer: Path) -> None:
    """Bring a saved text encoder and its tokenizer into the form that older readers know too."""
    save_vocabulary(tokenizer)
    rename_for_older_readers(encoder / "model.safetensors")
    config = encoder / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["dtype"] = "float32"  # what transformers loads it in, unless told: as diffusers does with the others
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Run both stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/emoji"), help="run folder (%(default)s)")
    parser.add_argument("--autoencoder-steps", type=int, default=2000, help="(%(default)s)")
    parser.add_argument("--denoiser-steps", type=int, default=5000, help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=24, help="batch size of the denoiser (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    train_autoencoder.train(given.out, given.autoencoder_steps, 16, device)
    pipe = train_denoiser.train(given.out, given.denoiser_steps, given.batch, device, embedded_prompts())
    save_pipeline(pipe, given.out / "pipeline")


if __name__ == "__main__":
    main()
