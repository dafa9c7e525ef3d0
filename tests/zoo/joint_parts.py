"""What the zoo's pipelines are built of, tiny, and how they are asked to sample."""

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import torch

from ..seeds import generator
from .family import BOTH, Family, Parts, sharpened

TEXT_WIDTH = 32  # channels of a prompt's embedding
OWN_WARNINGS = (  # what diffusers warns of in its own code
    "Accessing config attribute `num_vector_embeds` directly",
    "`Transformer2DModelOutput` is deprecated",
    "In CPU autocast, but the target dtype is not supported",
    "__array_wrap__ must accept context",
    "`FluxPosEmbed` is deprecated",
    "`LoraLoaderMixin` is deprecated",
    "`torch.jit.script` is deprecated",
    "`torch.nn.utils.weight_norm` is deprecated",
    "flex_attention called without torch.compile",
    "torch.meshgrid: in an upcoming release",
)
HEADS = {"attention_head_dim": 8, "num_attention_heads": 2}
CHANNELS = {"in_channels": 4, "out_channels": 4}
SMALL = HEADS | {
    "num_layers": 2, "num_refiner_layers": 1, "sample_size": 16, "intermediate_size": 16, "time_embed_dim": 8,
    "condition_dim": 4, "pos_embed_max_size": 16, "caption_projection_dim": 16, "timestep_guidance_channels": 16,
    "axes_dims_rope": (2, 2, 4), "rope_axes_dim": (2, 2, 4), "rope_max_seq_len": 64, "ffn_dim": 32, "freq_dim": 16,
    **dict.fromkeys((
        "joint_attention_dim", "text_embed_dim", "text_embed_2_dim", "pooled_projection_dim", "cap_feat_dim",
        "caption_channels", "context_in_dim", "text_dim", "text_in_dim", "text_hidden_dim", "text_emb_dim",
        "in_text_dim", "in_text_dim2",
    ), TEXT_WIDTH),
}  # fmt: skip
"""How large transformers are, by the names of their arguments, where a family says nothing else."""


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


def pooled(seed: int, prompts: int = 1, width: int = TEXT_WIDTH) -> torch.Tensor:
    """Random pooled embeddings of prompts: (prompts, width)."""
    return words(seed, 1, prompts, width)[:, 0]


def kept(tokens: int, *lengths: int) -> torch.Tensor:
    """Mask of the tokens that are not padding, one row a prompt of ``lengths`` tokens: (prompts, tokens)."""
    return torch.arange(tokens)[None] < torch.tensor(lengths)[:, None]


def guided(embeds: Callable[[int], Any], *masks: Any, mask: str = "prompt_attention_mask") -> dict[str, Any]:
    """Arguments with the embeddings of a prompt and of its negative, and the masks of both where there are any."""
    arguments = {"prompt_embeds": embeds(1), "negative_prompt_embeds": embeds(2)}
    return arguments | dict(zip((mask, f"negative_{mask}"), masks, strict=False))


def texts(
    tokens: int, *lengths: tuple[int, ...], prompts: int = 1, width: int = TEXT_WIDTH, seed: int = 0,
    mask: str = "prompt_attention_mask", suffix: str = "",
) -> dict[str, Any]:  # fmt: skip
    """``guided`` by random embeddings; ``lengths`` are those of the prompts, and of the negative ones, if masked."""
    masks = [kept(tokens, *each) for each in lengths]
    arguments = guided(lambda number: words(seed + number, tokens, prompts, width), *masks, mask=mask)
    return {f"{name}{suffix}": value for name, value in arguments.items()}


