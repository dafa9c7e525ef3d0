"""Stage 1 of the recipe: an AutoencoderKL with four latent channels at a quarter of the size."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image

from .pictures import other_pictures, training_set
from .training import Average, Run, learning_rate, load_weights, save_weights, set_learning_rate

PIXELS = 64


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
        mid_block_add_attention=False,
    )


def to_tensor(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """uint8 (n, height, width, 3) to float (n, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def edges(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences between neighbouring pixels, down and across."""
    return images.diff(dim=-2), images.diff(dim=-1)


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Absolute error of the pixels and of their edges, plus squared error."""
    across = sum((F.l1_loss(a, b) for a, b in zip(edges(output), edges(target), strict=True)), start=torch.zeros(()))
    return F.l1_loss(output, target) + across + F.mse_loss(output, target)


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


def train(folder: Path, steps: int, batch: int, device: torch.device, peak: float = 1.5e-3) -> Path:
    """Train for ``steps`` (continuing if there is a checkpoint); return the path of the weights."""
    run = Run(folder, "autoencoder")
    torch.manual_seed(0)
    captioned, _ = training_set(folder, PIXELS, 6)
    captioned = captioned.reshape(-1, *captioned.shape[2:])
    others = other_pictures(folder, PIXELS, 1)
    images = np.concatenate([captioned, captioned, others])

    model = new_autoencoder().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    average = Average(model, 0.998)
    start = run.restore(model=model, optimizer=optimizer, average=average)
    rng = np.random.default_rng(start)
    for step in range(start, steps):
        set_learning_rate(optimizer, learning_rate(step, steps, peak, decay_share=0.6))
        target = to_tensor(images[rng.integers(len(images), size=batch)], device)
        posterior = model.encode(target).latent_dist
        output = model.decode(posterior.sample()).sample
        loss = reconstruction_loss(output, target) + 1e-6 * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        if (step + 1) % 100 == 0:
            run.log(step=step + 1, loss=loss.item(), psnr=(10 * (4 / F.mse_loss(output, target)).log10()).item())
        if (step + 1) % 500 == 0 or step + 1 == steps:
            run.save(step + 1, model=model, optimizer=optimizer, average=average)

    model.load_state_dict(average.weights)
    sample = to_tensor(captioned[:: max(1, len(captioned) // 256)], device)
    standardise(model, sample)
    with torch.no_grad():
        output = model.decode(model.encode(sample).latent_dist.mean).sample
    run.log(final_psnr=(10 * (4 / F.mse_loss(output, sample)).log10()).item())
    save_picture(torch.cat([sample[:16], output[:16]]), run.folder / "reconstructions.png", 16)
    path = run.folder / "autoencoder.safetensors"
    save_weights(model.state_dict(), path)
    return path


def trained(path: Path, device: torch.device) -> AutoencoderKL:
    """The autoencoder with the weights at ``path``, frozen."""
    model = new_autoencoder().to(device, memory_format=torch.channels_last)
    model.load_state_dict(load_weights(path))
    return model.eval().requires_grad_(False)


def save_picture(images: torch.Tensor, path: Path, columns: int) -> None:
    """Write (n, 3, height, width) in [-1, 1] as one PNG, ``columns`` to a row."""
    array = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    rows = [np.concatenate(list(array[i : i + columns]), axis=1) for i in range(0, len(array), columns)]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path)
