"""Transformers, other than those like Wan, that attend to the video and to the text in turn."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..seeds import generator
from .family import NUMBERED, Family
from .joint_parts import assembled, named
from .joint_parts import flow_matching as flow
from .transformers import model, prompts, sampled, uncompiled_flex


class Unchecked(torch.nn.Module):
    """Stands where Cosmos insists on a safety checker; latents are not shown to it."""

    device, dtype = torch.device("cpu"), torch.float32


def build_ltx() -> Any:
    transformer = model(
        "LTXVideoTransformer3DModel", in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12,
        cross_attention_dim=24, num_layers=2, caption_channels=16,
    )  # fmt: skip
    return assembled("LTXPipeline", scheduler=flow(), transformer=transformer)


def ltx2_vaes() -> dict[str, Any]:
    """The two VAEs of LTX-2, of which only the statistics of latents are used."""
    from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video

    video = AutoencoderKLLTX2Video(
        latent_channels=4, block_out_channels=(4,), decoder_block_out_channels=(4,), layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,), decoder_spatio_temporal_scaling=(True,),
        down_block_types=("LTX2VideoDownBlock3D",), decoder_inject_noise=(False, False), downsample_type=("spatial",),
        upsample_type=("spatiotemporal",), upsample_residual=(True,), upsample_factor=(1,),
        spatial_compression_ratio=32, temporal_compression_ratio=8,
    )  # fmt: skip
    audio = AutoencoderKLLTX2Audio(base_channels=8, ch_mult=(1,), num_res_blocks=1, latent_channels=2, mel_bins=16)
    return {"vae": video.eval(), "audio_vae": audio.eval()}


def ltx2_connectors() -> Any:
    """What makes the texts of video and of sound from one: it attends, but it is no denoiser."""
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    sizes = {"attention_head_dim": 8, "num_attention_heads": 2, "num_layers": 1, "num_learnable_registers": 11}
    connectors = {f"{kind}_connector_{name}": size for kind in ("video", "audio") for name, size in sizes.items()}
    return LTX2TextConnectors(caption_channels=16, text_proj_in_factor=2, **connectors).eval()


def build_ltx2(perturbed: bool = False) -> Any:
    """LTX-2: video and sound attend to themselves, to the text, and to each other."""
    transformer = model(
        "LTX2VideoTransformer3DModel", in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12,
        cross_attention_dim=24, audio_in_channels=8, audio_out_channels=8, audio_num_attention_heads=2,
        audio_attention_head_dim=8, audio_cross_attention_dim=16, num_layers=2, caption_channels=16,
        perturbed_attn=perturbed,
    )  # fmt: skip
    parts = {"connectors": ltx2_connectors(), "transformer": transformer, "scheduler": flow()}
    return assembled("LTX2Pipeline", **ltx2_vaes(), **parts)


def sample_ltx2(pipe: Any, stg_scale: float = 0.0) -> Tensor:
    """At 2 x 4 x 6 tokens of video; guided away from what comes of leaving out the last block's self-attention."""
    stg = {"stg_scale": stg_scale, "audio_stg_scale": stg_scale, "spatio_temporal_guidance_blocks": [1]}
    scales = {"modality_scale": 1.0, "audio_modality_scale": 1.0, "audio_guidance_scale": 4.0}
    return sampled(pipe, **prompts(11, 32), **stg, **scales, height=128, width=192, num_frames=9)


def cosmos(pipeline: str, scheduler: Any, **options: Any) -> Any:
    transformer = model(
        "CosmosTransformer3DModel", in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12,
        num_layers=2, mlp_ratio=2, text_embed_dim=16, adaln_lora_dim=4, max_size=(8, 16, 16), **options,
    )  # fmt: skip
    return assembled(pipeline, transformer=transformer, scheduler=scheduler, safety_checker=Unchecked())


def build_cosmos() -> Any:
    sigmas = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "sigma_schedule": "karras"}
    return cosmos("CosmosTextToWorldPipeline", named("EDMEulerScheduler", **sigmas))


def build_cosmos2() -> Any:
    scheduler = named("FlowMatchEulerDiscreteScheduler", use_karras_sigmas=True)
    return cosmos("Cosmos2TextToImagePipeline", scheduler, extra_pos_embed_type=None)


def build_allegro() -> Any:
    """Allegro; its scheduler draws noise at each step."""
    transformer = model(
        "AllegroTransformer3DModel", num_attention_heads=2, attention_head_dim=12, num_layers=2,
        cross_attention_dim=24, sample_height=8, sample_width=12, sample_frames=2, caption_channels=16,
    )  # fmt: skip
    scheduler = named("EulerAncestralDiscreteScheduler", beta_end=0.002)
    return assembled("AllegroPipeline", transformer=transformer, scheduler=scheduler)


def build_latte() -> Any:
    """Latte: blocks that attend within a frame and to the text, and blocks that attend over time."""
    transformer = model(
        "LatteTransformer3DModel", num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8,
        num_layers=2, cross_attention_dim=16, sample_size=8, patch_size=2, norm_type="ada_norm_single",
        caption_channels=12, video_length=5, norm_elementwise_affine=False, attention_bias=True,
    )  # fmt: skip
    return assembled("LattePipeline", transformer=transformer, scheduler=named("DDIMScheduler"))