def photo(height: int, width: int) -> Any:
    """A random PIL image."""
    from PIL import Image

    pixels = torch.randint(256, (height, width, 3), generator=generator(3), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def class_of(name: str) -> Any:
    """What diffusers calls so, with its module where that is not the package itself."""
    module, _, name = f"diffusers.{name}".rpartition(".")
    with quiet():
        return getattr(import_module(module), name)


def named(kind: str | Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """What diffusers calls so, or a class that is no name there, made with these settings."""
    with quiet():
        return (class_of(kind) if isinstance(kind, str) else kind)(*arguments, **settings)


def encoder(kind: str, **sizes: Any) -> Any:
    """The model of transformers that is called so, of these sizes."""
    import transformers

    model = getattr(transformers, kind)
    return model(model.config_class(**sizes)).eval()


def tiny(model: str | Callable[..., Any], config: dict[str, Any], seed: int = 0) -> Any:
    """The named diffusers model with random weights; parameters that start at zero are small random numbers."""
    torch.manual_seed(seed)
    made = named(model, **config)
    with torch.no_grad():
        for weight in made.parameters():
            if not weight.any():
                weight.normal_(std=0.1)
    return sharpened(made)


def new(kind: str | Callable[..., Any], **settings: Any) -> Any:
    """``tiny``, for settings by name."""
    return tiny(kind, settings)


def lazy(kind: str | Callable[..., Any], **settings: Any) -> Callable[[], Any]:
    """What makes a ``new`` one."""
    return partial(new, kind, **settings)


def sized(kind: str, seed: int = 0, **settings: Any) -> Any:
    """A new transformer, as large as SMALL says where the settings say nothing."""
    taken = inspect.signature(class_of(kind).__init__).parameters
    return tiny(kind, {name: size for name, size in SMALL.items() if name in taken} | settings, seed)


def made(module: Any) -> Any:
    """A module of a ``family``."""
    if isinstance(module, tuple):
        kind, settings = module
        return sized(kind, **settings)
    if isinstance(module, str):
        return named(module)
    return module() if callable(module) else module


def assembled(pipeline: str, **modules: Any) -> Any:
    """A pipeline of diffusers of ``modules``, None for the others, without a progress bar."""
    kind = class_of(pipeline)
    known = inspect.signature(kind.__init__).parameters
    usual: dict[str, Any] = {name: None for name, p in known.items() if p.default is p.empty and name != "self"}
    if "requires_safety_checker" in known:
        usual["requires_safety_checker"] = False
    with quiet():
        pipe = kind(**usual | modules)
    pipe.set_progress_bar_config(disable=True)
    return pipe


flow_matching = partial(named, "FlowMatchEulerDiscreteScheduler")
"""The scheduler of nearly all transformers."""


VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (4,) * 4, "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 2,
}  # fmt: skip
"""Of a tiny VAE for images, which makes them eight times smaller."""


def image_vae(**more: Any) -> dict[str, Any]:
    return {"vae": new("AutoencoderKL", **VAE | more)}


def flat_vae(model: str, **more: Any) -> Any:
    """A tiny VAE of Wan or Qwen-Image, whose latents are taken as they are."""
    return new(model, z_dim=4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4, **more)


wan_vae = partial(flat_vae, "AutoencoderKLWan", base_dim=4, dim_mult=[1] * 4, num_res_blocks=1)


def two_steps(pipe: Any, height: int = 96, width: int = 128, **arguments: Any) -> torch.Tensor:
    """What ``pipe`` samples in two steps, as latents, at a size if it takes one, unless the arguments say otherwise."""
    usual = {"height": height, "width": width, "num_inference_steps": 2, "output_type": "latent"}
    taken = inspect.signature(type(pipe).__call__).parameters
    usual = {name: value for name, value in usual.items() if name in taken}
    torch.manual_seed(0)  # OmniGen draws from its VAE without a generator
    with quiet():
        return torch.as_tensor(pipe(generator=generator(), return_dict=False, **usual | arguments)[0])


def family(
    name: str, pipeline: str, call: dict[str, Any], size: tuple[int, int] = (96, 128), branches: tuple[str, ...] = BOTH,
    *, parts: Parts | None = None, unlike: dict[str, int] | None = None, asked: bool = True, comparable: bool = True,
    prepare: Callable[[Any], Any] = id, scheduler: Any = flow_matching, **modules: Any,
) -> Family:  # fmt: skip
    """A family whose pipeline is assembled of ``modules``, then prepared, and called with ``call``.

    A module is given as a function that makes it, a transformer as its name and settings, a scheduler as its name.
    """

    def build() -> Any:
        torch.manual_seed(0)
        all_modules = {"scheduler": scheduler, **modules} if scheduler else modules
        pipe = assembled(pipeline, **{part: made(module) for part, module in all_modules.items()})
        prepare(pipe)
        return pipe

    def sample(pipe: Any, *other_size: int) -> torch.Tensor:
        return two_steps(pipe, *(other_size or size), **call)

    return Family(name, pipeline.rpartition(".")[2], build, sample, size, branches, parts, unlike, asked, comparable)


def having(**settings: Any) -> Callable[[Any], None]:
    """What gives a pipeline attributes that its tiny modules don't tell it."""

    def prepare(pipe: Any) -> None:
        for attribute, value in settings.items():
            setattr(pipe, attribute, value)

    return prepare


def pooled_call(prompts: int = 1, **more: Any) -> dict[str, Any]:
    """Arguments of Stable Diffusion 3 and FLUX.1: embeddings and pooled ones of a prompt and of its negative."""
    pools = {"pooled_prompt_embeds": pooled(3, prompts), "negative_pooled_prompt_embeds": pooled(4, prompts)}
    return texts(10, prompts=prompts) | pools | more


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
