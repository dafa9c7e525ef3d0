"""More image pipelines whose attention is joint: with padding, registers, cached keys or lists of tokens."""

from typing import Any

import torch

from ..seeds import generator
from .family import Family
from .joint_parts import (
    HEADS,
    TEXT_WIDTH,
    WordTokenizer,
    cog_video_x_scheduler,
    guided,
    image_vae,
    joint,
    kept,
    photo,
    pooled,
    words,
)


def hidream_call() -> dict[str, Any]:
    """Arguments of HiDream: embeddings of its two text encoders, of every layer of the second, and pooled ones."""
    arguments = {"pooled_prompt_embeds": pooled(1), "negative_pooled_prompt_embeds": pooled(2)}
    arguments |= {"prompt_embeds_t5": words(3, 7), "negative_prompt_embeds_t5": words(4, 7)}
    llama = {"prompt_embeds_llama3": words(5, 5, 2), "negative_prompt_embeds_llama3": words(6, 5, 2)}
    return arguments | {name: embeds[:, None] for name, embeds in llama.items()}


def omnigen_modules() -> dict[str, Any]:
    return image_vae() | {"tokenizer": WordTokenizer()}


def hunyuan_image_call() -> dict[str, Any]:
    """Arguments of HunyuanImage: embeddings and masks of its two text encoders."""
    first = guided(lambda seed: words(seed, 9, 2), kept(9, 9, 5), kept(9, 2, 2), mask="prompt_embeds_mask")
    second = guided(lambda seed: words(seed + 2, 4, 2), kept(4, 0, 3), kept(4, 1, 0), mask="prompt_embeds_mask")
    return first | {f"{name}_2": value for name, value in second.items()}


def mixed_guidance() -> dict[str, Any]:
    from diffusers.guiders import AdaptiveProjectedMixGuidance

    return {"guider": AdaptiveProjectedMixGuidance(), "ocr_guider": AdaptiveProjectedMixGuidance()}


def codes(seed: int, tokens: int) -> torch.Tensor:
    """Random tokens of the codebook of GLM-Image: (1, tokens)."""
    return torch.randint(20, (1, tokens), generator=generator(seed))


def glm_image_call(**more: Any) -> dict[str, Any]:
    """Arguments of GLM-Image: embeddings of glyphs and the tokens of its prior."""
    return guided(lambda seed: words(seed, 10)) | {"prior_token_ids": codes(3, 96)} | more


def glm_reference_call() -> dict[str, Any]:
    """Arguments of GLM-Image for one reference image."""
    image = {"image": [[photo(64, 80)]], "prior_token_image_ids": [codes(4, 20)[0]]}
    return glm_image_call(**image, source_image_grid_thw=[torch.tensor([[1, 4, 5]])])


CHANNELS = {"in_channels": 4, "out_channels": 4}
LUMINA2 = {
    "in_channels": 4, "hidden_size": 32, "num_layers": 2, "num_refiner_layers": 1, "num_attention_heads": 4,
    "num_kv_heads": 2, "multiple_of": 8, "axes_dim_rope": (4, 2, 2), "axes_lens": (64, 16, 16),
    "cap_feat_dim": TEXT_WIDTH,
}  # fmt: skip
Z_IMAGE = {
    "in_channels": 4, "dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
    "cap_feat_dim": TEXT_WIDTH, "axes_dims": [4, 6, 6], "axes_lens": [128, 16, 16],
}  # fmt: skip
COG_VIEW = HEADS | CHANNELS | {
    "num_layers": 2, "text_embed_dim": TEXT_WIDTH, "time_embed_dim": 8, "condition_dim": 4, "pos_embed_max_size": 16,
    "sample_size": 16,
}  # fmt: skip
HIDREAM = HEADS | {
    "patch_size": 2, "in_channels": 4, "num_layers": 1, "num_single_layers": 1,
    "caption_channels": [TEXT_WIDTH, TEXT_WIDTH], "text_emb_dim": TEXT_WIDTH, "num_routed_experts": 2,
    "num_activated_experts": 1, "axes_dims_rope": (2, 2, 4), "max_resolution": (16, 16), "llama_layers": [0, 1],
}  # fmt: skip
OMNIGEN = {
    "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 16, "num_layers": 2,
    "pad_token_id": 2, "vocab_size": 64, "rope_scaling": {"short_factor": [1.0] * 4, "long_factor": [1.0] * 4},
    "pos_embed_max_size": 16, "time_step_dim": 16,
}  # fmt: skip
HUNYUAN_IMAGE = HEADS | CHANNELS | {
    "num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1, "text_embed_dim": TEXT_WIDTH,
    "text_embed_2_dim": TEXT_WIDTH, "rope_axes_dim": (4, 4),
}  # fmt: skip
PRX = {
    "in_channels": 4, "context_in_dim": TEXT_WIDTH, "hidden_size": 16, "num_heads": 2, "depth": 2, "axes_dim": [4, 4],
}  # fmt: skip
GLM_IMAGE = HEADS | CHANNELS | {
    "num_layers": 2, "text_embed_dim": TEXT_WIDTH, "time_embed_dim": 8, "condition_dim": 4,
    "prior_vq_quantizer_codebook_size": 20,
}  # fmt: skip

