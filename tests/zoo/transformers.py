"""Transformers that attend to the picture and to the text in turn."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..seeds import generator
from .family import Family, sharpened
from .joint_parts import assembled, named
from .joint_parts import flow_matching as flow


@contextmanager
def uncompiled_flex() -> Iterator[None]:
    """Silence about flex attention that is not compiled."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile", UserWarning)
        yield


NORMS = ("norm_q", "norm_k", "q_norm", "k_norm", "query_norm", "key_norm", "norm_added_k")


def peaked(model: Any) -> Any:
    """``sharpened``, also where queries and keys are normed after their projections."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if set(NORMS).intersection(name.split(".")):
                weight.mul_(2.0)
    return sharpened(model)


def model(kind: str, **settings: Any) -> Any:
    """The model of diffusers that is called so, ``peaked``; the same random weights whenever it is made."""
    torch.manual_seed(0)
    return peaked(named(kind, **settings))


def sampled(pipe: Any, **arguments: Any) -> Tensor:
    """What ``pipe`` samples in two steps, with guidance, as latents, unless the arguments say otherwise."""
    usual = {"num_inference_steps": 2, "guidance_scale": 3.0, "generator": generator(), "output_type": "latent"}
    return pipe(return_dict=False, **usual | arguments)[0]


def prompts(
    tokens: int, width: int, batch: int = 1, masked: bool = True, suffix: str = "", seed: int = 1
) -> dict[str, Tensor]:
    """Embeddings of ``batch`` prompts and of as many negative ones, as pipelines name them, and their padding masks."""
    arguments = {}
    for number, name in enumerate(("prompt", "negative_prompt")):
        shape = (batch, tokens, width)
        arguments[f"{name}_embeds{suffix}"] = torch.randn(shape, generator=generator(seed + number))
        if masked:
            kept = torch.tensor([tokens - 2 - 3 * number - sample for sample in range(batch)])
            arguments[f"{name}_attention_mask{suffix}"] = (torch.arange(tokens) < kept[:, None]).long()
    return arguments


def positive(arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of ``prompts`` that are not of the negative prompts."""
    return {name: value for name, value in arguments.items() if not name.startswith("negative")}


