"""Transformers, other than those like Wan, that attend to the video and to the text in turn."""

from functools import partial
from typing import Any

import torch

from .family import NUMBERED, PERTURBED, Family, sharpened
from .joint_parts import CHANNELS, TEXT_WIDTH, family, having, lazy, named, pooled, texts, words


class Unchecked(torch.nn.Module):
    """Stands where Cosmos insists on a safety checker; latents are not shown to it."""

    device, dtype = torch.device("cpu"), torch.float32


ltx2_vae = lazy(
    "AutoencoderKLLTX2Video", latent_channels=4, block_out_channels=(4,), decoder_block_out_channels=(4,),
    layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,),
    decoder_spatio_temporal_scaling=(True,), down_block_types=("LTX2VideoDownBlock3D",),
    decoder_inject_noise=(False, False), downsample_type=("spatial",), upsample_type=("spatiotemporal",),
    upsample_residual=(True,), upsample_factor=(1,), spatial_compression_ratio=32, temporal_compression_ratio=8,
)  # fmt: skip
"""The VAE of videos, of which only the statistics of latents are used."""
ltx2_audio_vae = lazy(
    "AutoencoderKLLTX2Audio", base_channels=8, ch_mult=(1,), num_res_blocks=1, latent_channels=2, mel_bins=16
)


SIZES = {"attention_head_dim": 8, "num_attention_heads": 2, "num_layers": 1, "num_learnable_registers": 11}
ltx2_connectors = lazy(
    "pipelines.ltx2.LTX2TextConnectors", caption_channels=16, text_proj_in_factor=2,
    **{f"{kind}_connector_{name}": size for kind in ("video", "audio") for name, size in SIZES.items()},
)  # fmt: skip
"""What makes the texts of video and of sound from one: it attends, but it is no denoiser."""
LTX2 = CHANNELS | {
    "attention_head_dim": 12, "cross_attention_dim": 24, "audio_in_channels": 8, "audio_out_channels": 8,
    "audio_num_attention_heads": 2, "audio_attention_head_dim": 8, "audio_cross_attention_dim": 16,
    "caption_channels": 16,
}  # fmt: skip
"""Video and sound attend to themselves, to the text, and to each other."""


def ltx2_call(scale: float) -> dict[str, Any]:
    """At 2 x 4 x 6 tokens of video; guided away from what comes of leaving out the last block's self-attention."""
    stg = {"stg_scale": scale, "audio_stg_scale": scale, "spatio_temporal_guidance_blocks": [1]}
    scales = {"modality_scale": 1.0, "audio_modality_scale": 1.0, "audio_guidance_scale": 4.0, "num_frames": 9}
    return texts(11, (9,), (6,)) | stg | scales


KANDINSKY5 = {
    "time_dim": 16, "model_dim": 24, "ff_dim": 32, "num_text_blocks": 1, "num_visual_blocks": 2, "axes_dims": (4, 4, 4),
}  # fmt: skip
"""A block that attends within the text, then blocks of video and text."""
SPARSE = KANDINSKY5 | {
    "attention_type": "nabla", "attention_method": "topcdf", "attention_wT": 1, "attention_wH": 1, "attention_wW": 1,
    "attention_P": 0.5, "attention_add_sta": True,
}  # fmt: skip
"""Flex attention, on which the video's tokens are sorted in squares of 8 x 8."""


def kandinsky5_call() -> dict[str, Any]:
    """Embeddings, pooled embeddings and lengths of a prompt and of its negative, which is shorter."""
    arguments: dict[str, Any] = {}
    for seed, (name, tokens) in enumerate((("prompt", 11), ("negative_prompt", 7))):
        arguments[f"{name}_embeds_qwen"], arguments[f"{name}_embeds_clip"] = words(seed, tokens), pooled(seed + 2)
        arguments[f"{name}_cu_seqlens"] = torch.tensor([0, tokens])
    return arguments


def ungated(config: dict[str, Any]) -> Any:
    """Kandinsky 5 with its gates at zero, as when its training begins: both branches return the same."""
    torch.manual_seed(0)
    texts = {"in_text_dim": TEXT_WIDTH, "in_text_dim2": TEXT_WIDTH}
    return sharpened(named("Kandinsky5Transformer3DModel", **config, **texts))


def on_flex(pipe: Any) -> None:
    for block in pipe.transformer.visual_transformer_blocks:
        block.self_attention.processor._attention_backend = "flex"


