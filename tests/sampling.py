"""How tests sample from a Stable Diffusion pipeline, and what of it sampling must leave as it was."""

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor

from entropylab.capture.interception import active


def sample(pipe, size=(64, 64), prompts=("a red car", "a blue house"), steps=3, guidance=2.0, kind="latent"):
    generators = [torch.Generator().manual_seed(index) for index in range(len(prompts))]
    return pipe(
        list(prompts), height=size[0], width=size[1], num_inference_steps=steps, guidance_scale=guidance,
        generator=generators, output_type=kind,
    ).images  # fmt: skip


def use_legacy_processors(pipe):
    pipe.unet.set_attn_processor(AttnProcessor())


def slicing(size):
    """Attention in slices of so many heads."""
    return lambda pipe: pipe.unet.set_attention_slice(size)


def state(pipe):
    """Everything that measuring might have changed."""
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pipe.unet.modules()]
    extra = [name for m in pipe.unet.modules() for name in vars(m) if name == "get_attention_scores"]
    processors = {name: type(p) for name, p in pipe.unet.attn_processors.items()}
    scheduler = (type(pipe.scheduler), sorted(vars(pipe.scheduler)))
    return hooks, extra, processors, scheduler, F.scaled_dot_product_attention, len(active)
