"""Video pipelines whose attention is joint: text and video tokens among the same keys."""

from typing import Any

from .family import Family
from .joint_parts import HEADS, TEXT_WIDTH, cog_video_x_scheduler, guided, joint, kept, pooled_call, tiny, words


def hunyuan_video_call() -> dict[str, Any]:
    """Arguments of HunyuanVideo: embeddings, masks and pooled embeddings of a prompt and of its negative."""
    masked = guided(lambda seed: words(seed, 11, 2), kept(11, 11, 7), kept(11, 3, 3))
    return pooled_call(2, num_frames=5, true_cfg_scale=3.0) | masked


def hunyuan_video_15_call() -> dict[str, Any]:
    """Arguments of HunyuanVideo 1.5: embeddings and masks of its two text encoders."""
    first = guided(lambda seed: words(seed, 9), kept(9, 9), kept(9, 2), mask="prompt_embeds_mask")
    second = guided(lambda seed: words(seed + 2, 4), kept(4, 3), kept(4, 0), mask="prompt_embeds_mask")
    return first | {f"{name}_2": value for name, value in second.items()} | {"num_frames": 5}


def hunyuan_video_15_modules() -> dict[str, Any]:
    """A VAE and the guidance of HunyuanVideo 1.5."""
    from diffusers.guiders import ClassifierFreeGuidance

    sizes = {"latent_channels": 4, "block_out_channels": (32,) * 5, "layers_per_block": 1}
    return {"vae": tiny("AutoencoderKLHunyuanVideo15", sizes), "guider": ClassifierFreeGuidance(guidance_scale=6.0)}


def easy_animate_vae() -> dict[str, Any]:
    sizes = {"latent_channels": 4, "block_out_channels": [4] * 4, "layers_per_block": 1, "norm_num_groups": 2}
    return {"vae": tiny("AutoencoderKLMagvit", sizes)}


CHANNELS = {"in_channels": 4, "out_channels": 4}
COG_VIDEO_X = CHANNELS | {
    "num_attention_heads": 2, "attention_head_dim": 16, "time_embed_dim": 8, "text_embed_dim": TEXT_WIDTH,
    "num_layers": 2, "sample_width": 12, "sample_height": 8, "sample_frames": 5, "max_text_seq_length": 11,
}  # fmt: skip
COG_VIDEO_X_15 = COG_VIDEO_X | {"patch_size_t": 2, "use_rotary_positional_embeddings": True, "patch_bias": False}
HUNYUAN_VIDEO = HEADS | CHANNELS | {
    "num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1, "text_embed_dim": TEXT_WIDTH,
    "pooled_projection_dim": TEXT_WIDTH, "rope_axes_dim": (2, 2, 4),
}  # fmt: skip
HUNYUAN_VIDEO_15 = HEADS | {
    "in_channels": 9, "out_channels": 4, "num_layers": 2, "num_refiner_layers": 1, "text_embed_dim": TEXT_WIDTH,
    "text_embed_2_dim": TEXT_WIDTH, "image_embed_dim": 8, "rope_axes_dim": (2, 2, 4), "task_type": "t2v",
}  # fmt: skip
MOCHI = HEADS | {
    "num_layers": 2, "pooled_projection_dim": 16, "in_channels": 4, "text_embed_dim": TEXT_WIDTH, "time_embed_dim": 16,
    "max_sequence_length": 12,
}  # fmt: skip
EASY_ANIMATE = CHANNELS | {
    "num_attention_heads": 2, "attention_head_dim": 16, "patch_size": 2, "num_layers": 2, "mmdit_layers": 1,
    "time_embed_dim": 8, "text_embed_dim": TEXT_WIDTH,
}  # fmt: skip

FAMILIES: list[Family] = [
    joint(
        "CogVideoX", "CogVideoXPipeline", "CogVideoXTransformer3DModel", COG_VIDEO_X,
        lambda: guided(lambda seed: words(seed, 11)) | {"num_frames": 5}, size=(64, 96), text=(11, "first"),
        scheduler=cog_video_x_scheduler,
    ),
    joint(
        "CogVideoX 1.5", "CogVideoXPipeline", "CogVideoXTransformer3DModel", COG_VIDEO_X_15,
        lambda: guided(lambda seed: words(seed, 11)) | {"num_frames": 9}, size=(64, 96), text=(11, "first"),
        scheduler=cog_video_x_scheduler,
    ),
    joint(
        "HunyuanVideo", "HunyuanVideoPipeline", "HunyuanVideoTransformer3DModel", HUNYUAN_VIDEO, hunyuan_video_call,
        size=(64, 96), text=(11, "last"),
    ),
    joint(
        "HunyuanVideo 1.5", "HunyuanVideo15Pipeline", "HunyuanVideo15Transformer3DModel", HUNYUAN_VIDEO_15,
        hunyuan_video_15_call, size=(64, 96), text=(18, "last"), modules=hunyuan_video_15_modules,
        settings={"vision_num_semantic_tokens": 5},
    ),
    joint(
        "Mochi", "MochiPipeline", "MochiTransformer3DModel", MOCHI,
        lambda: guided(lambda seed: words(seed, 12, 2), kept(12, 12, 7), kept(12, 3, 3)) | {"num_frames": 7},
        size=(64, 96),
    ),
    joint(
        "EasyAnimate", "EasyAnimatePipeline", "EasyAnimateTransformer3DModel", EASY_ANIMATE,
        lambda: guided(lambda seed: words(seed, 11), kept(11, 11), kept(11, 4)) | {"num_frames": 5}, size=(64, 96),
        text=(11, "first"), modules=easy_animate_vae,
    ),
]  # fmt: skip
