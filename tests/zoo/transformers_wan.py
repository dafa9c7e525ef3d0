"""Wan and what is made from it: transformers that attend to the video and to the text in turn."""

import warnings
from typing import Any

import torch
from torch import Tensor

from ..seeds import generator
from .family import NUMBERED, Family, ready
from .transformers import flow, peaked, prompts, uncompiled_flex


def wan_transformer(**options: Any) -> Any:
    """A Wan transformer, weights from the current seed."""
    from diffusers import WanTransformer3DModel

    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "freq_dim": 16, "num_layers": 2}
    channels = {"in_channels": 4, "out_channels": 4, "text_dim": 16, "rope_max_seq_len": 64}
    return peaked(WanTransformer3DModel(**sizes, **(channels | options)))


def build_wan() -> Any:
    """Wan 2.1."""
    from diffusers import WanPipeline

    torch.manual_seed(0)
    return ready(WanPipeline(None, None, None, flow(), wan_transformer()))


def sample_wan(pipe: Any, **options: Any) -> Tensor:
    """Two prompts, at 2 x 4 x 6 tokens."""
    return pipe(
        **prompts(11, 16, batch=2, masked=False), height=64, width=96, guidance_scale=3.0, generator=generator(),
        output_type="latent", **({"num_frames": 5, "num_inference_steps": 2} | options),
    ).frames  # fmt: skip


def build_wan22() -> Any:
    """Wan 2.2: one transformer for the first half of the noise, another one for the rest."""
    from diffusers import WanPipeline

    torch.manual_seed(0)
    both = {"transformer": wan_transformer(), "transformer_2": wan_transformer()}
    return ready(WanPipeline(None, None, None, flow(), **both, boundary_ratio=0.4))


def sample_wan22(pipe: Any) -> Tensor:
    """Three steps: two of the first transformer, one of the second."""
    return sample_wan(pipe, num_inference_steps=3, guidance_scale_2=2.0)


