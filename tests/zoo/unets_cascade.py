"""Stable Cascade, Würstchen and unCLIP: priors and decoders."""

from functools import partial
from typing import Any

from ..seeds import normal
from .family import Family, last
from .joint_parts import CHANNELS, family, lazy, named
from .unet_parts import TOKENS, WIDTH, prompts, text_encoder, tokenizer, unet
from .unets_kandinsky import ADDED, PRIOR, new_prior, unclip

CASCADE = CHANNELS | {
    "timestep_ratio_embedding_dim": 8, "conditioning_dim": 32, "block_out_channels": (32, 32),
    "num_attention_heads": (2, 2), "down_num_layers_per_block": (1, 1), "up_num_layers_per_block": (1, 1),
    "clip_text_pooled_in_channels": WIDTH,
}  # fmt: skip
BLOCKS = ("SDCascadeResBlock", "SDCascadeTimestepBlock")
DECODER = CASCADE | {
    "patch_size": 2, "block_out_channels": (16, 32), "num_attention_heads": (-1, 2), "effnet_in_channels": 4,
    "block_types_per_layer": (BLOCKS, (*BLOCKS, "SDCascadeAttnBlock")), "timestep_conditioning_type": ("sca",),
}  # fmt: skip
"""No attention at its first level."""


def cascade_texts() -> dict[str, Any]:
    """A prompt's and a negative one's embeddings, with the pooled ones as Stable Cascade takes them."""
    pooled = {"prompt_embeds_pooled": normal(1, 1, WIDTH, seed=3)}
    return prompts() | pooled | {"negative_prompt_embeds_pooled": normal(1, 1, WIDTH, seed=4)}


wuerstchen_prior = lazy(
    "pipelines.deprecated.wuerstchen.WuerstchenPrior", c_in=4, c=32, c_cond=WIDTH, c_r=8, depth=2, nhead=2
)
"""Image tokens attend to themselves and to text behind them, without SDPA."""
wuerstchen_decoder = lazy(
    "pipelines.deprecated.wuerstchen.WuerstchenDiffNeXt", c_r=8, c_cond=WIDTH, c_hidden=[16, 32], nhead=[-1, 2],
    blocks=[1, 1], level_config=["CT", "CTA"], inject_effnet=[False, True], effnet_embd=4, clip_embd=128,
)  # fmt: skip
text_projection = lazy(
    "pipelines.deprecated.unclip.UnCLIPTextProjModel", clip_embeddings_dim=128, time_embed_dim=64,
    cross_attention_dim=WIDTH,
)  # fmt: skip
larger = lazy(
    "UNet2DModel", sample_size=32, in_channels=6, out_channels=6, block_out_channels=(16, 32),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1, norm_num_groups=8,
)  # fmt: skip
learned = partial(named, "UnCLIPScheduler", variance_type="learned_range")
wuerstchen = partial(family, scheduler="DDPMWuerstchenScheduler")

FAMILIES: list[Family] = [
    # image tokens, 6 x 9, attend to themselves and to 7 + 4 + 4 of text and image behind them
    wuerstchen(
        "Stable Cascade prior", "StableCascadePriorPipeline",
        cascade_texts() | {"image_embeds": normal(1, 1, 12, seed=5), "output_type": "pt"}, (256, 384),
        parts=last(TOKENS + 4 + 4), text_encoder=text_encoder,
        prior=lazy(
            "StableCascadeUNet", **CASCADE, clip_text_in_channels=WIDTH, clip_image_in_channels=12,
            switch_level=(False,),
        ),
    ),
    wuerstchen(
        "Stable Cascade decoder", "StableCascadeDecoderPipeline",
        cascade_texts() | {"image_embeddings": normal(1, 4, 3, 4, seed=6), "guidance_scale": 2.0}, (128, 168),
        parts=last(4), asked=False, decoder=lazy("StableCascadeUNet", **DECODER),
    ),
    wuerstchen(
        "Würstchen prior", "WuerstchenPriorPipeline", prompts(2) | {"output_type": "pt"}, (256, 384),
        parts=last(TOKENS), text_encoder=text_encoder, prior=wuerstchen_prior,
    ),
    wuerstchen(
        "Würstchen decoder", "WuerstchenDecoderPipeline",
        {"image_embeddings": normal(1, 4, 3, 6, seed=6), "prompt": "a red car", "guidance_scale": 2.0}, (128, 256),
        parts=last(24), asked=False, tokenizer=tokenizer, text_encoder=text_encoder, decoder=wuerstchen_decoder,
    ),
    # a prior, of which the parts are, a decoder, and two U-Nets that enlarge
    family(
        "unCLIP", "UnCLIPPipeline",
        {"prompt": ["a red car", "a blue house"], "output_type": "np"}
        | dict.fromkeys([f"{part}_num_inference_steps" for part in ("prior", "decoder", "super_res")], 2),
        (32, 32), **PRIOR, scheduler=None, prior_scheduler=unclip, decoder_scheduler=learned,
        super_res_scheduler=learned, text_encoder=partial(text_encoder, "CLIPTextModelWithProjection"),
        tokenizer=tokenizer, prior=new_prior, text_proj=text_projection, super_res_first=larger, super_res_last=larger,
        decoder=partial(unet, **ADDED, sample_size=16, in_channels=3, out_channels=6, class_embed_type="identity"),
    ),
]  # fmt: skip