def kandinsky5(pipeline: str, **options: Any) -> Any:
    """A pipeline of Kandinsky 5: a block that attends within the text, then blocks of video and text."""
    transformer = model(
        "Kandinsky5Transformer3DModel", in_visual_dim=4, out_visual_dim=4, in_text_dim=16, in_text_dim2=8, time_dim=16,
        model_dim=24, ff_dim=32, num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 4, 4), **options,
    )  # fmt: skip
    return assembled(pipeline, transformer=transformer, scheduler=flow())


def kandinsky5_prompts() -> dict[str, Tensor]:
    """Embeddings by both encoders, and where each text ends; the negative prompt is shorter."""
    arguments = {}
    for name, tokens in (("prompt", 11), ("negative_prompt", 7)):
        arguments[f"{name}_embeds_qwen"] = torch.randn(1, tokens, 16, generator=generator(tokens))
        arguments[f"{name}_embeds_clip"] = torch.randn(1, 8, generator=generator(tokens + 1))
        arguments[f"{name}_cu_seqlens"] = torch.tensor([0, tokens])
    return arguments


def build_kandinsky5_sparse() -> Any:
    """Kandinsky 5 with sparse attention: flex attention, on which the video's tokens are sorted in squares of 8 x 8."""
    sparse = {"attention_wT": 1, "attention_wH": 1, "attention_wW": 1, "attention_P": 0.5, "attention_add_sta": True}
    pipe = kandinsky5("Kandinsky5T2VPipeline", attention_type="nabla", attention_method="topcdf", **sparse)
    for block in pipe.transformer.visual_transformer_blocks:
        block.self_attention.processor._attention_backend = "flex"
    return pipe


def build_kandinsky5_image() -> Any:
    """Kandinsky 5, text to image, which picks the nearest of the sizes it knows."""
    pipe = kandinsky5("Kandinsky5T2IPipeline")
    pipe.resolutions = [(128, 96)]
    return pipe


def sample_kandinsky5(pipe: Any, height: int, width: int, **options: Any) -> Tensor:
    with uncompiled_flex():
        return sampled(pipe, **kandinsky5_prompts(), height=height, width=width, **options)


def build_sana_video() -> Any:
    """Sana Video: linear attention to the video, the usual one to the text."""
    transformer = model(
        "SanaVideoTransformer3DModel", in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12,
        num_layers=2, num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24,
        caption_channels=16, rope_max_seq_len=64,
    )  # fmt: skip
    return assembled("SanaVideoPipeline", transformer=transformer, scheduler=flow())


def asked(tokens: int, features: int, /, **arguments: Any) -> Any:
    """A function that samples for two prompts of so many tokens, or for as many as ``batch`` says."""
    texts = {name: arguments.pop(name) for name in ("batch", "masked") if name in arguments}
    return lambda pipe: sampled(pipe, **prompts(tokens, features, **{"batch": 2} | texts), **arguments)


SMALL = {"height": 64, "width": 96}
UNASKED = {"negative_prompt": None}
PERTURBED = ("cond", "uncond", "perturbed")

FAMILIES = [
    Family("LTX", "LTXPipeline", build_ltx, asked(11, 16, height=128, width=192, num_frames=9), (128, 192)),
    Family("LTX-2", "LTX2Pipeline", build_ltx2, sample_ltx2, (128, 192)),
    Family(
        "LTX-2, STG", "LTX2Pipeline", partial(build_ltx2, perturbed=True), partial(sample_ltx2, stg_scale=1.0),
        (128, 192), PERTURBED,
    ),
    # Its scheduler steps both branches, before they are combined.
    Family(
        "Cosmos", "CosmosTextToWorldPipeline", build_cosmos, asked(11, 16, masked=False, num_frames=9, **SMALL),
        (64, 96), NUMBERED,
    ),
    Family(
        "Cosmos 2", "Cosmos2TextToImagePipeline", build_cosmos2, asked(11, 16, masked=False, height=96, width=128),
        (96, 128),
    ),
    Family(
        "Allegro", "AllegroPipeline", build_allegro, asked(11, 16, batch=1, num_frames=8, **UNASKED, **SMALL), (64, 96),
    ),
    Family(
        "Latte", "LattePipeline", build_latte, asked(11, 12, masked=False, video_length=5, **UNASKED, **SMALL),
        (64, 96),
    ),
    # With random weights both branches return the same: their gates are zero.
    Family(
        "Kandinsky 5 video", "Kandinsky5T2VPipeline", partial(kandinsky5, "Kandinsky5T2VPipeline"),
        partial(sample_kandinsky5, height=64, width=96, num_frames=5), (64, 96), NUMBERED,
    ),
    Family(
        "Kandinsky 5 video, sparse", "Kandinsky5T2VPipeline", build_kandinsky5_sparse,
        partial(sample_kandinsky5, height=128, width=256, num_frames=5), (128, 256), NUMBERED,
    ),
    Family(
        "Kandinsky 5", "Kandinsky5T2IPipeline", build_kandinsky5_image,
        partial(sample_kandinsky5, height=96, width=128), (96, 128), NUMBERED,
    ),
    Family(
        "Sana Video", "SanaVideoPipeline", build_sana_video,
        asked(11, 16, frames=5, use_resolution_binning=False, **UNASKED, **SMALL), (64, 96),
    ),
]  # fmt: skip
