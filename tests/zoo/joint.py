"""Image pipelines whose attention is joint: text and image tokens among the same keys."""

from typing import Any

import torch

from .family import Family
from .joint_parts import (
    HEADS,
    TEXT_WIDTH,
    WordTokenizer,
    flux_call,
    guided,
    image_vae,
    joint,
    kept,
    photo,
    pooled_call,
    tiny,
    words,
)


def flux2_vae() -> dict[str, Any]:
    return image_vae("AutoencoderKLFlux2")


def qwen_vae() -> dict[str, Any]:
    """A VAE that makes images 128 times smaller: Qwen-Image-Edit blows every input image up to 1024x1024 pixels."""
    sizes = {"base_dim": 2, "dim_mult": [1] * 8, "num_res_blocks": 0, "temperal_downsample": [False] * 7}
    return {
        "vae": tiny("AutoencoderKLQwenImage", sizes | {"z_dim": 4, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4})
    }


def longcat_modules() -> dict[str, Any]:
    """A language model and a tokenizer for LongCat-Image."""
    from transformers import Qwen2Config, Qwen2Model

    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16}
    model = Qwen2Model(Qwen2Config(vocab_size=64, hidden_size=TEXT_WIDTH, **sizes))
    return {"text_encoder": model.eval(), "tokenizer": WordTokenizer()}


def longcat_call() -> dict[str, Any]:
    """Arguments of LongCat-Image, which insists on encoding the prompts itself."""
    prompts = {"prompt": ["a cat", "a dog that sleeps"], "negative_prompt": ["", "red"]}
    return prompts | {"enable_prompt_rewrite": False}


