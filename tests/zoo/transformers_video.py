"""Transformers, other than those like Wan, that attend to the video and to the text in turn."""

from typing import Any

import torch
from torch import Tensor

from ..seeds import generator
from .family import NUMBERED, Family, ready
from .transformers import flow, peaked, prompts, uncompiled_flex


class Unchecked(torch.nn.Module):
    """Stands where Cosmos insists on a safety checker; latents are not shown to it."""

    device, dtype = torch.device("cpu"), torch.float32


def build_ltx() -> Any:
    """LTX."""
    from diffusers import LTXPipeline, LTXVideoTransformer3DModel

    torch.manual_seed(0)
    transformer = LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24,
        num_layers=2, caption_channels=16,
    )  # fmt: skip
    return ready(LTXPipeline(flow(), None, None, None, peaked(transformer)))


def sample_ltx(pipe: Any) -> Tensor:
    """Two prompts, at 2 x 4 x 6 tokens."""
    return pipe(
        **prompts(11, 16, batch=2), height=128, width=192, num_frames=9, num_inference_steps=2, guidance_scale=3.0,
        generator=generator(), output_type="latent",
    ).frames  # fmt: skip


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
    from diffusers import LTX2Pipeline, LTX2VideoTransformer3DModel

    torch.manual_seed(0)
    transformer = LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24,
        audio_in_channels=8, audio_out_channels=8, audio_num_attention_heads=2, audio_attention_head_dim=8,
        audio_cross_attention_dim=16, num_layers=2, caption_channels=16, perturbed_attn=perturbed,
    )  # fmt: skip
    parts = {"text_encoder": None, "tokenizer": None, "connectors": ltx2_connectors(), "vocoder": None}
    return ready(LTX2Pipeline(flow(), **ltx2_vaes(), **parts, transformer=peaked(transformer)))


def build_ltx2_stg() -> Any:
    """LTX-2 with layers that can be told to leave their attention out."""
    return build_ltx2(perturbed=True)


def sample_ltx2(pipe: Any, stg_scale: float = 0.0) -> Tensor:
    """At 2 x 4 x 6 tokens of video."""
    stg = {"stg_scale": stg_scale, "audio_stg_scale": stg_scale, "spatio_temporal_guidance_blocks": [1]}
    return pipe(
        **prompts(11, 32), **stg, modality_scale=1.0, audio_modality_scale=1.0, height=128, width=192, num_frames=9,
        num_inference_steps=2, guidance_scale=3.0, audio_guidance_scale=4.0, generator=generator(),
        output_type="latent",
    ).frames  # fmt: skip


def sample_ltx2_stg(pipe: Any) -> Tensor:
    """Guided by the text, and away from what comes of leaving out the last block's self-attention."""
    return sample_ltx2(pipe, stg_scale=1.0)


def cosmos(**options: Any) -> Any:
    """A Cosmos transformer."""
    from diffusers import CosmosTransformer3DModel

    torch.manual_seed(0)
    return peaked(
        CosmosTransformer3DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=2, mlp_ratio=2,
            text_embed_dim=16, adaln_lora_dim=4, max_size=(8, 16, 16), **options,
        )
    )  # fmt: skip


def build_cosmos() -> Any:
    """Cosmos, text to world."""
    from diffusers import CosmosTextToWorldPipeline, EDMEulerScheduler

    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, sigma_schedule="karras")
    return ready(CosmosTextToWorldPipeline(None, None, cosmos(), None, scheduler, Unchecked()))


def sample_cosmos(pipe: Any) -> Tensor:
    """Two prompts, at 2 x 4 x 6 tokens."""
    return pipe(
        **prompts(11, 16, batch=2, masked=False), height=64, width=96, num_frames=9, num_inference_steps=2,
        guidance_scale=3.0, generator=generator(), output_type="latent",
    ).frames  # fmt: skip


def build_cosmos2() -> Any:
    """Cosmos 2, text to image."""
    from diffusers import Cosmos2TextToImagePipeline, FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    transformer = cosmos(extra_pos_embed_type=None)
    return ready(Cosmos2TextToImagePipeline(None, None, transformer, None, scheduler, Unchecked()))


