"""Stage 1: an autoencoder with four latent channels at a quarter of the size, for pictures on varied backgrounds.

``python -m recipes.autoencoder --out runs/emoji``, and with ``--decoder-only --steps 600`` for the decoder alone.

The shipped one took 900 steps, and 600 more of its decoder when the U-Net was trained. It did not begin at random: its
first weights were those of the embedded model of release 0.1, which knew the same emoji on white, 2,000 steps long.
``--begin`` takes the folder of such a pipeline.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import nn

from .loop import Loop, new_parser
from .pictures import PIXELS, drawings, kept, other_drawings, variants


def new_autoencoder() -> AutoencoderKL:
    """The untrained autoencoder: fully convolutional, so that it works at any size."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=PIXELS,
        scaling_factor=1.0,
        shift_factor=0.0,  # what FluxPipeline asks for
        mid_block_add_attention=False,
    )


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, height, width, 3) to float (n, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Absolute error of the pixels and of their edges, down and across, plus squared error."""
    edges = F.l1_loss(output.diff(dim=-2), target.diff(dim=-2)) + F.l1_loss(output.diff(dim=-1), target.diff(dim=-1))
    return F.l1_loss(output, target) + edges + F.mse_loss(output, target)


def psnr(output: torch.Tensor, target: torch.Tensor) -> float:
    """Peak signal to noise [dB] of pictures in [-1, 1]."""
    return (10 * (4 / F.mse_loss(output, target)).log10()).item()


@torch.no_grad()
def standardise(model: AutoencoderKL, images: torch.Tensor) -> None:
    """Fold each latent channel's mean and deviation over ``images`` into the 1x1 convolutions around the latent,
    so that latents have mean 0 and variance 1 per channel and ``scaling_factor`` is 1.
    """
    latents = torch.cat([model.encode(batch).latent_dist.mean for batch in images.split(64)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    quant, post = model.quant_conv, model.post_quant_conv
    quant.weight[:channels] /= deviation[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / deviation
    quant.bias[channels:] -= 2 * deviation.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= deviation[None, :, None, None]


def training_pictures(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Captioned and other emoji on backgrounds, 20 and 2 of each: uint8 (n, 64, 64, 3)."""
    captioned = kept(folder / "captioned.npy", lambda: variants(drawings(folder), 20, seed=10))
    others = kept(folder / "others.npy", lambda: variants(other_drawings(folder), 2, seed=11))
    return captioned.reshape(-1, *captioned.shape[2:]), others.reshape(-1, *others.shape[2:])


def train(
    folder: Path, steps: int, batch: int, begin: Path | None = None, decoder_only: bool = False, peak: float = 1.5e-3
) -> Path:
    """Train until ``steps``, on from the last checkpoint, the weights of the pipeline in ``begin``, or random ones.

    With ``decoder_only`` the decoder of the trained one, for latents that a denoiser was trained on and that must stay.
    """
    torch.manual_seed(0)
    captioned, others = training_pictures(folder)
    path = folder / "autoencoder" / "autoencoder.safetensors"
    if decoder_only:
        images, stage, peak = np.concatenate([captioned, captioned, others]), "decoder", 1e-3
        model = trained(path)
        part = nn.ModuleDict({"post_quant_conv": model.post_quant_conv, "decoder": model.decoder}).requires_grad_(True)
    else:
        images, stage = np.concatenate([captioned, others]), "autoencoder"
        model = AutoencoderKL.from_pretrained(begin / "vae", torch_dtype=torch.float32) if begin else new_autoencoder()
        model = part = model.train().to(memory_format=torch.channels_last)
    loop = Loop(folder, stage, part, peak, decay=0.998)

    def loss_of_batch() -> tuple[torch.Tensor, dict[str, float]]:
        target = to_tensor(images[torch.randint(len(images), (batch,)).numpy()])
        posterior = model.encode(target).latent_dist
        output = model.decode(posterior.sample()).sample
        loss = reconstruction_loss(output, target) + 1e-6 * posterior.kl().mean()
        return loss, {"psnr": psnr(output.detach(), target)}

    loop.train(steps, loss_of_batch)
    part.load_state_dict(loop.average.module.state_dict())
    if not decoder_only:
        model.eval().requires_grad_(False)
        standardise(model, to_tensor(captioned[:: max(1, len(captioned) // 512)]))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path


def trained(path: Path) -> AutoencoderKL:
    """The autoencoder with the weights at ``path``, frozen."""
    model = new_autoencoder().to(memory_format=torch.channels_last)
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)


if __name__ == "__main__":
    parser = new_parser(__doc__, "runs/emoji", steps=1500, batch=16)
    parser.add_argument("--begin", type=Path, metavar="FOLDER", help="pipeline that the first weights are of")
    parser.add_argument("--decoder-only", action="store_true", help="train the decoder of a trained one on")
    given = parser.parse_args()
    train(given.out, given.steps, given.batch, given.begin, given.decoder_only)
