"""Denoisers of full size with random weights, a step with guidance: plain, and measured in several ways."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import entropylab
from entropylab.capture import intercept

from .paired import peak_memory, seconds, spread

CUDA = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.float16) if CUDA else ("cpu", torch.float32)
STEPS = 10 if CUDA else 1
MEMORY_AT = 64
"""Latent size at which memory is measured on a CPU."""


@dataclass(frozen=True)
class Denoiser:
    """A model of full size."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, Any]]  # latent size -> what its forward takes, for one image with guidance
    sizes: tuple[int, ...]  # latent sizes to time


def normal(*shape: int) -> Tensor:
    """Random numbers on the device."""
    return torch.randn(*shape, device=DEVICE, dtype=DTYPE)


def sd21() -> nn.Module:
    """The U-Net of Stable Diffusion 2.1-base."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    )


def sdxl() -> nn.Module:
    """The U-Net of SDXL-base."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def flux() -> nn.Module:
    """FLUX.1-dev, of which six blocks."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(num_layers=2, num_single_layers=4, guidance_embeds=True)


def sd_inputs(side: int) -> dict[str, Any]:
    """Latents and text of two branches."""
    return {
        "sample": normal(2, 4, side, side),
        "timestep": torch.tensor(500, device=DEVICE),
        "encoder_hidden_states": normal(2, 77, 1024),
    }


def sdxl_inputs(side: int) -> dict[str, Any]:
    """Latents, text, pooled text and sizes of two branches."""
    added = {"text_embeds": normal(2, 1280), "time_ids": normal(2, 6)}
    return sd_inputs(side) | {"encoder_hidden_states": normal(2, 77, 2048), "added_cond_kwargs": added}


def flux_inputs(side: int) -> dict[str, Any]:
    """Packed latents and text of one image."""
    tokens = (side // 2) ** 2
    rows = torch.arange(tokens, device=DEVICE)
    places = torch.stack([torch.zeros_like(rows), rows // (side // 2), rows % (side // 2)], -1)
    return {
        "hidden_states": normal(1, tokens, 64),
        "encoder_hidden_states": normal(1, 512, 4096),
        "pooled_projections": normal(1, 768),
        "timestep": torch.full((1,), 0.5, device=DEVICE, dtype=DTYPE),
        "guidance": torch.full((1,), 3.5, device=DEVICE, dtype=DTYPE),
        "img_ids": places.to(DTYPE),
        "txt_ids": torch.zeros(512, 3, device=DEVICE, dtype=DTYPE),
    }


DENOISERS = [Denoiser("Stable Diffusion 2.1", sd21, sd_inputs, (32, 64, 96, 128) if CUDA else (32, 64, 96))]
if CUDA:
    DENOISERS.append(Denoiser("SDXL", sdxl, sdxl_inputs, (128, 256)))
    DENOISERS.append(Denoiser("FLUX.1, six blocks", flux, flux_inputs, (128, 256)))


Read = Callable[[], Any]
"""What is still to be computed after a forward, before the entropies are there."""


def nothing() -> None:
    """What plain sampling computes after a forward."""


@contextmanager
def plain(model: nn.Module) -> Iterator[Read]:
    """The model as it is."""
    yield nothing


@contextmanager
def seen(model: nn.Module) -> Iterator[Read]:
    """What seeing every attention call costs by itself, apart from measuring."""
    with intercept({"model": model}, lambda call: None):
        yield nothing


@contextmanager
def measured(model: nn.Module, rows: int | None = None) -> Iterator[Read]:
    """What this package does."""
    with entropylab.record(model, rows=rows):
        yield nothing


@contextmanager
def whole_maps(model: nn.Module) -> Iterator[Read]:
    """What measuring costs with whole maps: softmax, then its entropy, beside the model's own attention."""

    def entropy(call: Any) -> None:
        weights = (call.query @ call.key.transpose(-1, -2) * call.scale).softmax(-1)
        kept.append(entropy_of(weights))

    kept: list[Tensor] = []
    with intercept({"model": model}, entropy):
        yield kept.clear


