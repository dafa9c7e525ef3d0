"""Denoisers of full size with random weights, a step with guidance: plain, and measured in several ways."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import entropylab
from entropylab.capture import intercept

from .paired import peak_memory, time_ratios

CUDA = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.float16) if CUDA else ("cpu", torch.float32)


@dataclass(frozen=True)
class Denoiser:
    """A model of full size.

    Attributes:
        name: as people say it.
        build: makes it, with random weights.
        inputs: latent size -> what its forward takes, for one image with guidance.
        sizes: latent sizes to time.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, Any]]
    sizes: tuple[int, ...]


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


@contextmanager
def maps(model: nn.Module) -> Iterator[None]:
    """What measuring costs with whole maps: softmax, then its entropy, beside the model's own attention."""

    def entropy(call: Any) -> None:
        weights = (call.query @ call.key.transpose(-1, -2) * call.scale).softmax(-1)
        kept.append(-(weights * weights.clamp(min=1e-30).log()).sum(-1).mean(-1))

    kept: list[Tensor] = []
    with intercept({"model": model}, entropy):
        yield


def contexts(model: nn.Module) -> dict[str, Callable[[], AbstractContextManager]]:
    """The contestants: what to run the model inside of."""
    return {
        "plain": nullcontext,
        "seen, not measured": lambda: intercept({"model": model}, lambda call: None),
        "exact": lambda: entropylab.record(model),
        "rows=256": lambda: entropylab.record(model, rows=256),
        "whole maps": lambda: maps(model),
    }


def made(denoiser: Denoiser) -> nn.Module:
    """The model, ready."""
    torch.manual_seed(0)
    return denoiser.build().to(DEVICE, DTYPE).eval()


class Work:
    """One contestant: steps of a model inside its context, which is entered once, before the first step."""

    def __init__(self, model: nn.Module, inputs: dict[str, Any], enter: Callable[[], AbstractContextManager]) -> None:
        self.model, self.inputs, self.enter = model, inputs, enter

    @torch.no_grad()
    def __call__(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(self.enter())
            for _ in range(10 if CUDA else 1):
                self.model(**self.inputs)


def make(index: int, side: int, name: str) -> Work:
    """The work of one contestant, in a process that has done nothing else."""
    model = made(DENOISERS[index])
    return Work(model, DENOISERS[index].inputs(side), contexts(model)[name])


def run(repeats: int, sides: tuple[int, ...] | None = None) -> list[dict[str, Any]]:
    """One row per model, size and contestant; memory at the sizes below 96."""
    rows = []
    for index, denoiser in enumerate(DENOISERS):
        model = made(denoiser)
        for side in sides or denoiser.sizes:
            inputs = denoiser.inputs(side)
            works = {name: Work(model, inputs, enter) for name, enter in contexts(model).items()}
            times = time_ratios(works, repeats)
            memory = {name: peak_memory(partial(make, index, side, name)) for name in works if CUDA or side == 64}
            for name, time in times.items():
                row = {"benchmark": denoiser.name, "case": f"latents {side}x{side}", "contestant": name, **time}
                if memory:
                    row |= {"memory_ratio": memory[name] / memory["plain"], "memory_mib": memory[name]}
                rows.append(row)
        del model
    return rows
