"""The recipe of the embedded pipeline: ``python -m recipes.emoji --out runs/emoji``.

It fetches its own pictures, trains the autoencoder, then the text encoder and the U-Net together on its latents,
continues from its last checkpoint when it is started again, logs to ``log.jsonl`` and writes sample grids, and leaves a
pipeline in fp16. The parts that the other recipes share are here too.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTokenizer

from entropylab.models.prompts import captions, embedded_prompts

from .loop import Loop, trapezoid
from .pictures import PIXELS, all_on_white, drawings, other_drawings
from .text import WIDTH, new_text_encoder, new_tokenizer, save_vocabulary

SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
LOGIT_VARIANCE = 2.25
VARIANTS = 48
"""Placements of each picture that the denoisers learn."""

# Stage 1: an autoencoder with four latent channels at a quarter of the size.


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


def train_autoencoder(folder: Path, steps: int, batch: int, device: torch.device, peak: float = 1.5e-3) -> Path:
    """Train for ``steps`` (on from the last checkpoint, if there is one); return the path of the weights."""
    torch.manual_seed(0)
    captioned = all_on_white(drawings(folder), 6, seed=0)
    captioned = captioned.reshape(-1, *captioned.shape[2:])
    others = all_on_white(other_drawings(folder), 1, seed=1)[:, 0]
    images = np.concatenate([captioned, captioned, others])
    model = new_autoencoder().to(device, memory_format=torch.channels_last)
    loop = Loop(folder, "autoencoder", model, peak, decay=0.998, rate=trapezoid, weight_decay=0.0)

    def loss_of_batch() -> tuple[torch.Tensor, dict[str, float]]:
        target = to_tensor(images[torch.randint(len(images), (batch,)).numpy()], device)
        posterior = model.encode(target).latent_dist
        output = model.decode(posterior.sample()).sample
        loss = reconstruction_loss(output, target) + 1e-6 * posterior.kl().mean()
        return loss, {"psnr": psnr(output.detach(), target)}

    loop.train(steps, loss_of_batch)
    return finish(loop, captioned)


def finish(loop: Loop, captioned: np.ndarray) -> Path:
    """Write the averaged weights, with latents of mean 0 and variance 1, and reconstructions to look at."""
    path = loop.folder / "autoencoder.safetensors"
    save_file({name: value.contiguous() for name, value in loop.average.weights.items()}, path)
    model = trained(path, torch.device("cpu"))
    standardise(model, to_tensor(captioned[:: max(1, len(captioned) // 512)], torch.device("cpu")))
    show_reconstructions(loop, model, captioned)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path


def show_reconstructions(loop: Loop, model: AutoencoderKL, captioned: np.ndarray) -> None:
    """Log the error for captioned pictures, and draw some above what became of them."""
    sample = to_tensor(captioned[:: max(1, len(captioned) // 512)], torch.device("cpu"))
    with torch.no_grad():
        output = torch.cat([model.decode(model.encode(part).latent_dist.mean).sample for part in sample.split(64)])
    loop.log(final_psnr=psnr(output, sample))
    save_picture(torch.cat([sample[:32], output[:32]]), loop.folder / "reconstructions.png", 16)


def trained(path: Path, device: torch.device) -> AutoencoderKL:
    """The autoencoder with the weights at ``path``, frozen."""
    model = new_autoencoder().to(device, memory_format=torch.channels_last)
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)


def save_picture(images: torch.Tensor, path: Path, columns: int) -> None:
    """Write (n, 3, height, width) in [-1, 1] as one PNG, ``columns`` to a row."""
    array = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    rows = [np.concatenate(list(array[i : i + columns]), axis=1) for i in range(0, len(array), columns)]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path)


# Stage 2: the text encoder and the U-Net.


def new_unet() -> UNet2DConditionModel:
    """The untrained U-Net: self- and cross-attention at 256, 64 and 16 tokens, four heads each."""
    return UNet2DConditionModel(
        sample_size=PIXELS // 4,
        layers_per_block=1,
        block_out_channels=(64, 96, 128),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


@torch.no_grad()
def sharpen(model: nn.Module, variance: float = LOGIT_VARIANCE) -> None:
    """Start self-attention with logits of a variance.

    PyTorch's default gives to_q and to_k outputs of variance 1/3, so logits of variance 1/9: attention so close to
    uniform that there is nothing to measure, and training for hours on a CPU does not leave that neighbourhood.
    """
    gain = (9 * variance) ** 0.25
    for name, weight in model.named_parameters():
        if "attn1.to_q" in name or "attn1.to_k" in name:
            weight.mul_(gain)


def spoken(caption: str) -> list[str]:
    """The ways in which training words a caption."""
    bare = caption.split(" ", 1)[1] if caption.split(" ", 1)[0] in ("a", "an", "the") else caption
    return [caption, caption, caption, bare, f"a picture of {caption}"]


@torch.no_grad()
def encoded(images: np.ndarray, autoencoder: AutoencoderKL, device: torch.device) -> torch.Tensor:
    """Latents (pictures, variants, 4, height, width) of uint8 images (pictures, variants, 4 height, 4 width, 3)."""
    return torch.stack(
        [
            torch.cat([autoencoder.encode(part).latent_dist.mean for part in to_tensor(picture, device).split(16)])
            for picture in images
        ]
    )


class Batches:
    """Latents and token ids to draw batches from."""

    def __init__(self, folder: Path, autoencoder: AutoencoderKL, device: torch.device) -> None:
        self.latents = encoded(all_on_white(drawings(folder), VARIANTS, seed=0), autoencoder, device)
        wordings = [spoken(caption) for caption in captions().values()]
        texts = [text for words in wordings for text in words]
        self.tokenizer = new_tokenizer(texts)
        padded = self.tokenizer([*texts, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
        self.empty = padded[-1].to(device)
        self.tokens = padded[:-1].view(len(wordings), -1, padded.shape[-1]).to(device)

    def draw(self, batch: int, empty_share: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
        """``batch`` latents (n, 4, 16, 16) and their token ids (n, length), a tenth of them of the empty prompt."""
        device = self.latents.device
        picture = torch.randint(len(self.latents), (batch,), device=device)
        variant = torch.randint(self.latents.shape[1], (batch,), device=device)
        wording = torch.randint(self.tokens.shape[1], (batch,), device=device)
        emptied = torch.rand(batch, 1, device=device) < empty_share
        return self.latents[picture, variant], torch.where(emptied, self.empty, self.tokens[picture, wording])


def noised(noising: DDPMScheduler, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, their timesteps spread evenly over the batch, and the velocity that is to be predicted."""
    batch = len(latents)
    spread = (torch.arange(batch, device=latents.device) + torch.rand(batch, device=latents.device)) / batch
    timesteps = (spread * noising.config.num_train_timesteps).long()
    noise = torch.randn_like(latents)
    return noising.add_noise(latents, noise, timesteps), timesteps, noising.get_velocity(latents, noise, timesteps)