def sample_cosmos2(pipe: Any) -> Tensor:
    """Two prompts, at 6 x 8 tokens."""
    return pipe(
        **prompts(11, 16, batch=2, masked=False), height=96, width=128, num_inference_steps=2, guidance_scale=3.0,
        generator=generator(), output_type="latent",
    ).images  # fmt: skip


def build_allegro() -> Any:
    """Allegro."""
    from diffusers import AllegroPipeline, AllegroTransformer3DModel, EulerAncestralDiscreteScheduler

    torch.manual_seed(0)
    transformer = AllegroTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, num_layers=2, cross_attention_dim=24, sample_height=8,
        sample_width=12, sample_frames=2, caption_channels=16,
    )  # fmt: skip
    return ready(
        AllegroPipeline(None, None, None, peaked(transformer), EulerAncestralDiscreteScheduler(beta_end=0.002))
    )


def sample_allegro(pipe: Any) -> Tensor:
    """One prompt, at 2 x 4 x 6 tokens; the scheduler draws noise at each step."""
    return pipe(
        **prompts(11, 16), negative_prompt=None, height=64, width=96, num_frames=8, num_inference_steps=2,
        guidance_scale=3.0, generator=generator(), output_type="latent",
    ).frames  # fmt: skip


def build_latte() -> Any:
    """Latte: blocks that attend within a frame and to the text, and blocks that attend over time."""
    from diffusers import DDIMScheduler, LattePipeline, LatteTransformer3DModel

    torch.manual_seed(0)
    transformer = LatteTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=16, sample_size=8, patch_size=2, norm_type="ada_norm_single", caption_channels=12,
        video_length=5, norm_elementwise_affine=False, attention_bias=True,
    )  # fmt: skip
    return ready(LattePipeline(None, None, None, peaked(transformer), DDIMScheduler()))


def sample_latte(pipe: Any) -> Tensor:
    """Two prompts, at 5 x 4 x 6 tokens."""
    return pipe(
        **prompts(11, 12, batch=2, masked=False), negative_prompt=None, height=64, width=96, video_length=5,
        num_inference_steps=2, guidance_scale=3.0, generator=generator(), output_type="latent",
    ).frames  # fmt: skip


def kandinsky5(**options: Any) -> Any:
    """A Kandinsky 5 transformer: a block that attends within the text, then blocks of video and text."""
    from diffusers import Kandinsky5Transformer3DModel

    torch.manual_seed(0)
    return peaked(
        Kandinsky5Transformer3DModel(
            in_visual_dim=4, out_visual_dim=4, in_text_dim=16, in_text_dim2=8, time_dim=16, model_dim=24, ff_dim=32,
            num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 4, 4), **options,
        )
    )  # fmt: skip


def kandinsky5_prompts() -> dict[str, Tensor]:
    """Embeddings by both encoders, and where each text ends; the negative prompt is shorter."""
    arguments = {}
    for name, tokens in (("prompt", 11), ("negative_prompt", 7)):
        arguments[f"{name}_embeds_qwen"] = torch.randn(1, tokens, 16, generator=generator(tokens))
        arguments[f"{name}_embeds_clip"] = torch.randn(1, 8, generator=generator(tokens + 1))
        arguments[f"{name}_cu_seqlens"] = torch.tensor([0, tokens])
    return arguments


def build_kandinsky5_video() -> Any:
    """Kandinsky 5, text to video."""
    from diffusers import Kandinsky5T2VPipeline

    return ready(Kandinsky5T2VPipeline(kandinsky5(), None, None, None, None, None, flow()))


def build_kandinsky5_sparse() -> Any:
    """Kandinsky 5 with sparse attention: flex attention, on which the video's tokens are sorted in squares of 8 x 8."""
    from diffusers import Kandinsky5T2VPipeline

    sparse = {"attention_wT": 1, "attention_wH": 1, "attention_wW": 1, "attention_P": 0.5, "attention_add_sta": True}
    transformer = kandinsky5(attention_type="nabla", attention_method="topcdf", **sparse)
    for block in transformer.visual_transformer_blocks:
        block.self_attention.processor._attention_backend = "flex"
    return ready(Kandinsky5T2VPipeline(transformer, None, None, None, None, None, flow()))


