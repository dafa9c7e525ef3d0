"""What pipelines with joint attention are built of, tiny, and how they are asked to sample."""

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from ..seeds import generator
from .family import Family, sharpened

TEXT_WIDTH = 32  # channels of a prompt's embedding
BOTH = ("cond", "uncond")
OWN_WARNINGS = (  # what diffusers warns of in its own code: Chroma, PRX, Mochi
    "`FluxPosEmbed` is deprecated",
    "`LoraLoaderMixin` is deprecated",
    "In CPU autocast, but the target dtype is not supported",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that diffusers gives about its own code."""
    with warnings.catch_warnings():
        for message in OWN_WARNINGS:
            warnings.filterwarnings("ignore", message)
        yield


def words(seed: int, tokens: int, prompts: int = 1, width: int = TEXT_WIDTH) -> torch.Tensor:
    """Random embeddings of prompts: (prompts, tokens, width)."""
    return torch.randn(prompts, tokens, width, generator=generator(seed))


def pooled(seed: int, prompts: int = 1) -> torch.Tensor:
    """Random pooled embeddings of prompts: (prompts, width)."""
    return words(seed, 1, prompts)[:, 0]


def kept(tokens: int, *lengths: int) -> torch.Tensor:
    """Mask of the tokens that are not padding, one row a prompt of ``lengths`` tokens: (prompts, tokens)."""
    return torch.arange(tokens)[None] < torch.tensor(lengths)[:, None]


def guided(embeds: Callable[[int], Any], *masks: Any, mask: str = "prompt_attention_mask") -> dict[str, Any]:
    """Arguments with the embeddings of a prompt and of its negative, and the masks of both where there are any."""
    arguments = {"prompt_embeds": embeds(1), "negative_prompt_embeds": embeds(2)}
    return arguments | dict(zip((mask, f"negative_{mask}"), masks, strict=False))


def photo(height: int, width: int) -> Any:
    """A random PIL image."""
    from PIL import Image

    pixels = torch.randint(256, (height, width, 3), generator=generator(3), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def named(kind: str | Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """What diffusers calls so, or a class that is no name there, made with these settings."""
    import diffusers

    return (getattr(diffusers, kind) if isinstance(kind, str) else kind)(*arguments, **settings)


def tiny(model: str | Callable[..., Any], config: dict[str, Any], seed: int = 0) -> Any:
    """The named diffusers model with random weights; parameters that start at zero are small random numbers."""
    torch.manual_seed(seed)
    with quiet(), torch.no_grad():
        made = named(model, **config)
        for weight in made.parameters():
            if not weight.any():
                weight.normal_(std=0.1)
    return sharpened(made)


def assembled(pipeline: str | type, **modules: Any) -> Any:
    """A pipeline of diffusers, by name or class, of ``modules``, None for the others, without a progress bar."""
    import diffusers

    kind: Any = getattr(diffusers, pipeline) if isinstance(pipeline, str) else pipeline
    needed = [name for name, p in inspect.signature(kind.__init__).parameters.items() if p.default is p.empty]
    with quiet():
        pipe = kind(**({name: None for name in needed if name != "self"} | modules))
    pipe.set_progress_bar_config(disable=True)
    return pipe


flow_matching = partial(named, "FlowMatchEulerDiscreteScheduler")
"""The scheduler of nearly all of these."""

cog_video_x_scheduler = partial(named, "CogVideoXDDIMScheduler")
"""The scheduler of CogView3 and CogVideoX."""


def image_vae(model: str = "AutoencoderKL", **more: Any) -> dict[str, Any]:
    """A tiny VAE for images, which makes them eight times smaller."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    sizes = {"block_out_channels": (4,) * 4, "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 2}
    return {"vae": tiny(model, blocks | sizes | more)}


def two_steps(pipe: Any, height: int = 96, width: int = 128, **arguments: Any) -> torch.Tensor:
    """What ``pipe`` samples in two steps, as latents."""
    settings = {"height": height, "width": width, "num_inference_steps": 2, "output_type": "latent"}
    torch.manual_seed(0)  # OmniGen draws from its VAE without a generator
    with quiet():
        return pipe(generator=generator(), return_dict=False, **settings | arguments)[0]


def joint(
    name: str,
    pipeline: str,
    model: str,
    config: dict[str, Any],
    call: Callable[[], dict[str, Any]],
    size: tuple[int, int] = (96, 128),
    branches: tuple[str, ...] = BOTH,
    text: tuple[int, str] | None = None,
    parts: dict[str, tuple[int, int | None]] | None = None,
    unlike: dict[str, int] | None = None,
    comparable: bool = True,
    scheduler: Callable[[], Any] = flow_matching,
    modules: Callable[[], dict[str, Any]] = dict,
    settings: dict[str, Any] | None = None,
) -> Family:
    """A family whose pipeline has ``model``, ``modules`` and the attributes ``settings``; ``call`` is how to sample."""

    def build() -> Any:
        pipe = assembled(pipeline, **({"transformer": tiny(model, config), "scheduler": scheduler()} | modules()))
        for attribute, value in (settings or {}).items():
            setattr(pipe, attribute, value)
        return pipe

    def sample(pipe: Any) -> torch.Tensor:
        return two_steps(pipe, *size, **call())

    return Family(name, pipeline, build, sample, size, branches, text, parts, unlike, comparable=comparable)


def pooled_call(prompts: int = 1, **more: Any) -> dict[str, Any]:
    """Arguments of Stable Diffusion 3 and FLUX.1: embeddings and pooled ones of a prompt and of its negative."""
    pools = {"pooled_prompt_embeds": pooled(3, prompts), "negative_pooled_prompt_embeds": pooled(4, prompts)}
    return guided(lambda seed: words(seed, 10, prompts)) | pools | more


def flux_call(text: int = 10, **more: Any) -> dict[str, Any]:
    """Arguments of FLUX.1 without a negative prompt, for so many tokens of text."""
    return {"prompt_embeds": words(1, text), "pooled_prompt_embeds": pooled(3)} | more


class WordTokenizer:
    """A tokenizer that needs no vocabulary: the id of a word is a checksum of its letters, from 3 to 63."""

    model_max_length = 100

    def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
        from transformers import BatchEncoding

        ids = [3 + sum(word.encode()) % 61 for word in text.split()]
        return BatchEncoding({"input_ids": [1] * add_special_tokens + ids})

    def pad(self, encoded: dict[str, list[list[int]]], max_length: int, **options: Any) -> Any:
        """The ids of each text with zeros behind, and the mask of those that are not padding."""
        from transformers import BatchEncoding

        ids = torch.tensor([row + [0] * (max_length - len(row)) for row in encoded["input_ids"]])
        return BatchEncoding({"input_ids": ids, "attention_mask": (ids > 0).long()})


HEADS = {"attention_head_dim": 8, "num_attention_heads": 2}