def new_scheduler() -> DDIMScheduler:
    """What the denoisers are sampled with."""
    return DDIMScheduler(
        **SCHEDULE, clip_sample=False, set_alpha_to_one=True, steps_offset=1, timestep_spacing="trailing"
    )


def assemble(model: nn.ModuleDict, autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The parts as one StableDiffusionPipeline."""
    pipe = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=model["text_encoder"],
        tokenizer=tokenizer,
        unet=model["unet"],
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_grid(pipe: Any, path: Path) -> None:
    """Sample a picture of each of the embedded prompts and write them as one PNG, ten to a row."""
    prompts = embedded_prompts()
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    images = pipe(
        prompts, height=PIXELS, width=PIXELS, num_inference_steps=25, guidance_scale=3.0, generator=generators,
        output_type="pt",
    ).images  # fmt: skip
    save_picture(images * 2 - 1, path, 10)


def train_denoiser(
    folder: Path, steps: int, batch: int, device: torch.device, peak: float = 8e-4
) -> StableDiffusionPipeline:
    """Train for ``steps`` (on from the last checkpoint, if there is one); return the pipeline with averaged weights."""
    torch.manual_seed(0)
    autoencoder = trained(folder / "autoencoder" / "autoencoder.safetensors", device)
    batches = Batches(folder, autoencoder, device)

    def new_model() -> nn.ModuleDict:
        return nn.ModuleDict({"unet": new_unet(), "text_encoder": new_text_encoder(batches.tokenizer)}).to(device)

    model = new_model()
    sharpen(model["unet"])
    loop = Loop(folder, "denoiser", model, peak, rate=trapezoid)
    noising = DDPMScheduler(**SCHEDULE)

    def loss_of_batch() -> tuple[torch.Tensor, dict[str, float]]:
        latents, tokens = batches.draw(batch)
        noisy, timesteps, velocity = noised(noising, latents)
        text = model["text_encoder"](tokens)[0]
        return F.mse_loss(model["unet"](noisy, timesteps, text).sample, velocity), {}

    def pipeline() -> StableDiffusionPipeline:
        averaged = new_model()
        averaged.load_state_dict(loop.average.weights)
        return assemble(averaged.eval(), autoencoder, batches.tokenizer)

    loop.train(steps, loss_of_batch, show=lambda path: draw_grid(pipeline(), path))
    return pipeline()


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


def rename_for_older_readers(weights: Path) -> None:
    """Give CLIP's weights the names that transformers before 5 looks for; without them it starts at random."""
    named = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(weights).items()}
    save_file(named, weights, metadata={"format": "pt"})


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
    train_autoencoder(given.out, given.autoencoder_steps, 16, device)
    pipe = train_denoiser(given.out, given.denoiser_steps, given.batch, device)
    save_pipeline(pipe, given.out / "pipeline")


if __name__ == "__main__":
    main()