def sample_kandinsky5_sparse(pipe: Any) -> Tensor:
    """One prompt, at 2 x 8 x 16 tokens."""
    with uncompiled_flex():
        return sample_kandinsky5_video(pipe, 128, 256)


def sample_kandinsky5_video(pipe: Any, height: int = 64, width: int = 96) -> Tensor:
    """One prompt, at 2 x 4 x 6 tokens."""
    return pipe(
        **kandinsky5_prompts(), height=height, width=width, num_frames=5, num_inference_steps=2, guidance_scale=3.0,
        generator=generator(), output_type="latent",
    ).frames  # fmt: skip


def build_kandinsky5_image() -> Any:
    """Kandinsky 5, text to image, which picks the nearest of the sizes it knows."""
    from diffusers import Kandinsky5T2IPipeline

    pipe = ready(Kandinsky5T2IPipeline(kandinsky5(), None, None, None, None, None, flow()))
    pipe.resolutions = [(128, 96)]
    return pipe


def sample_kandinsky5_image(pipe: Any) -> Tensor:
    """One prompt, at 6 x 8 tokens."""
    return pipe(
        **kandinsky5_prompts(), height=96, width=128, num_inference_steps=2, guidance_scale=3.0,
        generator=generator(), output_type="latent",
    ).image  # fmt: skip


def build_sana_video() -> Any:
    """Sana Video: linear attention to the video, the usual one to the text."""
    from diffusers import SanaVideoPipeline, SanaVideoTransformer3DModel

    torch.manual_seed(0)
    transformer = SanaVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=16,
        rope_max_seq_len=64,
    )  # fmt: skip
    return ready(SanaVideoPipeline(None, None, None, peaked(transformer), flow()))


def sample_sana_video(pipe: Any) -> Tensor:
    """Two prompts, at 2 x 4 x 6 tokens."""
    return pipe(
        **prompts(11, 16, batch=2), negative_prompt=None, height=64, width=96, frames=5, num_inference_steps=2,
        guidance_scale=3.0, generator=generator(), use_resolution_binning=False, output_type="latent",
    ).frames  # fmt: skip


FAMILIES = [
    Family("LTX", "LTXPipeline", build_ltx, sample_ltx, (128, 192)),
    Family("LTX-2", "LTX2Pipeline", build_ltx2, sample_ltx2, (128, 192)),
    Family("LTX-2, STG", "LTX2Pipeline", build_ltx2_stg, sample_ltx2_stg, (128, 192), ("cond", "uncond", "perturbed")),
    # Its scheduler steps both branches, before they are combined.
    Family("Cosmos", "CosmosTextToWorldPipeline", build_cosmos, sample_cosmos, (64, 96), NUMBERED),
    Family("Cosmos 2", "Cosmos2TextToImagePipeline", build_cosmos2, sample_cosmos2, (96, 128)),
    Family("Allegro", "AllegroPipeline", build_allegro, sample_allegro, (64, 96)),
    Family("Latte", "LattePipeline", build_latte, sample_latte, (64, 96)),
    # With random weights both branches return the same: their gates are zero.
    Family(
        "Kandinsky 5 video", "Kandinsky5T2VPipeline", build_kandinsky5_video, sample_kandinsky5_video, (64, 96),
        NUMBERED),
    Family(
        "Kandinsky 5 video, sparse", "Kandinsky5T2VPipeline", build_kandinsky5_sparse, sample_kandinsky5_sparse,
        (128, 256), NUMBERED),
    Family(
        "Kandinsky 5", "Kandinsky5T2IPipeline", build_kandinsky5_image, sample_kandinsky5_image, (96, 128), NUMBERED),
    Family("Sana Video", "SanaVideoPipeline", build_sana_video, sample_sana_video, (64, 96)),
]  # fmt: skip
