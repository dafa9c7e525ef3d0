"""Transformers that attend to the picture and to the text in turn."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..seeds import generator
from .family import Family, ready, sharpened


def flow() -> Any:
    """The scheduler of most."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler()


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
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(
        **blocks, block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, sample_size=32
    ).eval()


def build_dit() -> Any:
    """A DiT of 8 x 8 tokens."""
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=16
    )
    return ready(DiTPipeline(peaked(transformer), small_vae(), DDIMScheduler()))


def sample_dit(pipe: Any) -> Tensor:
    """Two classes."""
    return pipe(
        [3, 7], guidance_scale=3.0, generator=generator(), num_inference_steps=2, output_type="pt"
    ).images  # fmt: skip


def pixart(sample_size: int) -> Any:
    """A PixArt transformer; at ``sample_size`` 128 it is told size and aspect ratio."""
    from diffusers import PixArtTransformer2DModel

    torch.manual_seed(0)
    return peaked(
        PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24, caption_channels=16, num_layers=2,
            sample_size=sample_size, in_channels=4, out_channels=8,
        )
    )  # fmt: skip


def build_pixart_pag() -> Any:
    """PixArt-Sigma with perturbed-attention guidance: a third branch, of which one layer computes no attention."""
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPAGPipeline

    scheduler = DPMSolverMultistepScheduler(thresholding=True)
    layer = {"pag_applied_layers": "transformer_blocks.0"}
    return ready(PixArtSigmaPAGPipeline(None, None, None, pixart(16), scheduler, **layer))


def build_pixart_alpha() -> Any:
    """PixArt-alpha."""
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline

    return ready(PixArtAlphaPipeline(None, None, None, pixart(128), DPMSolverMultistepScheduler(thresholding=True)))


def build_pixart_sigma() -> Any:
    """PixArt-Sigma."""
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline

    return ready(PixArtSigmaPipeline(None, None, None, pixart(16), DPMSolverMultistepScheduler(thresholding=True)))


def sample_pixart(pipe: Any) -> Tensor:
    """Two prompts, at 6 x 8 tokens."""
    return pipe(
        **prompts(11, 16, batch=2), negative_prompt=None, height=96, width=128, num_inference_steps=2,
        guidance_scale=3.0, generator=generator(), use_resolution_binning=False, output_type="latent",
    ).images  # fmt: skip


def hunyuan_dit() -> dict[str, Any]:
    """The parts of Hunyuan-DiT; the fourth block takes a skip connection."""
    from diffusers import DDPMScheduler, HunyuanDiT2DModel

    torch.manual_seed(0)
    transformer = HunyuanDiT2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2, sample_size=16, hidden_size=16,
        num_layers=4, cross_attention_dim=16, cross_attention_dim_t5=32, pooled_projection_dim=8, text_len=7,
        text_len_t5=13,
    )  # fmt: skip
    none = dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    parts = {"transformer": peaked(transformer), "scheduler": DDPMScheduler(), "requires_safety_checker": False}
    return none | parts


def build_hunyuan_dit() -> Any:
    """Hunyuan-DiT."""
    from diffusers import HunyuanDiTPipeline

    return ready(HunyuanDiTPipeline(**hunyuan_dit()))


def build_hunyuan_dit_pag() -> Any:
    """Hunyuan-DiT with perturbed-attention guidance."""
    from diffusers import HunyuanDiTPAGPipeline

    return ready(HunyuanDiTPAGPipeline(**hunyuan_dit(), pag_applied_layers="blocks.1"))


def sample_hunyuan_dit(pipe: Any) -> Tensor:
    """Two texts a prompt, one from each encoder; at 6 x 8 tokens."""
    return pipe(
        **prompts(7, 16), **prompts(13, 32, suffix="_2", seed=3), height=96, width=128, num_inference_steps=2,
        guidance_scale=3.0, generator=generator(), use_resolution_binning=False, output_type="latent",
    ).images  # fmt: skip


def build_lumina() -> Any:
    """Lumina-Next, with half as many key heads as query heads."""
    from diffusers import LuminaNextDiT2DModel, LuminaPipeline

    torch.manual_seed(0)
    transformer = LuminaNextDiT2DModel(
        sample_size=16, hidden_size=16, num_layers=2, num_attention_heads=2, num_kv_heads=1, multiple_of=8,
        cross_attention_dim=12,
    )  # fmt: skip
    torch.nn.init.normal_(transformer.pad_token)
    for layer in transformer.layers:
        torch.nn.init.ones_(layer.gate)
    return ready(LuminaPipeline(peaked(transformer), flow(), None, None, None))


def sample_lumina(pipe: Any) -> Tensor:
    """Two prompts, at 6 x 8 tokens; its logits are scaled for the count of tokens."""
    return pipe(
        **prompts(11, 12, batch=2), height=96, width=128, num_inference_steps=2, guidance_scale=3.0,
        generator=generator(), output_type="latent",
    ).images  # fmt: skip


