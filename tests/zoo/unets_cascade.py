"""Stable Cascade, Würstchen and unCLIP: priors and decoders."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..seeds import generator, normal
from .family import Family
from .joint_parts import assembled, named
from .unet_parts import TOKENS, WIDTH, at, new, prompts, text_encoder, tokenizer, two_steps, unet
from .unets_kandinsky import ADDED, new_prior

ddpm = partial(named, "DDPMWuerstchenScheduler")


def pooled(tokens: int = 1) -> dict[str, Tensor]:
    """Pooled embeddings of a prompt and of a negative one, as Stable Cascade takes them."""
    names = ("prompt_embeds_pooled", "negative_prompt_embeds_pooled")
    return {name: normal(1, tokens, WIDTH, seed=3 + number) for number, name in enumerate(names)}


def cascade(**settings: Any) -> Any:
    usual = {
        "in_channels": 4, "out_channels": 4, "timestep_ratio_embedding_dim": 8, "conditioning_dim": 32,
        "block_out_channels": (32, 32), "num_attention_heads": (2, 2), "down_num_layers_per_block": (1, 1),
        "up_num_layers_per_block": (1, 1), "clip_text_pooled_in_channels": WIDTH,
    }  # fmt: skip
    return new("StableCascadeUNet", **usual | settings)


def build_cascade_prior() -> Any:
    """Stable Cascade's prior: image tokens attend to themselves and to 7 + 4 + 4 of text and image behind them."""
    prior = cascade(clip_text_in_channels=WIDTH, clip_image_in_channels=12, switch_level=(False,))
    return assembled("StableCascadePriorPipeline", text_encoder=text_encoder(), prior=prior, scheduler=ddpm())


def sample_cascade_prior(pipe: Any) -> Tensor:
    """One prompt and an image, for 6 x 9 tokens."""
    image = {"image_embeds": normal(1, 1, 12, seed=5)}
    return two_steps(pipe, **at((256, 384)), **prompts(), **pooled(), **image, output_type="pt")


def build_cascade_decoder() -> Any:
    """Stable Cascade's decoder: no attention at its first level."""
    blocks = ("SDCascadeResBlock", "SDCascadeTimestepBlock")
    decoder = cascade(
        patch_size=2, block_out_channels=(16, 32), num_attention_heads=(-1, 2),
        block_types_per_layer=(blocks, (*blocks, "SDCascadeAttnBlock")), timestep_conditioning_type=("sca",),
        effnet_in_channels=4,
    )  # fmt: skip
    return assembled("StableCascadeDecoderPipeline", decoder=decoder, scheduler=ddpm())


def sample_cascade_decoder(pipe: Any) -> Tensor:
    """One prompt, for 8 x 10 tokens."""
    arguments = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "latent", "generator": generator()}
    return pipe(normal(1, 4, 3, 4, seed=6), **prompts(), **pooled(), **arguments).images


def build_wuerstchen_prior() -> Any:
    """Würstchen's prior: image tokens attend to themselves and to text behind them, without SDPA."""
    from diffusers.pipelines.deprecated.wuerstchen import WuerstchenPrior

    prior = new(WuerstchenPrior, c_in=4, c=32, c_cond=WIDTH, c_r=8, depth=2, nhead=2)
    return assembled("WuerstchenPriorPipeline", text_encoder=text_encoder(), prior=prior, scheduler=ddpm())


def build_wuerstchen() -> Any:
    from diffusers.pipelines.deprecated.wuerstchen import WuerstchenDiffNeXt

    decoder = new(
        WuerstchenDiffNeXt, c_r=8, c_cond=WIDTH, c_hidden=[16, 32], nhead=[-1, 2], blocks=[1, 1],
        level_config=["CT", "CTA"], inject_effnet=[False, True], effnet_embd=4, clip_embd=128,
    )  # fmt: skip
    parts = {"tokenizer": tokenizer(), "text_encoder": text_encoder(), "decoder": decoder}
    return assembled("WuerstchenDecoderPipeline", **parts, scheduler=ddpm())


def sample_wuerstchen(pipe: Any) -> Tensor:
    """One prompt, for 8 x 16 tokens."""
    arguments = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "latent", "generator": generator()}
    return pipe(normal(1, 4, 3, 6, seed=6), "a red car", **arguments).images


def build_unclip() -> Any:
    """unCLIP: a prior, a decoder, and two U-Nets that enlarge."""
    from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel

    decoder = unet(**ADDED, sample_size=16, in_channels=3, out_channels=6, class_embed_type="identity")
    larger = partial(
        new, "UNet2DModel", sample_size=32, in_channels=6, out_channels=6, block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1, norm_num_groups=8,
    )  # fmt: skip
    project = new(UnCLIPTextProjModel, clip_embeddings_dim=128, time_embed_dim=64, cross_attention_dim=WIDTH)
    words = {"text_encoder": text_encoder("CLIPTextModelWithProjection"), "tokenizer": tokenizer()}
    parts = {"prior": new_prior(), "decoder": decoder, "text_proj": project}
    parts |= {"super_res_first": larger(), "super_res_last": larger()}
    learned = partial(named, "UnCLIPScheduler", variance_type="learned_range")
    prior = named("UnCLIPScheduler", prediction_type="sample", clip_sample_range=5.0)
    schedulers = {"prior_scheduler": prior, "decoder_scheduler": learned(), "super_res_scheduler": learned()}
    return assembled("UnCLIPPipeline", **words, **parts, **schedulers)


def sample_unclip(pipe: Any) -> Tensor:
    """Two prompts, two steps of each part."""
    steps = dict.fromkeys(("prior", "decoder", "super_res"), 2)
    arguments = {f"{part}_num_inference_steps": count for part, count in steps.items()}
    generators = [generator(0), generator(1)]
    prompt = ["a red car", "a blue house"]
    return torch.as_tensor(pipe(prompt, generator=generators, output_type="np", **arguments).images)


FAMILIES = [
    Family(
        "Stable Cascade prior", "StableCascadePriorPipeline", build_cascade_prior, sample_cascade_prior, (256, 384),
        text=(TOKENS + 4 + 4, "last"),
    ),
    Family(
        "Stable Cascade decoder", "StableCascadeDecoderPipeline", build_cascade_decoder, sample_cascade_decoder,
        (128, 168), text=(4, "last"), asked=False,
    ),
    Family(
        "Würstchen prior", "WuerstchenPriorPipeline", build_wuerstchen_prior,
        lambda pipe: two_steps(pipe, **at((256, 384)), **prompts(2), output_type="pt"), (256, 384),
        text=(TOKENS, "last"),
    ),
    Family(
        "Würstchen decoder", "WuerstchenDecoderPipeline", build_wuerstchen, sample_wuerstchen, (128, 256),
        text=(24, "last"), asked=False,
    ),
    # of the prior
    Family(
        "unCLIP", "UnCLIPPipeline", build_unclip, sample_unclip, (32, 32), asked=False,
        parts={"text": (0, 24), "image": (26, 27)},
    ),
]  # fmt: skip