FAMILIES: list[Family] = [
    joint(
        "Lumina Image 2.0", "Lumina2Pipeline", "Lumina2Transformer2DModel", LUMINA2,
        lambda: guided(lambda seed: words(seed, 14, 2), kept(14, 14, 9), kept(14, 5, 5)),
    ),
    joint(
        "Z-Image", "ZImagePipeline", "ZImageTransformer2DModel", Z_IMAGE,
        lambda: guided(lambda seed: [words(seed, 70 - 30 * seed)[0], words(seed + 4, 11)[0]]), parts={"image": (0, 48)},
    ),
    joint(
        "CogView3-Plus", "CogView3PlusPipeline", "CogView3PlusTransformer2DModel", COG_VIEW,
        lambda: guided(lambda seed: words(seed, 11)), text=(11, "first"), scheduler=cog_video_x_scheduler,
    ),
    joint(
        "CogView4", "CogView4Pipeline", "CogView4Transformer2DModel", COG_VIEW | {"rope_axes_dim": (16, 16)},
        lambda: guided(lambda seed: words(seed, 16)), text=(16, "first"),
    ),
    joint(
        "HiDream-I1", "HiDreamImagePipeline", "HiDreamImageTransformer2DModel", HIDREAM, hidream_call,
        settings={"default_sample_size": 14}, parts={"image": (0, 48), "other": (48, 64), "text": (64, 81)},
    ),
    joint(
        "OmniGen", "OmniGenPipeline", "OmniGenTransformer2DModel", OMNIGEN,
        lambda: {"prompt": ["a cat", "a dog that sleeps on a red chair"]}, modules=omnigen_modules,
        parts={"text": (0, -49), "other": (-49, -48), "image": (-48, None)},
    ),
    joint(
        "OmniGen, input image", "OmniGenPipeline", "OmniGenTransformer2DModel", OMNIGEN,
        lambda: {"prompt": "a cat like <img><|image_1|></img>", "input_images": [photo(64, 80)]},
        branches=("cond", "uncond", "uncond 2"), modules=omnigen_modules, parts={"image": (-48, None)},
    ),
    joint(
        "HunyuanImage 2.1", "HunyuanImagePipeline", "HunyuanImageTransformer2DModel", HUNYUAN_IMAGE, hunyuan_image_call,
        size=(192, 256), text=(13, "last"), modules=mixed_guidance,
    ),
    joint(
        "PRX", "PRXPipeline", "PRXTransformer2DModel", PRX,
        lambda: guided(lambda seed: words(seed, 10), kept(10, 10), kept(10, 3)) | {"use_resolution_binning": False},
        text=(10, "first"),
    ),
    joint(
        "GLM-Image", "GlmImagePipeline", "GlmImageTransformer2DModel", GLM_IMAGE, glm_image_call, size=(128, 192),
        text=(10, "first"),
    ),
    # it sees the reference in a forward that belongs to no step
    joint(
        "GLM-Image, reference image", "GlmImagePipeline", "GlmImageTransformer2DModel", GLM_IMAGE, glm_reference_call,
        size=(128, 192), modules=lambda: image_vae(latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4), text=(10, "first"),
        comparable=False,
    ),
]  # fmt: skip