def small_vae() -> Any:
    """A Stable Diffusion VAE that halves the size, with attention in it."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": (8, 8), "latent_channels": 4, "norm_num_groups": 4, "sample_size": 32}
    return named("AutoencoderKL", **blocks, **sizes).eval()


def build_dit() -> Any:
    """A DiT of 8 x 8 tokens."""
    transformer = model(
        "DiTTransformer2DModel", num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8,
        num_layers=2, sample_size=16,
    )  # fmt: skip
    return assembled("DiTPipeline", transformer=transformer, vae=small_vae(), scheduler=named("DDIMScheduler"))


def pixart(pipeline: str, sample_size: int, **options: Any) -> Any:
    """A pipeline of PixArt; at ``sample_size`` 128 its transformer is told size and aspect ratio."""
    transformer = model(
        "PixArtTransformer2DModel", num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24,
        caption_channels=16, num_layers=2, sample_size=sample_size, in_channels=4, out_channels=8,
    )  # fmt: skip
    scheduler = named("DPMSolverMultistepScheduler", thresholding=True)
    return assembled(pipeline, transformer=transformer, scheduler=scheduler, **options)


def sample_pixart(pipe: Any) -> Tensor:
    """Two prompts, at 6 x 8 tokens."""
    size = {"height": 96, "width": 128, "use_resolution_binning": False}
    return sampled(pipe, **prompts(11, 16, batch=2), negative_prompt=None, **size)


def hunyuan_dit(pipeline: str, **options: Any) -> Any:
    """A pipeline of Hunyuan-DiT; the fourth block takes a skip connection."""
    transformer = model(
        "HunyuanDiT2DModel", num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2, sample_size=16,
        hidden_size=16, num_layers=4, cross_attention_dim=16, cross_attention_dim_t5=32, pooled_projection_dim=8,
        text_len=7, text_len_t5=13,
    )  # fmt: skip
    parts = {"transformer": transformer, "scheduler": named("DDPMScheduler"), "requires_safety_checker": False}
    return assembled(pipeline, **parts, **options)


def sample_hunyuan_dit(pipe: Any) -> Tensor:
    """Two texts a prompt, one from each encoder; at 6 x 8 tokens."""
    size = {"height": 96, "width": 128, "use_resolution_binning": False}
    return sampled(pipe, **prompts(7, 16), **prompts(13, 32, suffix="_2", seed=3), **size)


def build_lumina() -> Any:
    """Lumina-Next, with half as many key heads as query heads."""
    torch.manual_seed(0)
    transformer = named(
        "LuminaNextDiT2DModel", sample_size=16, hidden_size=16, num_layers=2, num_attention_heads=2, num_kv_heads=1,
        multiple_of=8, cross_attention_dim=12,
    )  # fmt: skip
    torch.nn.init.normal_(transformer.pad_token)
    for layer in transformer.layers:
        torch.nn.init.ones_(layer.gate)
    return assembled("LuminaPipeline", transformer=peaked(transformer), scheduler=flow())


def sana(pipeline: str, scheduler: str = "FlowMatchEulerDiscreteScheduler", **options: Any) -> Any:
    """A pipeline of Sana: linear attention to the image, the usual one to the text."""
    transformer = model(
        "SanaTransformer2DModel", in_channels=4, out_channels=4, num_attention_heads=4, attention_head_dim=4,
        num_layers=2, num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
        caption_channels=12, sample_size=8, **options,
    )  # fmt: skip
    return assembled(pipeline, transformer=transformer, scheduler=named(scheduler))


def sample_sana(pipe: Any, height: int = 192, width: int = 256, chosen: Any = dict) -> Tensor:
    """Two prompts, at 6 x 8 tokens; ``chosen`` are those of the texts that are handed over."""
    texts = chosen(prompts(11, 12, batch=2) | {"negative_prompt": None})
    return sampled(pipe, **texts, height=height, width=width, use_resolution_binning=False)


def build_amused() -> Any:
    """Amused, whose latents are the indices of 6 x 8 pictured tokens."""
    transformer = model(
        "UVit2DModel", hidden_size=16, cond_embed_dim=8, micro_cond_encode_dim=4, micro_cond_embed_dim=20,
        encoder_hidden_size=12, vocab_size=33, codebook_size=32, in_channels=16, block_out_channels=16,
        num_res_blocks=1, block_num_heads=2, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        sample_size=8,
    )  # fmt: skip
    return assembled("AmusedPipeline", transformer=transformer, scheduler=named("AmusedScheduler", mask_token_id=32))


def sample_amused(pipe: Any) -> Tensor:
    """Two prompts, pooled and by token."""
    texts = {}
    for seed, name in enumerate(("", "negative_")):
        texts[f"{name}prompt_embeds"] = torch.randn(2, 8, generator=generator(seed))
        texts[f"{name}encoder_hidden_states"] = torch.randn(2, 11, 12, generator=generator(seed + 2))
    return sampled(pipe, **texts, height=48, width=64)


PAG = ("cond", "uncond", "perturbed")
SPRINT = {"scheduler": "SCMScheduler", "guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}
"""Sana Sprint is told the guidance scale."""

FAMILIES = [
    Family(
        "DiT", "DiTPipeline", build_dit, lambda pipe: sampled(pipe, class_labels=[3, 7], output_type="pt"), (32, 32),
    ),
    Family(
        "PixArt-alpha", "PixArtAlphaPipeline", partial(pixart, "PixArtAlphaPipeline", 128), sample_pixart, (96, 128),
    ),
    Family("PixArt-Sigma", "PixArtSigmaPipeline", partial(pixart, "PixArtSigmaPipeline", 16), sample_pixart, (96, 128)),
    Family(
        "Hunyuan-DiT", "HunyuanDiTPipeline", partial(hunyuan_dit, "HunyuanDiTPipeline"), sample_hunyuan_dit, (96, 128),
    ),
    Family(
        "Lumina-Next", "LuminaPipeline", build_lumina,
        lambda pipe: sampled(pipe, **prompts(11, 12, batch=2), height=96, width=128), (96, 128),
    ),
    Family("Sana", "SanaPipeline", partial(sana, "SanaPipeline"), sample_sana, (192, 256)),
    Family(
        "PixArt-Sigma, PAG", "PixArtSigmaPAGPipeline",
        partial(pixart, "PixArtSigmaPAGPipeline", 16, pag_applied_layers="transformer_blocks.0"),
        sample_pixart, (96, 128), PAG,
    ),
    Family(
        "Hunyuan-DiT, PAG", "HunyuanDiTPAGPipeline",
        partial(hunyuan_dit, "HunyuanDiTPAGPipeline", pag_applied_layers="blocks.1"),
        sample_hunyuan_dit, (96, 128), PAG,
    ),
    Family(
        "Sana, PAG", "SanaPAGPipeline", partial(sana, "SanaPAGPipeline"), partial(sample_sana, height=64, width=96),
        (64, 96), PAG,
    ),
    Family("Amused", "AmusedPipeline", build_amused, sample_amused, (48, 64)),
    Family(
        "Sana Sprint", "SanaSprintPipeline", partial(sana, "SanaSprintPipeline", **SPRINT),
        partial(sample_sana, chosen=positive), (192, 256), ("cond",),
    ),
]  # fmt: skip