SD3 = HEADS | {
    "sample_size": 16, "in_channels": 4, "out_channels": 4, "num_layers": 3, "pos_embed_max_size": 16,
    "joint_attention_dim": TEXT_WIDTH, "caption_projection_dim": 16, "pooled_projection_dim": TEXT_WIDTH,
}  # fmt: skip
SD35 = SD3 | {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"}
MMDIT = HEADS | {
    "in_channels": 16, "num_layers": 1, "num_single_layers": 2, "joint_attention_dim": TEXT_WIDTH,
    "axes_dims_rope": (2, 2, 4),
}  # fmt: skip
FLUX = MMDIT | {"pooled_projection_dim": TEXT_WIDTH}
FLUX2 = MMDIT | {"timestep_guidance_channels": 16, "axes_dims_rope": (2, 2, 2, 2)}
KLEIN = FLUX2 | {"guidance_embeds": False}
CHROMA = MMDIT | {"approximator_num_channels": 16, "approximator_hidden_dim": 16, "approximator_layers": 1}
QWEN = HEADS | {
    "in_channels": 16, "out_channels": 4, "num_layers": 2, "joint_attention_dim": TEXT_WIDTH,
    "axes_dims_rope": (2, 2, 4),
}  # fmt: skip
AURA_FLOW = HEADS | {
    "sample_size": 16, "in_channels": 4, "out_channels": 4, "num_mmdit_layers": 1, "num_single_dit_layers": 2,
    "joint_attention_dim": TEXT_WIDTH, "caption_projection_dim": 16, "pos_embed_max_size": 256,
}  # fmt: skip
SKIPPING = {"skip_guidance_layers": [1], "skip_layer_guidance_start": -1.0, "skip_layer_guidance_stop": 1.0}
FAMILIES: list[Family] = [
    joint(
        "Stable Diffusion 3", "StableDiffusion3Pipeline", "SD3Transformer2DModel", SD3, lambda: pooled_call(2),
        text=(10, "last"),
    ),
    joint(
        "Stable Diffusion 3.5", "StableDiffusion3Pipeline", "SD3Transformer2DModel", SD35, pooled_call,
        text=(10, "last"),
    ),
    joint(
        "Stable Diffusion 3.5, skip-layer guidance", "StableDiffusion3Pipeline", "SD3Transformer2DModel", SD35,
        lambda: pooled_call(**SKIPPING), branches=("cond", "uncond", "perturbed"), text=(10, "last"),
    ),
    joint(
        "FLUX.1", "FluxPipeline", "FluxTransformer2DModel", FLUX | {"guidance_embeds": True}, flux_call,
        branches=("cond",), text=(10, "first"),
    ),
    joint(
        "FLUX.1, true guidance", "FluxPipeline", "FluxTransformer2DModel", FLUX,
        lambda: pooled_call(2, true_cfg_scale=3.0), text=(10, "first"),
    ),
    joint(
        "FLUX.1 Kontext", "FluxKontextPipeline", "FluxTransformer2DModel",
        FLUX | {"guidance_embeds": True, "in_channels": 64},
        lambda: flux_call(image=words(5, 8, 16, 8)[None], max_area=96 * 128), branches=("cond",),
        parts={"text": (0, 10), "image": (10, 58), "reference": (58, 74)},
    ),
    joint(
        "FLUX.2", "Flux2Pipeline", "Flux2Transformer2DModel", FLUX2,
        lambda: {"prompt_embeds": words(1, 10), "image": photo(64, 80)}, branches=("cond",), modules=flux2_vae,
        parts={"text": (0, 10), "image": (10, 58), "reference": (58, 78)},
    ),
    joint(
        "FLUX.2 klein", "Flux2KleinPipeline", "Flux2Transformer2DModel", KLEIN,
        lambda: guided(lambda seed: words(seed, 10)), modules=flux2_vae, text=(10, "first"),
    ),
    joint(
        "FLUX.2 klein, cached reference", "Flux2KleinKVPipeline", "Flux2Transformer2DModel", KLEIN,
        lambda: {"prompt_embeds": words(1, 10), "image": photo(64, 80)}, branches=("cond",), modules=flux2_vae,
        text=(10, "first"),
    ),
    joint(
        "Chroma", "ChromaPipeline", "ChromaTransformer2DModel", CHROMA,
        lambda: guided(lambda seed: words(seed, 12, 2), kept(12, 12, 7), kept(12, 3, 3)), text=(12, "first"),
    ),
    joint(
        "AuraFlow", "AuraFlowPipeline", "AuraFlowTransformer2DModel", AURA_FLOW,
        lambda: guided(lambda seed: words(seed, 11), kept(11, 11), kept(11, 4)),
        parts={"other": (0, 8), "text": (8, 19), "image": (19, 67)},
    ),
    joint(
        "Qwen-Image", "QwenImagePipeline", "QwenImageTransformer2DModel", QWEN,
        lambda: guided(
            lambda seed: words(seed, 15 - seed, 2), kept(14, 14, 9), kept(13, 6, 5), mask="prompt_embeds_mask"
        ),
        parts={"text": (0, -48), "image": (-48, None)},
    ),
    joint(
        "Qwen-Image-Edit", "QwenImageEditPipeline", "QwenImageTransformer2DModel", QWEN,
        lambda: (
            guided(lambda seed: words(seed, 14), kept(14, 14), kept(14, 5), mask="prompt_embeds_mask")
            | {"image": photo(64, 64)}
        ),
        size=(1536, 2048), modules=qwen_vae, parts={"text": (0, 14), "image": (14, 62), "reference": (62, 78)},
    ),
    joint(
        "Bria 3.2", "BriaPipeline", "BriaTransformer2DModel", MMDIT, lambda: guided(lambda seed: words(seed, 10)),
        modules=lambda: image_vae(shift_factor=0.0), text=(10, "first"),
    ),
    joint(
        "Ovis-Image", "OvisImagePipeline", "OvisImageTransformer2DModel", MMDIT | {"out_channels": 16},
        lambda: guided(lambda seed: words(seed, 10, 2)) | {"negative_prompt": None}, text=(10, "first"),
    ),
    joint(
        "LongCat-Image", "LongCatImagePipeline", "LongCatImageTransformer2DModel", MMDIT | {"in_channels": 64},
        longcat_call, modules=longcat_modules, settings={"tokenizer_max_length": 12}, text=(12, "first"),
    ),
]  # fmt: skip