def wan_vae() -> Any:
    """The VAE of Wan, which image to video needs."""
    from diffusers import AutoencoderKLWan

    sizes = {"base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    return AutoencoderKLWan(**sizes, latents_mean=[0.0] * 4, latents_std=[1.0] * 4).eval()


def vision() -> dict[str, Any]:
    """An image encoder of five tokens, and what prepares images for it."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return {"image_encoder": CLIPVisionModel(config).eval(), "image_processor": processor}


def picture(height: int, width: int) -> Any:
    """An image of noise."""
    from PIL import Image

    pixels = torch.randint(256, (height, width, 3), generator=generator(), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def build_wan_image() -> Any:
    """Wan 2.1 image to video: each cross-attention attends to the text, and apart from that to the image."""
    from diffusers import WanImageToVideoPipeline

    torch.manual_seed(0)
    transformer = wan_transformer(in_channels=12, image_dim=16, added_kv_proj_dim=24)
    return ready(WanImageToVideoPipeline(None, None, wan_vae(), flow(), **vision(), transformer=transformer))


def sample_wan_image(pipe: Any) -> Tensor:
    """One picture and prompt; the transformer takes all tokens before the last 512 for those of the picture."""
    return pipe(
        picture(64, 96), **prompts(512, 16, masked=False), height=64, width=96, num_frames=5, num_inference_steps=2,
        guidance_scale=3.0, generator=generator(), output_type="latent",
    ).frames  # fmt: skip


def build_wan_vace() -> Any:
    """Wan VACE: two more blocks that attend in a branch of control."""
    from diffusers import WanVACEPipeline, WanVACETransformer3DModel

    torch.manual_seed(0)
    transformer = WanVACETransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, ffn_dim=32, freq_dim=16, num_layers=2, in_channels=4,
        out_channels=4, text_dim=16, rope_max_seq_len=64, vace_layers=[0, 1], vace_in_channels=72,
    )  # fmt: skip
    return ready(WanVACEPipeline(None, None, wan_vae(), flow(), peaked(transformer)))


def sample_wan_vace(pipe: Any) -> Tensor:
    """A reference image stands as a frame before the two of the video, each of 4 x 6 tokens."""
    return pipe(
        **prompts(11, 16, masked=False), reference_images=[picture(64, 96)], height=64, width=96, num_frames=5,
        num_inference_steps=2, guidance_scale=3.0, generator=generator(), output_type="latent",
    ).frames  # fmt: skip


def build_anyflow() -> Any:
    """AnyFlow, distilled from Wan."""
    from diffusers import AnyFlowPipeline, AnyFlowTransformer3DModel, FlowMapEulerDiscreteScheduler

    torch.manual_seed(0)
    transformer = AnyFlowTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, ffn_dim=32, freq_dim=16, num_layers=2, in_channels=4,
        out_channels=4, text_dim=16, rope_max_seq_len=64,
    )  # fmt: skip
    return ready(AnyFlowPipeline(None, None, peaked(transformer), None, FlowMapEulerDiscreteScheduler()))


def build_anyflow_far() -> Any:
    """AnyFlow, chunk by chunk: flex attention to what is kept of the chunks before."""
    from diffusers import AnyFlowFARPipeline, AnyFlowFARTransformer3DModel, FlowMapEulerDiscreteScheduler

    torch.manual_seed(0)
    transformer = AnyFlowFARTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, ffn_dim=32, freq_dim=16, num_layers=2, in_channels=4,
        out_channels=4, text_dim=16, rope_max_seq_len=64, full_chunk_limit=2, chunk_partition=(1, 2),
    )  # fmt: skip
    return ready(AnyFlowFARPipeline(None, None, peaked(transformer), None, FlowMapEulerDiscreteScheduler()))


def sample_anyflow_far(pipe: Any) -> Tensor:
    """A chunk of one frame of 4 x 6 tokens, then one of two."""
    with uncompiled_flex():
        return sample_wan(pipe, num_frames=9)


def build_helios() -> Any:
    """Helios, which makes a video chunk by chunk: tokens of the chunks before stand before those of the next."""
    from diffusers import HeliosPipeline, HeliosScheduler, HeliosTransformer3DModel

    torch.manual_seed(0)
    transformer = HeliosTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, ffn_dim=32, freq_dim=16, num_layers=2, in_channels=4,
        out_channels=4, text_dim=16, rope_dim=(4, 4, 4),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array_wrap__ must accept context", DeprecationWarning)
        scheduler = HeliosScheduler(stages=1, stage_range=[0, 1])
    return ready(HeliosPipeline(None, None, wan_vae(), scheduler, peaked(transformer)))


def sample_helios(pipe: Any) -> Tensor:
    """Two chunks of one prompt, each of 2 x 4 x 6 tokens."""
    return pipe(
        **prompts(11, 16, masked=False), height=64, width=96, num_frames=10, history_sizes=[4, 2, 1],
        num_latent_frames_per_chunk=2, num_inference_steps=2, guidance_scale=3.0, generator=generator(),
        output_type="latent",
    ).frames  # fmt: skip


def skyreels() -> Any:
    """A SkyReels-V2 transformer."""
    from diffusers import SkyReelsV2Transformer3DModel

    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "freq_dim": 16, "num_layers": 2}
    channels = {"in_channels": 4, "out_channels": 4, "text_dim": 16, "rope_max_seq_len": 64}
    return peaked(SkyReelsV2Transformer3DModel(**sizes, **channels))


def unipc() -> Any:
    """The scheduler of SkyReels-V2."""
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0)


def build_skyreels() -> Any:
    """SkyReels-V2."""
    from diffusers import SkyReelsV2Pipeline

    return ready(SkyReelsV2Pipeline(None, None, skyreels(), None, unipc()))


def build_skyreels_forcing() -> Any:
    """SkyReels-V2 with diffusion forcing: each frame has a noise level, and a copy of the scheduler, of its own."""
    from diffusers import SkyReelsV2DiffusionForcingPipeline

    return ready(SkyReelsV2DiffusionForcingPipeline(None, None, skyreels(), None, unipc()))


def sample_skyreels_forcing(pipe: Any) -> Tensor:
    """Two pairs of frames, the second a step behind, the first not attending to it; at 4 x 4 x 6 tokens."""
    return sample_wan(pipe, prompt=None, num_frames=13, base_num_frames=13, ar_step=1, causal_block_size=2)


FAMILIES = [
    Family("Wan 2.1", "WanPipeline", build_wan, sample_wan, (64, 96)),
    Family("Wan 2.2", "WanPipeline", build_wan22, sample_wan22, (64, 96)),
    Family("Wan 2.1 image to video", "WanImageToVideoPipeline", build_wan_image, sample_wan_image, (64, 96)),
    Family("Wan VACE", "WanVACEPipeline", build_wan_vace, sample_wan_vace, (64, 96)),
    Family("AnyFlow", "AnyFlowPipeline", build_anyflow, sample_wan, (64, 96)),
    # Some calls belong to no step.
    Family("AnyFlow FAR", "AnyFlowFARPipeline", build_anyflow_far, sample_anyflow_far, (64, 96), comparable=False),
    Family("Helios", "HeliosPipeline", build_helios, sample_helios, (64, 96)),
    Family("SkyReels-V2", "SkyReelsV2Pipeline", build_skyreels, sample_wan, (64, 96)),
    # Every frame has a scheduler of its own.
    Family(
        "SkyReels-V2 diffusion forcing", "SkyReelsV2DiffusionForcingPipeline", build_skyreels_forcing,
        sample_skyreels_forcing, (64, 96), NUMBERED),
]  # fmt: skip
