"""Wan and what is made from it: transformers that attend to the video and to the text in turn."""

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..seeds import generator
from .family import NUMBERED, Family
from .joint_parts import assembled, named
from .joint_parts import flow_matching as flow
from .transformers import model, peaked, prompts, sampled, uncompiled_flex

WAN = {
    "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "freq_dim": 16, "num_layers": 2,
    "in_channels": 4, "out_channels": 4, "text_dim": 16,
}  # fmt: skip


def wan(kind: str = "WanTransformer3DModel", **options: Any) -> Any:
    """A transformer of Wan or of one made from it, weights from the current seed."""
    return peaked(named(kind, **WAN | {"rope_max_seq_len": 64} | options))


def build(pipeline: str, scheduler: Any = flow, vae: bool = False, kind: str = "WanTransformer3DModel",
          options: dict[str, Any] | None = None, **parts: Any) -> Any:  # fmt: skip
    """A pipeline with a transformer of ``kind``, a scheduler, and Wan's VAE where it insists on one."""
    torch.manual_seed(0)
    known = {"transformer": wan(kind, **options or {}), "scheduler": scheduler()}
    return assembled(pipeline, **known, **({"vae": wan_vae()} if vae else {}), **parts)


def sample_wan(pipe: Any, **options: Any) -> Tensor:
    """Two prompts, at 2 x 4 x 6 tokens."""
    usual = {"height": 64, "width": 96, "num_frames": 5}
    return sampled(pipe, **prompts(11, 16, batch=2, masked=False), **usual | options)


def sample_one(pipe: Any, text: int = 11, **options: Any) -> Tensor:
    """One prompt of so many tokens, at the same size."""
    usual = {"height": 64, "width": 96, "num_frames": 5}
    return sampled(pipe, **prompts(text, 16, masked=False), **usual | options)


def build_wan22() -> Any:
    """Wan 2.2: one transformer for the first half of the noise, another one for the rest."""
    torch.manual_seed(0)
    both = {"transformer": wan(), "transformer_2": wan()}
    return assembled("WanPipeline", **both, scheduler=flow(), boundary_ratio=0.4)


def wan_vae() -> Any:
    """The VAE of Wan, which image to video needs."""
    sizes = {"base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    return named("AutoencoderKLWan", **sizes, latents_mean=[0.0] * 4, latents_std=[1.0] * 4).eval()


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
    torch.manual_seed(0)
    transformer = wan(in_channels=12, image_dim=16, added_kv_proj_dim=24)
    parts = {"transformer": transformer, "scheduler": flow(), "vae": wan_vae()}
    return assembled("WanImageToVideoPipeline", **parts, **vision())


def sample_anyflow_far(pipe: Any) -> Tensor:
    """A chunk of one frame of 4 x 6 tokens, then one of two."""
    with uncompiled_flex():
        return sample_wan(pipe, num_frames=9)


def build_helios() -> Any:
    """Helios, which makes a video chunk by chunk: tokens of the chunks before stand before those of the next."""
    transformer = model("HeliosTransformer3DModel", **WAN, rope_dim=(4, 4, 4))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array_wrap__ must accept context", DeprecationWarning)
        scheduler = named("HeliosScheduler", stages=1, stage_range=[0, 1])
    return assembled("HeliosPipeline", vae=wan_vae(), scheduler=scheduler, transformer=transformer)


def unipc() -> Any:
    settings = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 8.0}
    return named("UniPCMultistepScheduler", **settings)


VACE = {"kind": "WanVACETransformer3DModel", "options": {"vace_layers": [0, 1], "vace_in_channels": 72}}
"""Two more blocks that attend in a branch of control; a reference image stands as a frame before those of the video."""
FAR = {"kind": "AnyFlowFARTransformer3DModel", "options": {"full_chunk_limit": 2, "chunk_partition": (1, 2)}}
"""AnyFlow, chunk by chunk: flex attention to what is kept of the chunks before."""
SKYREELS = {"scheduler": unipc, "kind": "SkyReelsV2Transformer3DModel"}
FORCING = {"prompt": None, "num_frames": 13, "base_num_frames": 13, "ar_step": 1, "causal_block_size": 2}
"""Two pairs of frames, the second a step behind, the first not attending to it; at 4 x 4 x 6 tokens."""
CHUNKS = {"num_frames": 10, "history_sizes": [4, 2, 1], "num_latent_frames_per_chunk": 2}
"""Two chunks of 2 x 4 x 6 tokens."""
anyflow = partial(named, "FlowMapEulerDiscreteScheduler")

FAMILIES = [
    Family("Wan 2.1", "WanPipeline", partial(build, "WanPipeline"), sample_wan, (64, 96)),
    # Two steps of the first transformer, one of the second.
    Family(
        "Wan 2.2", "WanPipeline", build_wan22, partial(sample_wan, num_inference_steps=3, guidance_scale_2=2.0),
        (64, 96),
    ),
    # The transformer takes all tokens before the last 512 for those of the picture.
    Family(
        "Wan 2.1 image to video", "WanImageToVideoPipeline", build_wan_image,
        lambda pipe: sample_one(pipe, 512, image=picture(64, 96)), (64, 96),
    ),
    Family(
        "Wan VACE", "WanVACEPipeline", partial(build, "WanVACEPipeline", vae=True, **VACE),
        lambda pipe: sample_one(pipe, reference_images=[picture(64, 96)]), (64, 96),
    ),
    Family(
        "AnyFlow", "AnyFlowPipeline", partial(build, "AnyFlowPipeline", anyflow, kind="AnyFlowTransformer3DModel"),
        sample_wan, (64, 96),
    ),
    # Some calls belong to no step.
    Family(
        "AnyFlow FAR", "AnyFlowFARPipeline", partial(build, "AnyFlowFARPipeline", anyflow, **FAR),
        sample_anyflow_far, (64, 96), comparable=False,
    ),
    Family(
        "Helios", "HeliosPipeline", build_helios, partial(sample_one, **CHUNKS), (64, 96),
        parts={"reference": (0, 56), "image": (56, None)},
    ),
    Family("SkyReels-V2", "SkyReelsV2Pipeline", partial(build, "SkyReelsV2Pipeline", **SKYREELS), sample_wan, (64, 96)),
    # Every frame has a noise level, and a copy of the scheduler, of its own.
    Family(
        "SkyReels-V2 diffusion forcing", "SkyReelsV2DiffusionForcingPipeline",
        partial(build, "SkyReelsV2DiffusionForcingPipeline", **SKYREELS), partial(sample_wan, **FORCING), (64, 96),
        NUMBERED,
    ),
]  # fmt: skip
