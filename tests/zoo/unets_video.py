"""U-Nets of videos."""

from functools import partial

from .family import Family
from .joint_parts import lazy, named
from .unet_parts import SIZE, WIDTH, family, picture, prompts, stable, vision_model


def image_processor():
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor()


FRAMES = prompts() | {"num_frames": 5}
FAMILIES: list[Family] = [
    # attention over time in between
    stable(
        "AnimateDiff", "AnimateDiffPipeline", FRAMES,
        motion_adapter=lazy(
            "MotionAdapter", block_out_channels=(16, 32), motion_layers_per_block=1, motion_num_attention_heads=2,
            motion_norm_num_groups=8,
        ),
    ),
    # an image, moving; guidance grows from the first frame to the last
    family(
        "Stable Video Diffusion", "StableVideoDiffusionPipeline", {"image": picture((32, 32))}, SIZE,
        image_encoder=partial(vision_model, WIDTH, 16), feature_extractor=image_processor,
        unet=lazy(
            "UNetSpatioTemporalConditionModel", sample_size=8, block_out_channels=(32, 64), layers_per_block=1,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            addition_time_embed_dim=8, projection_class_embeddings_input_dim=24, cross_attention_dim=WIDTH,
            num_attention_heads=(2, 4), num_frames=5,
        ),
        vae=lazy(
            "AutoencoderKLTemporalDecoder", down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=(32,) * 4
        ),
        scheduler=partial(named, "EulerDiscreteScheduler", prediction_type="v_prediction"),
    ),
    stable(
        "ModelScope text to video", "TextToVideoSDPipeline", FRAMES,
        unet=lazy(
            "UNet3DConditionModel", sample_size=8, layers_per_block=1, block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), cross_attention_dim=WIDTH,
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), attention_head_dim=8, norm_num_groups=8,
        ),
    ),
]  # fmt: skip
