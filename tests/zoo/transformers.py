"""Transformers that attend to the picture and to the text in turn."""

from functools import partial
from typing import Any

import torch

from .family import PERTURBED, Family
from .joint_parts import CHANNELS, TEXT_WIDTH, family, lazy, named, pooled, sized, texts, words

small_vae = lazy(
    "AutoencoderKL", down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, sample_size=32,
)  # fmt: skip
"""A VAE that halves the size, with attention in it."""

PIXART = {"attention_head_dim": 12, "cross_attention_dim": 24, "in_channels": 4, "out_channels": 8}
HUNYUAN_DIT = {
    "in_channels": 4, "patch_size": 2, "hidden_size": 16, "num_layers": 4, "cross_attention_dim": 16,
    "cross_attention_dim_t5": 32, "pooled_projection_dim": 8, "text_len": 7, "text_len_t5": 13,
}  # fmt: skip
"""The fourth block takes a skip connection."""
SANA = CHANNELS | {
    "num_attention_heads": 4, "attention_head_dim": 4, "num_cross_attention_heads": 2, "cross_attention_head_dim": 8,
    "cross_attention_dim": 16, "sample_size": 8,
}  # fmt: skip
SPRINT = SANA | {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}
"""Told the guidance scale."""
AMUSED = {
    "hidden_size": 16, "cond_embed_dim": 8, "micro_cond_encode_dim": 4, "micro_cond_embed_dim": 20,
    "encoder_hidden_size": 12, "vocab_size": 33, "codebook_size": 32, "in_channels": 16, "block_out_channels": 16,
    "num_res_blocks": 1, "block_num_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32, "sample_size": 8,
}  # fmt: skip


def lumina_next() -> Any:
    """Half as many key heads as query heads; gates to the text that are open."""
    sizes = {"hidden_size": 16, "num_kv_heads": 1, "multiple_of": 8, "cross_attention_dim": TEXT_WIDTH}
    model = sized("LuminaNextDiT2DModel", **sizes)
    for layer in model.layers:
        torch.nn.init.ones_(layer.gate)
    return model


UNBINNED = {"negative_prompt": None, "use_resolution_binning": False}
masked = texts(11, (9, 8), (6, 5), prompts=2)
two = texts(7, (5,), (2,), width=16) | texts(13, (11,), (8,), width=32, seed=2, suffix="_2") | UNBINNED
AMUSED_TEXTS = {
    "prompt_embeds": pooled(0, 2, 8), "negative_prompt_embeds": pooled(1, 2, 8),
    "encoder_hidden_states": words(2, 11, 2, 12), "negative_encoder_hidden_states": words(3, 11, 2, 12),
}  # fmt: skip
solver = partial(named, "DPMSolverMultistepScheduler", thresholding=True)
pixart = partial(family, call=masked | UNBINNED, scheduler=solver, transformer=("PixArtTransformer2DModel", PIXART))
hunyuan = partial(family, call=two, scheduler="DDPMScheduler", transformer=("HunyuanDiT2DModel", HUNYUAN_DIT))
sana = partial(family, call=masked | UNBINNED, transformer=("SanaTransformer2DModel", SANA))

FAMILIES: list[Family] = [
    family(
        "DiT", "DiTPipeline", {"class_labels": [3, 7], "output_type": "pt"}, (32, 32), scheduler="DDIMScheduler",
        transformer=("DiTTransformer2DModel", {"in_channels": 4, "out_channels": 8}), vae=small_vae,
    ),
    # told size and aspect ratio
    pixart(
        "PixArt-alpha", "PixArtAlphaPipeline",
        transformer=("PixArtTransformer2DModel", PIXART | {"sample_size": 128}),
    ),
    pixart("PixArt-Sigma", "PixArtSigmaPipeline"),
    hunyuan("Hunyuan-DiT", "HunyuanDiTPipeline"),
    family("Lumina-Next", "LuminaPipeline", masked, transformer=lumina_next),
    sana("Sana", "SanaPipeline", size=(192, 256)),
    pixart(
        "PixArt-Sigma, PAG", "PixArtSigmaPAGPipeline", branches=PERTURBED, pag_applied_layers=["transformer_blocks.0"],
    ),
    hunyuan("Hunyuan-DiT, PAG", "HunyuanDiTPAGPipeline", branches=PERTURBED, pag_applied_layers=["blocks.1"]),
    sana("Sana, PAG", "SanaPAGPipeline", size=(64, 96), branches=PERTURBED),
    family(
        "Amused", "AmusedPipeline", AMUSED_TEXTS, (48, 64), transformer=("UVit2DModel", AMUSED),
        scheduler=partial(named, "AmusedScheduler", mask_token_id=32),
    ),
    family(
        "Sana Sprint", "SanaSprintPipeline",
        {name: value for name, value in masked.items() if name.startswith("prompt")}
        | {"use_resolution_binning": False}, (192, 256), ("cond",), scheduler="SCMScheduler",
        transformer=("SanaTransformer2DModel", SPRINT),
    ),
]  # fmt: skip