def sana(**options: Any) -> Any:
    """A Sana transformer: linear attention to the image, the usual one to the text."""
    from diffusers import SanaTransformer2DModel

    torch.manual_seed(0)
    return peaked(
        SanaTransformer2DModel(
            in_channels=4, out_channels=4, num_attention_heads=4, attention_head_dim=4, num_layers=2,
            num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=12,
            sample_size=8, **options,
        )
    )  # fmt: skip


def build_sana() -> Any:
    """Sana."""
    from diffusers import SanaPipeline

    return ready(SanaPipeline(None, None, None, sana(), flow()))


def sample_sana(pipe: Any, height: int = 192, width: int = 256) -> Tensor:
    """Two prompts, at 6 x 8 tokens."""
    return pipe(
        **prompts(11, 12, batch=2), negative_prompt=None, height=height, width=width, num_inference_steps=2,
        guidance_scale=3.0, generator=generator(), use_resolution_binning=False, output_type="latent",
    ).images  # fmt: skip


def build_sana_pag() -> Any:
    """Sana with perturbed-attention guidance."""
    from diffusers import SanaPAGPipeline

    return ready(SanaPAGPipeline(None, None, None, sana(), flow()))


def sample_sana_pag(pipe: Any) -> Tensor:
    """Two prompts, at 8 x 12 tokens."""
    return sample_sana(pipe, 64, 96)


def build_sana_sprint() -> Any:
    """Sana Sprint, which is told the guidance scale."""
    from diffusers import SanaSprintPipeline, SCMScheduler

    transformer = sana(guidance_embeds=True, qk_norm="rms_norm_across_heads")
    return ready(SanaSprintPipeline(None, None, None, transformer, SCMScheduler()))


def sample_sana_sprint(pipe: Any) -> Tensor:
    """Two prompts, at 6 x 8 tokens."""
    return pipe(
        **positive(prompts(11, 12, batch=2)), height=192, width=256, num_inference_steps=2, guidance_scale=3.0,
        generator=generator(), use_resolution_binning=False, output_type="latent",
    ).images  # fmt: skip


def build_amused() -> Any:
    """Amused, whose latents are the indices of 6 x 8 pictured tokens."""
    from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel

    torch.manual_seed(0)
    transformer = UVit2DModel(
        hidden_size=16, cond_embed_dim=8, micro_cond_encode_dim=4, micro_cond_embed_dim=20, encoder_hidden_size=12,
        vocab_size=33, codebook_size=32, in_channels=16, block_out_channels=16, num_res_blocks=1, block_num_heads=2,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, sample_size=8,
    )  # fmt: skip
    return ready(AmusedPipeline(None, None, None, peaked(transformer), AmusedScheduler(mask_token_id=32)))


def sample_amused(pipe: Any) -> Tensor:
    """Two prompts, pooled and by token."""
    texts = {}
    for seed, name in enumerate(("", "negative_")):
        texts[f"{name}prompt_embeds"] = torch.randn(2, 8, generator=generator(seed))
        texts[f"{name}encoder_hidden_states"] = torch.randn(2, 11, 12, generator=generator(seed + 2))
    return pipe(
        **texts, height=48, width=64, num_inference_steps=2, guidance_scale=3.0, generator=generator(),
        output_type="latent",
    ).images  # fmt: skip


PAG = ("cond", "uncond", "perturbed")

FAMILIES = [
    Family("DiT", "DiTPipeline", build_dit, sample_dit, (32, 32)),
    Family("PixArt-alpha", "PixArtAlphaPipeline", build_pixart_alpha, sample_pixart, (96, 128)),
    Family("PixArt-Sigma", "PixArtSigmaPipeline", build_pixart_sigma, sample_pixart, (96, 128)),
    Family("Hunyuan-DiT", "HunyuanDiTPipeline", build_hunyuan_dit, sample_hunyuan_dit, (96, 128)),
    Family("Lumina-Next", "LuminaPipeline", build_lumina, sample_lumina, (96, 128)),
    Family("Sana", "SanaPipeline", build_sana, sample_sana, (192, 256)),
    Family("PixArt-Sigma, PAG", "PixArtSigmaPAGPipeline", build_pixart_pag, sample_pixart, (96, 128), PAG),
    Family("Hunyuan-DiT, PAG", "HunyuanDiTPAGPipeline", build_hunyuan_dit_pag, sample_hunyuan_dit, (96, 128), PAG),
    Family("Sana, PAG", "SanaPAGPipeline", build_sana_pag, sample_sana_pag, (64, 96), PAG),
    Family("Amused", "AmusedPipeline", build_amused, sample_amused, (48, 64)),
    Family("Sana Sprint", "SanaSprintPipeline", build_sana_sprint, sample_sana_sprint, (192, 256), ("cond",)),
]
