"""Kandinsky, its priors, and DeepFloyd IF."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..seeds import normal
from .family import Family
from .joint_parts import assembled, named
from .unet_parts import SIZE, TOKENS, WIDTH, at, new, prompts, text_encoder, tokenizer, two_steps, unet

ADDED = {
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), "attention_head_dim": 16,
    "resnet_time_scale_shift": "scale_shift",
}  # fmt: skip
"""Of U-Nets that attend to the image and to the text at once."""


ddpm = partial(named, "DDPMScheduler", variance_type="learned_range")
"""A scheduler for networks that predict a variance too."""


def movq() -> Any:
    """Kandinsky's autoencoder: latents 4 times smaller than pictures."""
    return new(
        "VQModel", block_out_channels=(8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4, num_vq_embeddings=8, norm_num_groups=4,
    )  # fmt: skip


def build_kandinsky() -> Any:
    """Kandinsky 2.1's decoder: its text stands behind 10 tokens of an image embedding."""
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    words = tokenizer()
    config = MCLIPConfig(
        transformerDimSize=24, imageDimSize=WIDTH, vocab_size=len(words), hidden_size=24, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=24, max_position_embeddings=80, pad_token_id=1,
    )  # fmt: skip
    model = unet(
        **ADDED, out_channels=8, encoder_hid_dim=24, encoder_hid_dim_type="text_image_proj",
        addition_embed_type="text_image",
    )  # fmt: skip
    parts = {"text_encoder": new(MultilingualCLIP, config=config), "tokenizer": words, "unet": model}
    return assembled("KandinskyPipeline", **parts, scheduler=ddpm(), movq=movq())


def build_kandinsky_22() -> Any:
    """Kandinsky 2.2's decoder: of text it knows the image embedding that the prior made."""
    model = unet(
        **ADDED, out_channels=8, encoder_hid_dim=12, encoder_hid_dim_type="image_proj", addition_embed_type="image"
    )
    return assembled("KandinskyV22Pipeline", unet=model, scheduler=ddpm(), movq=movq())


def images(batch: int, width: int) -> dict[str, Tensor]:
    """Image embeddings, as Kandinsky's priors make them."""
    return {"image_embeds": normal(batch, width, seed=3), "negative_image_embeds": normal(batch, width, seed=4)}


def build_kandinsky_3() -> Any:
    """Kandinsky 3: its text has a padding mask."""
    model = new(
        "Kandinsky3UNet", time_embedding_dim=16, groups=4, attention_head_dim=8, layers_per_block=2,
        block_out_channels=(8, 16, 16, 16), cross_attention_dim=WIDTH, encoder_hid_dim=24,
    )  # fmt: skip
    return assembled("Kandinsky3Pipeline", unet=model, scheduler=named("DDPMScheduler"))


def sample_kandinsky_3(pipe: Any) -> Tensor:
    """Two prompts, of 5 and 7 tokens, and negative ones of 3."""
    lengths = {"attention_mask": (5, 7), "negative_attention_mask": (3, 3)}
    masks = {name: torch.arange(TOKENS) < torch.tensor(kept)[:, None] for name, kept in lengths.items()}
    return two_steps(pipe, **at((192, 256)), **prompts(2, 24), **{name: mask.long() for name, mask in masks.items()})


def new_prior(**settings: Any) -> Any:
    """A prior: a transformer over 24 tokens of text, then an embedding of the text, the time, the image, a blank."""
    return new(
        "PriorTransformer", num_attention_heads=2, attention_head_dim=8, num_layers=2, embedding_dim=128,
        num_embeddings=24, **settings,
    )  # fmt: skip


def build_prior(name: str) -> Any:
    parts = {"tokenizer": tokenizer(), "prior": new_prior()}
    words = text_encoder("CLIPTextModelWithProjection")
    scheduler = named("UnCLIPScheduler", prediction_type="sample", clip_sample_range=5.0)
    return assembled(name, **parts, text_encoder=words, scheduler=scheduler)


def sample_prior(pipe: Any) -> Tensor:
    """A prompt and a negative prompt, which the pipeline makes a second sample of."""
    return two_steps(pipe, prompt="a red car", negative_prompt="a house of two floors", output_type="pt")


def build_if(name: str = "IFPipeline", **settings: Any) -> Any:
    usual = {
        "sample_size": 16, "in_channels": 3, "out_channels": 6, "encoder_hid_dim": 24,
        "encoder_hid_dim_type": "text_proj", "addition_embed_type": "text", "addition_embed_type_num_heads": 2,
        "cross_attention_dim": 32, "cross_attention_norm": "group_norm",
    }  # fmt: skip
    parts = {"requires_safety_checker": False, "scheduler": ddpm()}
    if "SuperResolution" in name:
        parts["image_noising_scheduler"] = named("DDPMScheduler")
    return assembled(name, **parts, unet=unet(**ADDED | usual | settings))


def sample_if(pipe: Any, **arguments: Any) -> Tensor:
    return two_steps(pipe, **at((16, 24)), **prompts(2, 24), output_type="pt", **arguments)


FAMILIES = [
    Family(
        "Kandinsky 2.1", "KandinskyPipeline", build_kandinsky,
        lambda pipe: two_steps(pipe, prompt="a red car", **at(SIZE), **images(1, WIDTH), output_type="pt"), SIZE,
        text=(10 + 77, "first"),
    ),
    Family(
        "Kandinsky 2.2", "KandinskyV22Pipeline", build_kandinsky_22,
        lambda pipe: two_steps(pipe, **at(SIZE), **images(1, 12)), SIZE, text=(32, "first"),
    ),
    Family("Kandinsky 3", "Kandinsky3Pipeline", build_kandinsky_3, sample_kandinsky_3, (192, 256)),
    Family(
        "Kandinsky 2.1 prior", "KandinskyPriorPipeline", partial(build_prior, "KandinskyPriorPipeline"), sample_prior,
        (1, 1), asked=False, parts={"text": (0, 24), "image": (26, 27)},
    ),
    Family(
        "Kandinsky 2.2 prior", "KandinskyV22PriorPipeline", partial(build_prior, "KandinskyV22PriorPipeline"),
        sample_prior, (1, 1), asked=False, parts={"text": (0, 24), "image": (26, 27)},
    ),
    Family("DeepFloyd IF", "IFPipeline", build_if, sample_if, (16, 24), text=(TOKENS, "first")),
    Family(
        "DeepFloyd IF, larger", "IFSuperResolutionPipeline",
        partial(build_if, "IFSuperResolutionPipeline", in_channels=6, class_embed_type="timestep"),
        partial(sample_if, image=normal(2, 3, 8, 12).tanh()), (16, 24), text=(TOKENS, "first"),
    ),
]  # fmt: skip
