"""More image pipelines whose attention is joint: with padding, registers, cached keys or lists of tokens."""

from functools import partial
from typing import Any

import torch

from ..seeds import generator
from .family import Family, first, last
from .joint_parts import (
    CHANNELS,
    TEXT_WIDTH,
    VAE,
    WordTokenizer,
    family,
    guided,
    having,
    lazy,
    photo,
    pooled,
    texts,
    words,
)


def hidream_call() -> dict[str, Any]:
    """Embeddings of HiDream's two text encoders, of every layer of the second, and pooled ones."""
    arguments = {"pooled_prompt_embeds": pooled(1), "negative_pooled_prompt_embeds": pooled(2)}
    llama = {"prompt_embeds_llama3": words(5, 5, 2), "negative_prompt_embeds_llama3": words(6, 5, 2)}
    llama = {name: embeds[:, None] for name, embeds in llama.items()}
    return arguments | texts(7, seed=2, suffix="_t5") | llama


def two_texts(prompts: int, first: tuple[tuple[int, ...], ...], second: tuple[tuple[int, ...], ...]) -> dict[str, Any]:
    """Embeddings of 9 and of 4 tokens by two text encoders, and the lengths by each."""
    both = partial(texts, mask="prompt_embeds_mask", prompts=prompts)
    return both(9, *first) | both(4, *second, seed=2, suffix="_2")


def mixed_guidance() -> Any:
    from diffusers.guiders import AdaptiveProjectedMixGuidance

    return AdaptiveProjectedMixGuidance()


def codes(seed: int, tokens: int) -> torch.Tensor:
    """Random tokens of the codebook of GLM-Image: (1, tokens)."""
    return torch.randint(20, (1, tokens), generator=generator(seed))


def glm_image_call(**more: Any) -> dict[str, Any]:
    """Arguments of GLM-Image: embeddings of glyphs and the tokens of its prior."""
    return texts(10) | {"prior_token_ids": codes(3, 96)} | more


LUMINA2 = {
    "in_channels": 4, "hidden_size": 32, "num_attention_heads": 4, "num_kv_heads": 2, "multiple_of": 8,
    "axes_dim_rope": (4, 2, 2), "axes_lens": (64, 16, 16),
}  # fmt: skip
Z_IMAGE = {
    "in_channels": 4, "dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
    "cap_feat_dim": TEXT_WIDTH, "axes_dims": [4, 6, 6], "axes_lens": [128, 16, 16],
}  # fmt: skip
HIDREAM = {
    "patch_size": 2, "in_channels": 4, "num_layers": 1, "num_single_layers": 1, "num_routed_experts": 2,
    "num_activated_experts": 1, "caption_channels": [TEXT_WIDTH] * 2, "max_resolution": (16, 16),
    "llama_layers": [0, 1],
}  # fmt: skip
OMNIGEN = {
    "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "pad_token_id": 2, "vocab_size": 64,
    "rope_scaling": {"short_factor": [1.0] * 4, "long_factor": [1.0] * 4}, "time_step_dim": 16,
}  # fmt: skip
OMNIGEN_MODULES = {
    "transformer": ("OmniGenTransformer2DModel", OMNIGEN), "vae": lazy("AutoencoderKL", **VAE),
    "tokenizer": WordTokenizer,
}  # fmt: skip
HUNYUAN_IMAGE = CHANNELS | {"num_layers": 1, "num_single_layers": 1, "rope_axes_dim": (4, 4)}
PRX = {"in_channels": 4, "hidden_size": 16, "num_heads": 2, "depth": 2, "axes_dim": [4, 4]}
GLM_IMAGE = CHANNELS | {"prior_vq_quantizer_codebook_size": 20}

FAMILIES: list[Family] = [
    family(
        "Lumina Image 2.0", "Lumina2Pipeline", texts(14, (14, 9), (5, 5), prompts=2),
        transformer=("Lumina2Transformer2DModel", LUMINA2),
    ),
    family(
        "Z-Image", "ZImagePipeline", guided(lambda seed: [words(seed, 70 - 30 * seed)[0], words(seed + 4, 11)[0]]),
        parts={"image": (0, 48)}, transformer=("ZImageTransformer2DModel", Z_IMAGE),
    ),
    family(
        "CogView3-Plus", "CogView3PlusPipeline", texts(11), parts=first(11), scheduler="CogVideoXDDIMScheduler",
        transformer=("CogView3PlusTransformer2DModel", CHANNELS),
    ),
    family(
        "CogView4", "CogView4Pipeline", texts(16), parts=first(16),
        transformer=("CogView4Transformer2DModel", CHANNELS | {"rope_axes_dim": (16, 16)}),
    ),
    family(
        "HiDream-I1", "HiDreamImagePipeline", hidream_call(),
        parts={"image": (0, 48), "other": (48, 64), "text": (64, 81)},
        transformer=("HiDreamImageTransformer2DModel", HIDREAM), prepare=having(default_sample_size=14),
    ),
    family(
        "OmniGen", "OmniGenPipeline", {"prompt": ["a cat", "a dog that sleeps on a red chair"]},
        parts={"text": (0, -49), "other": (-49, -48), "image": (-48, None)}, **OMNIGEN_MODULES,
    ),
    family(
        "OmniGen, input image", "OmniGenPipeline",
        {"prompt": "a cat like <img><|image_1|></img>", "input_images": [photo(64, 80)]},
        branches=("cond", "uncond", "uncond 2"), parts={"image": (-48, None)}, **OMNIGEN_MODULES,
    ),
    family(
        "HunyuanImage 2.1", "HunyuanImagePipeline", two_texts(2, ((9, 5), (2, 2)), ((0, 3), (1, 0))), (192, 256),
        parts=last(13), transformer=("HunyuanImageTransformer2DModel", HUNYUAN_IMAGE), guider=mixed_guidance,
        ocr_guider=mixed_guidance,
    ),
    family(
        "PRX", "PRXPipeline", texts(10, (10,), (3,)) | {"use_resolution_binning": False}, parts=first(10),
        transformer=("PRXTransformer2DModel", PRX),
    ),
    family(
        "GLM-Image", "GlmImagePipeline", glm_image_call(), (128, 192), parts=first(10),
        transformer=("GlmImageTransformer2DModel", GLM_IMAGE),
    ),
    # it sees the reference in a forward that belongs to no step
    family(
        "GLM-Image, reference image", "GlmImagePipeline",
        glm_image_call(
            image=[[photo(64, 80)]], prior_token_image_ids=[codes(4, 20)[0]],
            source_image_grid_thw=[torch.tensor([[1, 4, 5]])],
        ),
        (128, 192), parts=first(10), comparable=False, transformer=("GlmImageTransformer2DModel", GLM_IMAGE),
        vae=lazy("AutoencoderKL", **VAE, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4),
    ),
]  # fmt: skip
