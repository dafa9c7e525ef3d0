"""Stage 1: today's embedded autoencoder, trained on for pictures on varied backgrounds.

``python -m recipes.autoencoder --out runs/emoji``
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import nn

from entropylab.models.prompts import FOLDER

from .emoji import finish, psnr, reconstruction_loss, show_reconstructions, to_tensor, trained
from .loop import Loop
from .pictures import drawings, kept, other_drawings, variants


def training_pictures(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Captioned and other emoji on backgrounds, 20 and 2 of each: uint8 (n, 64, 64, 3)."""
    captioned = kept(folder / "captioned.npy", lambda: variants(drawings(folder), 20, seed=10))
    others = kept(folder / "others.npy", lambda: variants(other_drawings(folder), 2, seed=11))
    return captioned.reshape(-1, *captioned.shape[2:]), others.reshape(-1, *others.shape[2:])


def train(folder: Path, steps: int, batch: int, peak: float = 1.5e-3) -> Path:
    """Train for ``steps`` (on from the last checkpoint, if there is one); return the path of the weights."""
    torch.manual_seed(0)
    captioned, others = training_pictures(folder)
    images = np.concatenate([captioned, others])
    model = AutoencoderKL.from_pretrained(FOLDER / "vae", torch_dtype=torch.float32)
    model = model.train().to(memory_format=torch.channels_last)
    loop = Loop(folder, "autoencoder", model, peak, decay=0.998)

    def loss_of_batch() -> tuple[torch.Tensor, dict[str, float]]:
        target = to_tensor(images[torch.randint(len(images), (batch,)).numpy()], torch.device("cpu"))
        posterior = model.encode(target).latent_dist
        output = model.decode(posterior.sample()).sample
        loss = reconstruction_loss(output, target) + 1e-6 * posterior.kl().mean()
        return loss, {"psnr": psnr(output.detach(), target)}

    loop.train(steps, loss_of_batch, every=100)
    return finish(loop, captioned)


def train_decoder(folder: Path, steps: int, batch: int, peak: float = 1e-3) -> None:
    """Train the decoder on, alone, for latents that a denoiser was trained on already and that must stay."""
    path = folder / "autoencoder" / "autoencoder.safetensors"
    model = trained(path, torch.device("cpu")).to(memory_format=torch.channels_last)
    captioned, others = training_pictures(folder)
    images = np.concatenate([captioned, captioned, others])
    torch.manual_seed(0)
    parts = nn.ModuleDict({"post_quant_conv": model.post_quant_conv, "decoder": model.decoder}).requires_grad_(True)
    loop = Loop(folder, "decoder", parts, peak, decay=0.998)

    def loss_of_batch() -> tuple[torch.Tensor, dict[str, float]]:
        target = to_tensor(images[torch.randint(len(images), (batch,)).numpy()], torch.device("cpu"))
        with torch.no_grad():
            latents = model.encode(target).latent_dist.sample()
        output = model.decode(latents).sample
        return reconstruction_loss(output, target), {"psnr": psnr(output.detach(), target)}

    loop.train(steps, loss_of_batch, every=100)
    parts.load_state_dict(loop.average.weights)
    show_reconstructions(loop, model, captioned)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)


def main(arguments: list[str] | None = None) -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/emoji"), help="run folder (%(default)s)")
    parser.add_argument("--steps", type=int, default=1500, help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--decoder-only", action="store_true", help="train the decoder of a trained one on")
    parser.add_argument("--pictures-only", action="store_true", help="draw the training pictures, no more")
    given = parser.parse_args(arguments)
    if given.pictures_only:
        training_pictures(given.out)
        return
    (train_decoder if given.decoder_only else train)(given.out, given.steps, given.batch)


if __name__ == "__main__":
    main()
