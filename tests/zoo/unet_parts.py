"""What U-Nets and their pipelines are built of, tiny, and how they are asked to sample."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..seeds import generator, normal
from .joint_parts import named, tiny

WIDTH, TOKENS = 16, 7
"""Width and number of the text tokens of most families here."""
SIZE = (64, 96)
"""Height and width of most pictures here: 8 x 12 latents [pixels]."""
UNCHECKED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def new(kind: str | Callable[..., Any], **settings: Any) -> Any:
    """``tiny``, or the same of a class that is no name of diffusers."""
    return tiny(kind, settings)


def prompts(batch: int = 1, width: int = WIDTH, tokens: int = TOKENS) -> dict[str, Tensor]:
    """Embeddings of ``batch`` prompts and of as many negative ones."""
    shape = (batch, tokens, width)
    return {"prompt_embeds": normal(*shape, seed=1), "negative_prompt_embeds": normal(*shape, seed=2)}


def two_steps(pipe: Any, **arguments: Any) -> Tensor:
    """What ``pipe`` samples in two steps, with guidance unless the arguments say otherwise."""
    batch = len(arguments.get("prompt_embeds", "?"))
    generators = [generator(index) for index in range(batch)]
    arguments = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent"} | arguments
    return pipe(generator=generators if batch > 1 else generators[0], return_dict=False, **arguments)[0]


def at(size: tuple[int, int]) -> dict[str, int]:
    """``size`` as pipelines take it."""
    return {"height": size[0], "width": size[1]}


def ddim(**settings: Any) -> Any:
    """The scheduler of most families here."""
    return named("DDIMScheduler", **{"steps_offset": 1, "clip_sample": False} | settings)


def unet(**settings: Any) -> Any:
    """A U-Net of two levels with self- and cross-attention, 2 heads; ``settings`` differ by family."""
    usual = {
        "sample_size": 8, "layers_per_block": 1, "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "cross_attention_dim": WIDTH, "attention_head_dim": 2, "norm_num_groups": 8,
    }  # fmt: skip
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


def pooled(batch: int = 1) -> dict[str, Tensor]:
    """Pooled embeddings of ``batch`` prompts and of as many negative ones."""
    shape = (batch, WIDTH)
    return {"pooled_prompt_embeds": normal(*shape, seed=3), "negative_pooled_prompt_embeds": normal(*shape, seed=4)}


def picture(size: tuple[int, int] = SIZE) -> Tensor:
    """A random picture with values in [0, 1]."""
    return normal(1, 3, *size, seed=5).sigmoid()


XL_SIZE = (128, 192)