COSMOS = CHANNELS | {"attention_head_dim": 12, "mlp_ratio": 2, "adaln_lora_dim": 4, "max_size": (8, 16, 16)}
edm = partial(named, "EDMEulerScheduler", sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, sigma_schedule="karras")
LATTE = {
    "in_channels": 4, "out_channels": 8, "cross_attention_dim": 16, "sample_size": 8, "patch_size": 2,
    "norm_type": "ada_norm_single", "video_length": 5, "norm_elementwise_affine": False, "attention_bias": True,
}  # fmt: skip
"""Blocks that attend within a frame and to the text, and blocks that attend over time."""
ALLEGRO = {
    "attention_head_dim": 12, "cross_attention_dim": 24, "sample_height": 8, "sample_width": 12, "sample_frames": 2,
}  # fmt: skip
SANA_VIDEO = CHANNELS | {
    "attention_head_dim": 12, "num_cross_attention_heads": 2, "cross_attention_head_dim": 12, "cross_attention_dim": 24,
}  # fmt: skip
"""Linear attention to the video, the usual one to the text."""

SMALL_SIZE = (64, 96)
masked = texts(11, (9, 8), (6, 5), prompts=2)
unmasked = texts(11, prompts=2)
UNASKED = {"negative_prompt": None}
FAMILIES: list[Family] = [
    family(
        "LTX", "LTXPipeline", masked | {"num_frames": 9}, (128, 192),
        transformer=("LTXVideoTransformer3DModel", CHANNELS | {"attention_head_dim": 12, "cross_attention_dim": 24}),
    ),
    family(
        "LTX-2", "LTX2Pipeline", ltx2_call(0.0), (128, 192), vae=ltx2_vae, audio_vae=ltx2_audio_vae,
        connectors=ltx2_connectors, transformer=("LTX2VideoTransformer3DModel", LTX2),
    ),
    family(
        "LTX-2, STG", "LTX2Pipeline", ltx2_call(1.0), (128, 192), PERTURBED, vae=ltx2_vae, audio_vae=ltx2_audio_vae,
        connectors=ltx2_connectors, transformer=("LTX2VideoTransformer3DModel", LTX2 | {"perturbed_attn": True}),
    ),
    # Its scheduler steps both branches, before they are combined.
    family(
        "Cosmos", "CosmosTextToWorldPipeline", unmasked | {"num_frames": 9}, SMALL_SIZE, NUMBERED, scheduler=edm,
        transformer=("CosmosTransformer3DModel", COSMOS), safety_checker=Unchecked,
    ),
    family(
        "Cosmos 2", "Cosmos2TextToImagePipeline", unmasked, safety_checker=Unchecked,
        transformer=("CosmosTransformer3DModel", COSMOS | {"extra_pos_embed_type": None}),
        scheduler=partial(named, "FlowMatchEulerDiscreteScheduler", use_karras_sigmas=True),
    ),
    # Its scheduler draws noise at each step.
    family(
        "Allegro", "AllegroPipeline", texts(11, (9,), (6,)) | {"num_frames": 8} | UNASKED, SMALL_SIZE,
        transformer=("AllegroTransformer3DModel", ALLEGRO),
        scheduler=partial(named, "EulerAncestralDiscreteScheduler", beta_end=0.002),
    ),
    family(
        "Latte", "LattePipeline", unmasked | {"video_length": 5, "guidance_scale": 3.0} | UNASKED, SMALL_SIZE,
        scheduler="DDIMScheduler",
        transformer=("LatteTransformer3DModel", LATTE),
    ),
    family(
        "Kandinsky 5 video", "Kandinsky5T2VPipeline", kandinsky5_call() | {"num_frames": 5}, SMALL_SIZE, NUMBERED,
        transformer=partial(ungated, KANDINSKY5),
    ),
    family(
        "Kandinsky 5 video, sparse", "Kandinsky5T2VPipeline", kandinsky5_call() | {"num_frames": 5}, (128, 256),
        NUMBERED, transformer=partial(ungated, SPARSE), prepare=on_flex,
    ),
    family(
        "Kandinsky 5", "Kandinsky5T2IPipeline", kandinsky5_call(), branches=NUMBERED,
        transformer=partial(ungated, KANDINSKY5), prepare=having(resolutions=[(128, 96)]),
    ),
    family(
        "Sana Video", "SanaVideoPipeline",
        masked | {"frames": 5, "use_resolution_binning": False} | UNASKED, SMALL_SIZE,
        transformer=("SanaVideoTransformer3DModel", SANA_VIDEO),
    ),
]  # fmt: skip
