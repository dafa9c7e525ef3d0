"""Stage 2 of the recipe: the text encoder and the U-Net, trained together on the latents of stage 1."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTokenizer

from .pictures import training_set
from .text import WIDTH, new_text_encoder, new_tokenizer
from .train_autoencoder import PIXELS, save_picture, to_tensor, trained
from .training import Average, Descent, Run

SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
LOGIT_VARIANCE = 2.25


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
    return torch.stack([autoencoder.encode(to_tensor(picture, device)).latent_dist.mean for picture in images])


class Batches:
    """Latents and token ids to draw batches from."""

    def __init__(self, folder: Path, autoencoder: AutoencoderKL, device: torch.device, variants: int = 48) -> None:
        images, captions = training_set(folder, PIXELS, variants)
        self.tokenizer = new_tokenizer([text for caption in captions for text in spoken(caption)])
        self.device = device
        self.latents = encoded(images, autoencoder, device)
        texts = [text for caption in captions for text in spoken(caption)] + [""]
        padded = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        self.empty = padded[-1].to(device)
        self.tokens = padded[:-1].view(len(captions), -1, padded.shape[-1]).to(device)

    def draw(self, batch: int, empty_share: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
        """``batch`` latents (n, 4, 16, 16) and their token ids (n, length), a tenth of them of the empty prompt."""
        picture = torch.randint(len(self.latents), (batch,), device=self.device)
        variant = torch.randint(self.latents.shape[1], (batch,), device=self.device)
        wording = torch.randint(self.tokens.shape[1], (batch,), device=self.device)
        tokens = self.tokens[picture, wording]
        emptied = torch.rand(batch, 1, device=self.device) < empty_share
        return self.latents[picture, variant], torch.where(emptied, self.empty, tokens)


def noised(noising: DDPMScheduler, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, their timesteps spread evenly over the batch, and the velocity that is to be predicted."""
    batch = len(latents)
    spread = (torch.arange(batch, device=latents.device) + torch.rand(batch, device=latents.device)) / batch
    timesteps = (spread * noising.config.num_train_timesteps).long()
    noise = torch.randn_like(latents)
    return noising.add_noise(latents, noise, timesteps), timesteps, noising.get_velocity(latents, noise, timesteps)


def loss_of(model: nn.ModuleDict, noising: DDPMScheduler, latents: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Squared error of the predicted velocity."""
    noisy, timesteps, velocity = noised(noising, latents)
    text = model["text_encoder"](tokens)[0]
    return F.mse_loss(model["unet"](noisy, timesteps, text).sample, velocity)


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


def draw_grid(pipe: Any, prompts: list[str], path: Path, pixels: int = PIXELS) -> None:
    """Sample one picture a prompt and write them as one PNG, ten to a row."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    images = pipe(
        prompts, height=pixels, width=pixels, num_inference_steps=25, guidance_scale=3.0, generator=generators,
        output_type="pt",
    ).images  # fmt: skip
    save_picture(images * 2 - 1, path, 10)


def train(
    folder: Path, steps: int, batch: int, device: torch.device, prompts: list[str], peak: float = 8e-4
) -> StableDiffusionPipeline:
    """Train for ``steps`` (continuing if there is a checkpoint); return the pipeline with averaged weights."""
    run = Run(folder, "denoiser")
    torch.manual_seed(0)
    autoencoder = trained(folder / "autoencoder" / "autoencoder.safetensors", device)
    batches = Batches(folder, autoencoder, device)
    unet = new_unet()
    sharpen(unet)
    model = nn.ModuleDict({"unet": unet, "text_encoder": new_text_encoder(batches.tokenizer)}).to(device)
    noising = DDPMScheduler(**SCHEDULE)
    descent = Descent(run, model, peak)

    def pipeline() -> StableDiffusionPipeline:
        return averaged(descent.average, autoencoder, batches.tokenizer, device)

    descent.train(
        steps,
        lambda: loss_of(model, noising, *batches.draw(batch)),
        lambda path: draw_grid(pipeline(), prompts, path),
    )
    return pipeline()


def averaged(
    average: Average, autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer, device: torch.device
) -> StableDiffusionPipeline:
    """A pipeline of its own with the averaged weights; training goes on undisturbed."""
    model = nn.ModuleDict({"unet": new_unet(), "text_encoder": new_text_encoder(tokenizer)}).to(device)
    model.load_state_dict(average.weights)
    return assemble(model.eval(), autoencoder, tokenizer)
