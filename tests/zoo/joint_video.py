"""Video pipelines whose attention is joint: text and video tokens among the same keys."""

from typing import Any

from .family import Family, first, last
from .joint_packed import two_texts
from .joint_parts import CHANNELS, family, having, lazy, pooled_call, texts

COG_VIDEO_X = CHANNELS | {
    "attention_head_dim": 16, "sample_width": 12, "sample_height": 8, "sample_frames": 5, "max_text_seq_length": 11,
}  # fmt: skip
COG_VIDEO_X_15 = COG_VIDEO_X | {"patch_size_t": 2, "use_rotary_positional_embeddings": True, "patch_bias": False}
HUNYUAN_VIDEO = CHANNELS | {"num_layers": 1, "num_single_layers": 1}
HUNYUAN_VIDEO_15 = {"in_channels": 9, "out_channels": 4, "image_embed_dim": 8, "task_type": "t2v"}
MOCHI = {"pooled_projection_dim": 16, "in_channels": 4, "time_embed_dim": 16, "max_sequence_length": 12}
EASY_ANIMATE = CHANNELS | {"attention_head_dim": 16, "patch_size": 2, "mmdit_layers": 1}
SIZE = (64, 96)
FRAMES = {"num_frames": 5}


def guidance() -> Any:
    from diffusers.guiders import ClassifierFreeGuidance

    return ClassifierFreeGuidance(guidance_scale=6.0)


FAMILIES: list[Family] = [
    family(
        "CogVideoX", "CogVideoXPipeline", texts(11) | FRAMES, SIZE, parts=first(11),
        scheduler="CogVideoXDDIMScheduler", transformer=("CogVideoXTransformer3DModel", COG_VIDEO_X),
    ),
    family(
        "CogVideoX 1.5", "CogVideoXPipeline", texts(11) | {"num_frames": 9}, SIZE, parts=first(11),
        scheduler="CogVideoXDDIMScheduler", transformer=("CogVideoXTransformer3DModel", COG_VIDEO_X_15),
    ),
    family(
        "HunyuanVideo", "HunyuanVideoPipeline",
        pooled_call(2, true_cfg_scale=3.0) | texts(11, (11, 7), (3, 3), prompts=2) | FRAMES, SIZE, parts=last(11),
        transformer=("HunyuanVideoTransformer3DModel", HUNYUAN_VIDEO),
    ),
    family(
        "HunyuanVideo 1.5", "HunyuanVideo15Pipeline", two_texts(1, ((9,), (2,)), ((3,), (0,))) | FRAMES, SIZE,
        parts=last(18), transformer=("HunyuanVideo15Transformer3DModel", HUNYUAN_VIDEO_15), guider=guidance,
        vae=lazy(
            "AutoencoderKLHunyuanVideo15", latent_channels=4, block_out_channels=(32,) * 5, layers_per_block=1
        ),
        prepare=having(vision_num_semantic_tokens=5),
    ),
    family(
        "Mochi", "MochiPipeline", texts(12, (12, 7), (3, 3), prompts=2) | {"num_frames": 7}, SIZE,
        transformer=("MochiTransformer3DModel", MOCHI),
    ),
    family(
        "EasyAnimate", "EasyAnimatePipeline", texts(11, (11,), (4,)) | FRAMES, SIZE, parts=first(11),
        transformer=("EasyAnimateTransformer3DModel", EASY_ANIMATE),
        vae=lazy(
            "AutoencoderKLMagvit", latent_channels=4, block_out_channels=[4] * 4, layers_per_block=1, norm_num_groups=2
        ),
    ),
]  # fmt: skip
