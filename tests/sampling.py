"""How tests sample from a Stable Diffusion pipeline, and the older ways in which it may attend."""

from diffusers.models.attention_processor import AttnProcessor

from .seeds import generators


def sample(pipe, size=(64, 64), prompts=("a red car", "a blue house"), steps=3, guidance=2.0, kind="latent", **more):
    return pipe(
        list(prompts), height=size[0], width=size[1], num_inference_steps=steps, guidance_scale=guidance,
        generator=generators(len(prompts)), output_type=kind, **more,
    ).images  # fmt: skip


def use_legacy_processors(pipe):
    pipe.unet.set_attn_processor(AttnProcessor())


def slicing(size):
    """Attention in slices of so many heads."""
    return lambda pipe: pipe.unet.set_attention_slice(size)