def entropy_of(weights: Tensor) -> Tensor:
    """Mean row entropy (batch, heads) of maps."""
    return -(weights * weights.clamp(min=1e-30).log()).sum(-1).mean(-1)


CONTESTANTS: dict[str, Callable[[nn.Module], AbstractContextManager[Read]]] = {
    "plain": plain,
    "seen, not measured": seen,
    "exact": measured,
    "rows=256": partial(measured, rows=256),
    "whole maps": whole_maps,
}


def made(denoiser: Denoiser) -> nn.Module:
    """The model, ready."""
    torch.manual_seed(0)
    model = denoiser.build().eval()
    return model.to(DEVICE, DTYPE) if CUDA else model


@torch.no_grad()
def steps(model: nn.Module, inputs: dict[str, Any], read: Read, count: int) -> None:
    """So many forwards, each with what is computed of it."""
    for _ in range(count):
        model(**inputs)
        read()


def times(model: nn.Module, inputs: dict[str, Any], name: str) -> tuple[float, float]:
    """Time of the first forward inside a contestant's context, in which it finds its way, and of one later [s]."""
    with CONTESTANTS[name](model) as read:
        first = seconds(partial(steps, model, inputs, read, 1))
        return first, seconds(partial(steps, model, inputs, read, STEPS)) / STEPS


def why_not(model: nn.Module, inputs: dict[str, Any], name: str) -> str | None:
    """Why a contestant does not measure this, in its own words; also warms up."""
    try:
        with CONTESTANTS[name](model) as read:
            steps(model, inputs, read, 1)
    except (RuntimeError, MemoryError) as problem:
        return str(problem)
    return None


class Work:
    """Two forwards of one contestant."""

    def __init__(self, model: nn.Module, inputs: dict[str, Any], name: str) -> None:
        self.model, self.inputs, self.name = model, inputs, name

    def __call__(self) -> None:
        with CONTESTANTS[self.name](self.model) as read:
            steps(self.model, self.inputs, read, 2)


def make(index: int, side: int, name: str) -> Work:
    """The work of one contestant, in a process that has done nothing else."""
    return Work(made(DENOISERS[index]), DENOISERS[index].inputs(side), name)


def run(repeats: int) -> list[dict[str, Any]]:
    """One row per model, size and contestant; memory on a CPU at one size only, where a process each is needed."""
    rows = []
    for index, denoiser in enumerate(DENOISERS):
        model = made(denoiser)
        for side in denoiser.sizes:
            rows += run_size(model, index, side, repeats if CUDA or side <= MEMORY_AT else min(repeats, 2))
        del model
    return rows


def run_size(model: nn.Module, index: int, side: int, repeats: int) -> list[dict[str, Any]]:
    """The rows of one size: ratios to plain sampling, pair by pair."""
    inputs = DENOISERS[index].inputs(side)
    patient = CUDA or side <= MEMORY_AT
    refused = {name: why_not(model, inputs, name) for name in CONTESTANTS if patient or name != "whole maps"}
    names = [name for name, reason in refused.items() if reason is None]
    rounds = [{name: times(model, inputs, name) for name in names} for _ in range(repeats)]
    plain_steps = [one["plain"][1] for one in rounds]
    rows = []
    for name in refused:
        row = {"benchmark": DENOISERS[index].name, "case": f"latents {side}x{side}", "contestant": name}
        if refused[name] is not None:
            rows.append(row | {"refused": refused[name]})
            continue
        first, later = zip(*(one[name] for one in rounds), strict=True)
        row |= spread([time / base for time, base in zip(later, plain_steps, strict=True)])
        row["first_step"] = median(time / base for time, base in zip(first, plain_steps, strict=True))
        row["seconds"] = median(later)
        if CUDA or side == MEMORY_AT:
            row["memory_mib"] = peak_memory(partial(make, index, side, name))
            row["memory_ratio"] = row["memory_mib"] / (rows[0]["memory_mib"] if rows else row["memory_mib"])
        rows.append(row)
    return rows
