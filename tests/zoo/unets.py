"""U-Nets of Stable Diffusion and its relatives, and U-Nets without text."""

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..seeds import generator, normal
from .family import Family
from .joint_parts import assembled, named
from .unet_parts import (
    SIZE,
    UNCHECKED,
    WIDTH,
    XL_SIZE,
    at,
    ddim,
    new,
    picture,
    pooled,
    prompts,
    text_encoder,
    tokenizer,
    two_steps,
    unet,
    vae,
)


def build_stable(name: str = "StableDiffusionPipeline", scheduler: Any = None, **settings: Any) -> Any:
    """A pipeline that takes what Stable Diffusion takes; ``settings`` are of its U-Net."""
    return assembled(name, **UNCHECKED, unet=unet(**settings), scheduler=scheduler or ddim())


def sample_stable(pipe: Any, batch: int = 1, size: tuple[int, int] = SIZE, **arguments: Any) -> Tensor:
    """``batch`` prompts, given as embeddings."""
    return two_steps(pipe, **at(size), **prompts(batch), **arguments)


def build_stable_2() -> Any:
    """Stable Diffusion 2: predicts velocities, linear projections, as many heads as channels allow."""
    scheduler = ddim(prediction_type="v_prediction")
    return build_stable(scheduler=scheduler, use_linear_projection=True, attention_head_dim=(2, 4))


def build_consistency() -> Any:
    return build_stable("LatentConsistencyModelPipeline", named("LCMScheduler"), time_cond_proj_dim=32)


def sample_consistency(pipe: Any) -> Tensor:
    """Two prompts; the guidance scale is an input of the network."""
    return two_steps(pipe, **at(SIZE), prompt_embeds=prompts(2)["prompt_embeds"], guidance_scale=8.5)


def build_ldm() -> Any:
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    words = tokenizer()
    config = LDMBertConfig(
        vocab_size=len(words), max_position_embeddings=77, encoder_layers=1, encoder_ffn_dim=32,
        encoder_attention_heads=2, head_dim=8, d_model=WIDTH, pad_token_id=0,
    )  # fmt: skip
    parts = {"vqvae": vae(), "bert": new(LDMBertModel, config=config), "tokenizer": words}
    return assembled("LDMTextToImagePipeline", **parts, unet=unet(), scheduler=ddim())


def sample_ldm(pipe: Any) -> Tensor:
    return two_steps(pipe, prompt=["a red car", "a blue house"], **at(SIZE), output_type="pt")


XL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
}  # fmt: skip
"""No attention at the first level."""


def build_xl(name: str = "StableDiffusionXLPipeline") -> Any:
    """Stable Diffusion XL: two transformer blocks at the second level."""
    model = unet(**XL, transformer_layers_per_block=(1, 2), use_linear_projection=True)
    return assembled(name, unet=model, scheduler=named("EulerDiscreteScheduler"))


def sample_xl(pipe: Any, size: tuple[int, int], **arguments: Any) -> Tensor:
    return sample_stable(pipe, 2, size, **pooled(2), **arguments)


def build_kolors() -> Any:
    """Kolors: Stable Diffusion XL with a projection of the text."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        from diffusers.pipelines.kolors.pipeline_kolors import KolorsPipeline

    model = unet(**XL, encoder_hid_dim=24, encoder_hid_dim_type="text_proj")
    return assembled(KolorsPipeline, unet=model, scheduler=named("EulerDiscreteScheduler"))


def sample_kolors(pipe: Any) -> Tensor:
    return two_steps(pipe, **at((128, 192)), **prompts(width=24), **pooled())


def build_gligen() -> Any:
    """GLIGEN: pictures with phrases at boxes."""
    model = unet(attention_type="gated", cross_attention_dim=128)
    parts = {"text_encoder": text_encoder(), "tokenizer": tokenizer(), **UNCHECKED}
    return assembled("StableDiffusionGLIGENPipeline", **parts, unet=model, scheduler=ddim())


def sample_gligen(pipe: Any) -> Tensor:
    """One prompt, two boxes; grounded in the first of the two steps only."""
    boxes = {"gligen_phrases": ["a red car", "a blue house"], "gligen_boxes": [[0.1, 0.2, 0.5, 0.6], [0.5, 0, 1, 1]]}
    return two_steps(pipe, **at(SIZE), **prompts(width=128), **boxes, gligen_scheduled_sampling_beta=0.5)


def build_ip_adapter() -> Any:
    """Stable Diffusion with an IP-Adapter: 4 tokens of an image beside those of the text."""
    pipe = build_stable()
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
    return pipe


def build_controlnet() -> Any:
    """Stable Diffusion with a ControlNet, which has attention of its own."""
    model = unet()
    names = ("down_block_types", "block_out_channels", "layers_per_block", "cross_attention_dim", "attention_head_dim")
    shared = {name: model.config[name] for name in (*names, "norm_num_groups")}
    control = new("ControlNetModel", **shared, conditioning_embedding_out_channels=(4, 8, 8, 8))
    parts = {**UNCHECKED, "unet": model, "controlnet": control, "scheduler": ddim()}
    return assembled("StableDiffusionControlNetPipeline", **parts)


def sample_attend(pipe: Any) -> Tensor:
    """One prompt, of which the second and fourth tokens are to be attended to more."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.meshgrid: in an upcoming release", UserWarning)
        return sample_stable(pipe, prompt=None, token_indices=[1, 3], attn_res=(8, 12), thresholds={})


