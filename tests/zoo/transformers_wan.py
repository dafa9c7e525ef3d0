"""Wan and what is made from it: transformers that attend to the video and to the text in turn."""

from functools import partial
from typing import Any

from .family import NUMBERED, Family
from .joint_parts import CHANNELS, encoder, family, named, photo, sized, texts, wan_vae

WAN = CHANNELS | {"attention_head_dim": 12}


vision_model = partial(
    encoder, "CLIPVisionModel", hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    image_size=32, patch_size=16,
)  # fmt: skip
"""An image encoder of five tokens."""


def image_processor() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def wan(name: str, pipeline: str, call: dict[str, Any], kind: str = "Wan", **known: Any) -> Family:
    """A family with a transformer of Wan or of another ``kind``, at 2 x 4 x 6 tokens unless ``call`` says otherwise."""
    known["transformer"] = (f"{kind}Transformer3DModel", WAN | known.get("transformer", {}))
    return family(name, pipeline, {"num_frames": 5} | call, (64, 96), **known)


two, one = texts(11, prompts=2), texts(11)
anyflow = "FlowMapEulerDiscreteScheduler"
unipc = partial(
    named, "UniPCMultistepScheduler", prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0
)
GUIDED = {"guidance_scale": 3.0}
CHUNKS = {"num_frames": 10, "history_sizes": [4, 2, 1], "num_latent_frames_per_chunk": 2}
FORCING = {"prompt": None, "num_frames": 13, "base_num_frames": 13, "ar_step": 1, "causal_block_size": 2}

FAMILIES: list[Family] = [
    wan("Wan 2.1", "WanPipeline", two),
    # Two steps of the first transformer, for the first half of the noise, and one of the second.
    wan(
        "Wan 2.2", "WanPipeline", two | {"num_inference_steps": 3, "guidance_scale_2": 2.0}, boundary_ratio=0.4,
        transformer_2=partial(sized, "WanTransformer3DModel", seed=1, **WAN),
    ),
    # Each cross-attention attends to the text, and apart from that to the image: all tokens before the last 512.
    wan(
        "Wan 2.1 image to video", "WanImageToVideoPipeline", texts(512) | {"image": photo(64, 96)}, vae=wan_vae,
        transformer={"in_channels": 12, "image_dim": 16, "added_kv_proj_dim": 24}, image_encoder=vision_model,
        image_processor=image_processor,
    ),
    # Two more blocks that attend in a branch of control; a reference image stands as a frame before the video's.
    wan(
        "Wan VACE", "WanVACEPipeline", one | {"reference_images": [photo(64, 96)]}, "WanVACE",
        transformer={"vace_layers": [0, 1], "vace_in_channels": 72}, vae=wan_vae,
    ),
    wan("AnyFlow", "AnyFlowPipeline", two | GUIDED, "AnyFlow", scheduler=anyflow),
    # A chunk of one frame, then one of two, by flex attention to what is kept before; some calls belong to no step.
    wan(
        "AnyFlow FAR", "AnyFlowFARPipeline", two | GUIDED | {"num_frames": 9}, "AnyFlowFAR",
        transformer={"full_chunk_limit": 2, "chunk_partition": (1, 2)}, scheduler=anyflow, comparable=False,
    ),
    # Two chunks of 2 x 4 x 6 tokens: those of the chunks before stand before those of the next.
    wan(
        "Helios", "HeliosPipeline", one | CHUNKS, "Helios", transformer={"rope_dim": (4, 4, 4)}, vae=wan_vae,
        parts={"reference": (0, 56), "image": (56, None)},
        scheduler=partial(named, "HeliosScheduler", stages=1, stage_range=[0, 1]),
    ),
    wan("SkyReels-V2", "SkyReelsV2Pipeline", two, "SkyReelsV2", scheduler=unipc),
    # Two pairs of frames, the second a step behind, the first not attending to it; every frame has a noise level, and a
    # copy of the scheduler, of its own.
    wan(
        "SkyReels-V2 diffusion forcing", "SkyReelsV2DiffusionForcingPipeline", two | FORCING, "SkyReelsV2",
        scheduler=unipc, branches=NUMBERED,
    ),
]  # fmt: skip
