"""Kandinsky, its priors, and DeepFloyd IF."""

from functools import partial
from typing import Any

from ..seeds import normal
from .family import Family, first
from .joint_parts import class_of, family, lazy, named, new
from .unet_parts import TOKENS, WIDTH, prompts, stable, text_encoder, tokenizer, unet

ADDED = {
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), "attention_head_dim": 16,
    "resnet_time_scale_shift": "scale_shift",
}  # fmt: skip
"""Of U-Nets that attend to the image and to the text at once."""

ddpm = partial(named, "DDPMScheduler", variance_type="learned_range")
"""A scheduler for networks that predict a variance too."""

movq = lazy(
    "VQModel", block_out_channels=(8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4, num_vq_embeddings=8, norm_num_groups=4,
)  # fmt: skip
"""Kandinsky's autoencoder: latents 4 times smaller than pictures."""


def multilingual() -> Any:
    config = class_of("pipelines.kandinsky.text_encoder.MCLIPConfig")(
        transformerDimSize=24, imageDimSize=WIDTH, vocab_size=len(tokenizer()), hidden_size=24, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=24, max_position_embeddings=80, pad_token_id=1,
    )  # fmt: skip
    return new("pipelines.kandinsky.text_encoder.MultilingualCLIP", config=config)


def images(width: int) -> dict[str, Any]:
    """Image embeddings, as Kandinsky's priors make them."""
    return {"image_embeds": normal(1, width, seed=3), "negative_image_embeds": normal(1, width, seed=4)}


new_prior = lazy(
    "PriorTransformer", num_attention_heads=2, attention_head_dim=8, num_layers=2, embedding_dim=128, num_embeddings=24
)
"""A transformer over 24 tokens of text, then an embedding of the text, the time, the image, a blank."""
unclip = partial(named, "UnCLIPScheduler", prediction_type="sample", clip_sample_range=5.0)
PRIOR = {"parts": {"text": (0, 24), "image": (26, 27)}, "asked": False}

prior = partial(
    family, call={"prompt": "a red car", "negative_prompt": "a house of two floors", "output_type": "pt"}, size=(1, 1),
    prior=new_prior, tokenizer=tokenizer, text_encoder=partial(text_encoder, "CLIPTextModelWithProjection"),
    scheduler=unclip, **PRIOR,
)  # fmt: skip
"""The pipeline makes a second sample of the negative prompt."""

IF = ADDED | {
    "sample_size": 16, "in_channels": 3, "out_channels": 6, "encoder_hid_dim": 24, "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text", "addition_embed_type_num_heads": 2, "cross_attention_dim": 32,
    "cross_attention_norm": "group_norm",
}  # fmt: skip
deepfloyd = partial(stable, size=(16, 24), scheduler=ddpm, parts=first(TOKENS))
pixels = prompts(2, 24) | {"output_type": "pt"}

FAMILIES: list[Family] = [
    # its text stands behind 10 tokens of an image embedding
    stable(
        "Kandinsky 2.1", "KandinskyPipeline", images(WIDTH) | {"prompt": "a red car", "output_type": "pt"},
        parts=first(10 + 77), scheduler=ddpm, movq=movq, tokenizer=tokenizer, text_encoder=multilingual,
        unet=partial(
            unet, **ADDED, out_channels=8, encoder_hid_dim=24, encoder_hid_dim_type="text_image_proj",
            addition_embed_type="text_image",
        ),
    ),
    # of text it knows the image embedding that the prior made
    stable(
        "Kandinsky 2.2", "KandinskyV22Pipeline", images(12), parts=first(32), scheduler=ddpm, movq=movq,
        unet=partial(
            unet, **ADDED, out_channels=8, encoder_hid_dim=12, encoder_hid_dim_type="image_proj",
            addition_embed_type="image",
        ),
    ),
    family(
        "Kandinsky 3", "Kandinsky3Pipeline", prompts(2, 24, (5, 7), (3, 3), mask="attention_mask"), (192, 256),
        scheduler="DDPMScheduler",
        unet=lazy(
            "Kandinsky3UNet", time_embedding_dim=16, groups=4, attention_head_dim=8, layers_per_block=2,
            block_out_channels=(8, 16, 16, 16), cross_attention_dim=WIDTH, encoder_hid_dim=24,
        ),
    ),
    prior("Kandinsky 2.1 prior", "KandinskyPriorPipeline"),
    prior("Kandinsky 2.2 prior", "KandinskyV22PriorPipeline"),
    deepfloyd("DeepFloyd IF", "IFPipeline", pixels, unet=partial(unet, **IF)),
    deepfloyd(
        "DeepFloyd IF, larger", "IFSuperResolutionPipeline", pixels | {"image": normal(2, 3, 8, 12).tanh()},
        unet=partial(unet, **IF | {"in_channels": 6}, class_embed_type="timestep"),
        image_noising_scheduler="DDPMScheduler",
    ),
]  # fmt: skip