def build_pix2pix() -> Any:
    """InstructPix2Pix: edits an image."""
    parts = {**UNCHECKED, "vae": vae(), "unet": unet(in_channels=8), "scheduler": ddim()}
    return assembled("StableDiffusionInstructPix2PixPipeline", **parts)


def build_unconditional(name: str, scheduler: str) -> Any:
    """A pipeline of pictures without text, 16 x 24 pixels, attention at the second level."""
    model = new(
        "UNet2DModel", sample_size=(16, 24), block_out_channels=(16, 32), attention_head_dim=8, norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
    )  # fmt: skip
    return assembled(name, unet=model, scheduler=named(scheduler))


def sample_unconditional(pipe: Any, output_type: str) -> Tensor:
    generators = [generator(0), generator(1)]
    arguments = {"batch_size": 2, "num_inference_steps": 2, "output_type": output_type, "return_dict": False}
    return torch.as_tensor(pipe(generator=generators, **arguments)[0])


def stable(name: str, pipeline: str, size: tuple[int, int] = SIZE, branches: Any = None, **arguments: Any) -> Family:
    """A family that is built as Stable Diffusion is and differs in how it samples."""
    build, sample = partial(build_stable, pipeline), partial(sample_stable, size=size, **arguments)
    return Family(name, pipeline, build, sample, size, branches or ("cond", "uncond"))


FAMILIES = [
    stable("Stable Diffusion 1", "StableDiffusionPipeline", batch=2),
    Family(
        "Stable Diffusion 2", "StableDiffusionPipeline", build_stable_2, partial(sample_stable, batch=2, size=SIZE),
        SIZE,
    ),
    Family("Latent Diffusion", "LDMTextToImagePipeline", build_ldm, sample_ldm, SIZE),
    Family(
        "Latent Consistency", "LatentConsistencyModelPipeline", build_consistency, sample_consistency, SIZE, ("cond",)
    ),
    Family("Stable Diffusion XL", "StableDiffusionXLPipeline", build_xl, partial(sample_xl, size=XL_SIZE), XL_SIZE),
    Family("Kolors", "KolorsPipeline", build_kolors, sample_kolors, XL_SIZE),
    # phrases, padded to 30
    Family(
        "GLIGEN", "StableDiffusionGLIGENPipeline", build_gligen, sample_gligen, SIZE,
        parts={"image": (0, -30), "text": (-30, None)},
    ),
    stable("Perturbed-Attention Guidance", "StableDiffusionPAGPipeline", branches=("cond", "uncond", "perturbed")),
    stable("Self-Attention Guidance", "StableDiffusionSAGPipeline", branches=("cond", "uncond", "perturbed")),
    # it sees a step in several views, which are averaged
    Family(
        "MultiDiffusion Panorama", "StableDiffusionPanoramaPipeline",
        partial(build_stable, "StableDiffusionPanoramaPipeline"), partial(sample_stable, size=(32, 576)), (32, 576),
        comparable=False,
    ),
    Family(
        "IP-Adapter", "StableDiffusionPipeline", build_ip_adapter,
        partial(sample_stable, ip_adapter_image_embeds=[normal(2, 1, 12, seed=6)]), SIZE,
    ),
    Family(
        "ControlNet", "StableDiffusionControlNetPipeline", build_controlnet, partial(sample_stable, image=picture()),
        SIZE,
    ),
    Family(
        "Attend-and-Excite", "StableDiffusionAttendAndExcitePipeline",
        partial(build_stable, "StableDiffusionAttendAndExcitePipeline"), sample_attend, SIZE,
        branches=("cond", "uncond", "perturbed"),
    ),
    Family(
        "InstructPix2Pix", "StableDiffusionInstructPix2PixPipeline", build_pix2pix,
        lambda pipe: two_steps(pipe, **prompts(), image=picture()), SIZE, ("cond", "uncond", "uncond 2"),
    ),
    Family(
        "DDPM", "DDPMPipeline", partial(build_unconditional, "DDPMPipeline", "DDPMScheduler"),
        partial(sample_unconditional, output_type="np"), (16, 24), ("cond",),
    ),
    Family(
        "DDIM", "DDIMPipeline", partial(build_unconditional, "DDIMPipeline", "DDIMScheduler"),
        partial(sample_unconditional, output_type="pt"), (16, 24), ("cond",),
    ),
]  # fmt: skip
