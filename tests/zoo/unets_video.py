"""U-Nets of videos."""

from typing import Any

from torch import Tensor

from ..seeds import generator
from .family import Family
from .joint_parts import assembled, named
from .unet_parts import SIZE, WIDTH, at, ddim, new, picture, prompts, two_steps, unet


def build_animatediff() -> Any:
    """AnimateDiff: Stable Diffusion with attention over time."""
    motion = new(
        "MotionAdapter", block_out_channels=(16, 32), motion_layers_per_block=1, motion_num_attention_heads=2,
        motion_norm_num_groups=8,
    )  # fmt: skip
    return assembled("AnimateDiffPipeline", unet=unet(), motion_adapter=motion, scheduler=ddim())


def sample_frames(pipe: Any) -> Tensor:
    """Five frames of one prompt."""
    return two_steps(pipe, **at(SIZE), **prompts(), num_frames=5)


def build_text_to_video() -> Any:
    model = new(
        "UNet3DConditionModel", sample_size=8, layers_per_block=1, block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=WIDTH, attention_head_dim=8, norm_num_groups=8,
    )  # fmt: skip
    return assembled("TextToVideoSDPipeline", unet=model, scheduler=ddim())


def build_video() -> Any:
    """Stable Video Diffusion: an image, moving."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    model = new(
        "UNetSpatioTemporalConditionModel", sample_size=8, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=24, cross_attention_dim=WIDTH,
        num_attention_heads=(2, 4), num_frames=5,
    )  # fmt: skip
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, projection_dim=WIDTH, num_hidden_layers=1, num_attention_heads=2,
        image_size=32, patch_size=16,
    )  # fmt: skip
    frames = new(
        "AutoencoderKLTemporalDecoder", down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=(32,) * 4
    )
    parts = {"vae": frames, "image_encoder": new(CLIPVisionModelWithProjection, config=config), "unet": model}
    scheduler = named("EulerDiscreteScheduler", prediction_type="v_prediction")
    return assembled(
        "StableVideoDiffusionPipeline", **parts, scheduler=scheduler, feature_extractor=CLIPImageProcessor()
    )


def sample_video(pipe: Any) -> Tensor:
    """Five frames; guidance grows from the first to the last."""
    return pipe(
        picture((32, 32)), **at(SIZE), num_inference_steps=2, generator=generator(), output_type="latent"
    ).frames


FAMILIES = [
    Family("AnimateDiff", "AnimateDiffPipeline", build_animatediff, sample_frames, SIZE),
    Family("Stable Video Diffusion", "StableVideoDiffusionPipeline", build_video, sample_video, SIZE),
    Family("ModelScope text to video", "TextToVideoSDPipeline", build_text_to_video, sample_frames, SIZE),
]  # fmt: skip
