"""U-Nets of Stable Diffusion and its relatives, and U-Nets without text."""

from functools import partial
from typing import Any

import torch

from ..seeds import normal
from .family import PERTURBED, Family
from .joint_parts import assembled, class_of, family, lazy, new, two_steps
from .unet_parts import (
    SIZE,
    UNET,
    WIDTH,
    XL_SIZE,
    ddim,
    picture,
    pools,
    prompts,
    stable,
    text_encoder,
    tokenizer,
    unet,
    vae,
)


def build_stable(name: str = "StableDiffusionPipeline", **settings: Any) -> Any:
    """A pipeline that takes what Stable Diffusion takes; ``settings`` are of its U-Net."""
    return assembled(name, unet=unet(**settings), scheduler=ddim())


def sample_stable(pipe: Any, batch: int = 1, **arguments: Any) -> torch.Tensor:
    """``batch`` prompts, given as embeddings."""
    return two_steps(pipe, *SIZE, **prompts(batch), **arguments)


LDM_ROOM = "pipelines.latent_diffusion.pipeline_latent_diffusion"


def bert() -> Any:
    config = class_of(f"{LDM_ROOM}.LDMBertConfig")(
        vocab_size=len(tokenizer()), max_position_embeddings=77, encoder_layers=1, encoder_ffn_dim=32,
        encoder_attention_heads=2, head_dim=8, d_model=WIDTH, pad_token_id=0,
    )  # fmt: skip
    return new(f"{LDM_ROOM}.LDMBertModel", config=config)


LDM = stable(
    "Latent Diffusion", "LDMTextToImagePipeline",
    {"prompt": ["a red car", "a blue house"], "guidance_scale": 3.0, "output_type": "pt"},
    vqvae=vae, bert=bert, tokenizer=tokenizer,
)  # fmt: skip
build_ldm = LDM.build

XL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
}  # fmt: skip
"""No attention at the first level."""
xl_unet = partial(unet, **XL, transformer_layers_per_block=(1, 2), use_linear_projection=True)
xl = partial(family, size=XL_SIZE, scheduler="EulerDiscreteScheduler", unet=xl_unet)


def add_ip_adapter(pipe: Any) -> None:
    """4 tokens of an image beside those of the text."""
    places = [name.removesuffix(".processor") for name in pipe.unet.attn_processors if "attn2" in name]
    adapter = {}
    for index, place in enumerate(places):
        width = pipe.unet.get_submodule(place).to_k.out_features
        for part in ("k", "v"):
            adapter[f"{2 * index + 1}.to_{part}_ip.weight"] = normal(width, WIDTH, seed=index)
    projection = {"proj.weight": normal(4 * WIDTH, 12), "proj.bias": normal(4 * WIDTH)}
    projection |= {"norm.weight": torch.ones(WIDTH), "norm.bias": torch.zeros(WIDTH)}
    weights = {"image_proj": projection, "ip_adapter": adapter}
    pipe.load_ip_adapter(weights, subfolder="", weight_name="", image_encoder_folder=None)


unconditional = partial(family, size=(16, 24), branches=("cond",), unet=lazy(
    "UNet2DModel", sample_size=(16, 24), block_out_channels=(16, 32), attention_head_dim=8, norm_num_groups=8,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
))  # fmt: skip
"""Without text; attention at the second level."""

FAMILIES: list[Family] = [
    stable("Stable Diffusion 1", "StableDiffusionPipeline", prompts(2)),
    # predicts velocities; linear projections, as many heads as channels allow
    stable(
        "Stable Diffusion 2", "StableDiffusionPipeline", prompts(2),
        scheduler=partial(ddim, prediction_type="v_prediction"),
        unet=partial(unet, use_linear_projection=True, attention_head_dim=(2, 4)),
    ),
    LDM,
    # the guidance scale is an input of the network
    stable(
        "Latent Consistency", "LatentConsistencyModelPipeline", {"prompt_embeds": prompts(2)["prompt_embeds"]},
        branches=("cond",), scheduler="LCMScheduler", unet=partial(unet, time_cond_proj_dim=32),
    ),
    xl("Stable Diffusion XL", "StableDiffusionXLPipeline", prompts(2) | pools(2)),
    # with a projection of the text; diffusers names it only where sentencepiece is installed
    xl(
        "Kolors", "pipelines.kolors.pipeline_kolors.KolorsPipeline", prompts(width=24) | pools(),
        unet=partial(unet, **XL, encoder_hid_dim=24, encoder_hid_dim_type="text_proj"),
    ),
    # phrases at boxes, padded to 30, in the first of the two steps only
    stable(
        "GLIGEN", "StableDiffusionGLIGENPipeline",
        prompts(width=128) | {
            "gligen_phrases": ["a red car", "a blue house"], "gligen_scheduled_sampling_beta": 0.5,
            "gligen_boxes": [[0.1, 0.2, 0.5, 0.6], [0.5, 0, 1, 1]],
        },
        parts={"image": (0, -30), "text": (-30, None)}, text_encoder=text_encoder, tokenizer=tokenizer,
        unet=partial(unet, attention_type="gated", cross_attention_dim=128),
    ),
    stable("Perturbed-Attention Guidance", "StableDiffusionPAGPipeline", prompts(), branches=PERTURBED),
    stable("Self-Attention Guidance", "StableDiffusionSAGPipeline", prompts(), branches=PERTURBED),
    # it sees a step in several views, which are averaged
    stable(
        "MultiDiffusion Panorama", "StableDiffusionPanoramaPipeline", prompts(), size=(32, 576), comparable=False
    ),
    stable(
        "IP-Adapter", "StableDiffusionPipeline",
        prompts() | {"ip_adapter_image_embeds": [normal(2, 1, 12, seed=6)]}, prepare=add_ip_adapter,
    ),
    # has attention of its own
    stable(
        "ControlNet", "StableDiffusionControlNetPipeline", prompts() | {"image": picture()},
        controlnet=lazy("ControlNetModel", **UNET, conditioning_embedding_out_channels=(4, 8, 8, 8)),
    ),
    # the second and fourth tokens are to be attended to more
    stable(
        "Attend-and-Excite", "StableDiffusionAttendAndExcitePipeline",
        prompts() | {"prompt": None, "token_indices": [1, 3], "attn_res": (8, 12), "thresholds": {}},
        branches=PERTURBED,
    ),
    stable(
        "InstructPix2Pix", "StableDiffusionInstructPix2PixPipeline", prompts() | {"image": picture()},
        branches=("cond", "uncond", "uncond 2"), vae=vae, unet=partial(unet, in_channels=8),
    ),
    unconditional("DDPM", "DDPMPipeline", {"batch_size": 2, "output_type": "np"}, scheduler="DDPMScheduler"),
    unconditional("DDIM", "DDIMPipeline", {"batch_size": 2, "output_type": "pt"}, scheduler="DDIMScheduler"),
]  # fmt: skip
