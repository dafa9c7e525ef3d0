"""What U-Nets and their pipelines are built of, tiny."""

from functools import partial
from typing import Any

import torch

from ..seeds import normal
from .joint_parts import encoder, family, named, new, pooled, texts

WIDTH, TOKENS = 16, 7
"""Width and number of the text tokens of most families here."""
SIZE = (64, 96)
"""Height and width of most pictures here: 8 x 12 latents [pixels]."""
XL_SIZE = (128, 192)
UNET = {
    "layers_per_block": 1, "block_out_channels": (16, 32), "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "cross_attention_dim": WIDTH, "attention_head_dim": 2, "norm_num_groups": 8,
}  # fmt: skip


def prompts(batch: int = 1, width: int = WIDTH, *lengths: tuple[int, ...], **options: Any) -> dict[str, torch.Tensor]:
    """Embeddings of ``batch`` prompts and of as many negative ones, and their masks where there are ``lengths``."""
    return texts(TOKENS, *lengths, prompts=batch, width=width, **options)


def pools(batch: int = 1) -> dict[str, torch.Tensor]:
    """Pooled embeddings of ``batch`` prompts and of as many negative ones."""
    return {f"{name}pooled_prompt_embeds": pooled(3 + len(name), batch, WIDTH) for name in ("", "negative_")}


def picture(size: tuple[int, int] = SIZE) -> torch.Tensor:
    """A random picture with values in [0, 1]."""
    return normal(1, 3, *size, seed=5).sigmoid()


def ddim(**settings: Any) -> Any:
    """The scheduler of most families here."""
    return named("DDIMScheduler", **{"steps_offset": 1, "clip_sample": False} | settings)


def unet(**settings: Any) -> Any:
    """A U-Net of two levels with self- and cross-attention, 2 heads; ``settings`` differ by family."""
    usual = UNET | {"sample_size": 8, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    return new("UNet2DConditionModel", **usual | settings)


def vae(levels: int = 4) -> Any:
    """A VAE that makes latents ``2 ** (levels - 1)`` times smaller than pictures, with attention in it."""
    return new(
        "AutoencoderKL", down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, block_out_channels=(8,) * levels, norm_num_groups=4,
    )  # fmt: skip


def tokenizer() -> Any:
    """A CLIPTokenizer of 24 tokens."""
    from recipes.text import new_tokenizer

    return new_tokenizer(["a red car", "a blue house"])


def text_encoder(model_class: str = "CLIPTextModel") -> Any:
    """A CLIP text encoder, 128 wide, for ``tokenizer()``."""
    import transformers

    from recipes.text import new_text_encoder

    torch.manual_seed(0)
    return new(getattr(transformers, model_class), config=new_text_encoder(tokenizer()).config)


def vision_model(width: int, hidden: int = 8) -> Any:
    """A CLIP image encoder whose embeddings are so wide."""
    return encoder(
        "CLIPVisionModelWithProjection", hidden_size=hidden, intermediate_size=hidden, projection_dim=width,
        num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16,
    )  # fmt: skip


stable = partial(family, size=SIZE, scheduler=ddim, unet=unet)
"""A family that differs from Stable Diffusion in what is said."""
