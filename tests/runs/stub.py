"""A pipeline that costs nothing, a denoiser with one layer of attention; what is measured of it, and judged."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

import entropylab

from ..attention import PlainAttention

WIDTH = 16


class Denoiser(nn.Module):
    """One layer of attention between two projections; ``spoil(query_input)`` may put NaN into it."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"sample_size": 4}
        self.before, self.attn1, self.after = nn.Linear(4, WIDTH), PlainAttention(WIDTH), nn.Linear(WIDTH, 4)
        self.spoil = lambda hidden: hidden

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        height, width = sample.shape[-2:]
        hidden = self.before(sample.flatten(2).transpose(1, 2)) + encoder_hidden_states
        hidden = self.attn1(self.spoil(3 * hidden))
        return self.after(hidden).transpose(1, 2).unflatten(-1, (height, width))


class Stub:
    """Samples in two steps; a prompt counts by its length."""

    vae_scale_factor = 8
    default_sample_size = 4
    name_or_path = "stub"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.unet = Denoiser().eval()
        with torch.no_grad():
            for parameter in self.unet.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
        self.components = {"unet": self.unet}
        self.config = SimpleNamespace(sample_size=4)
        self.calls = 0
        self.on_call = lambda self: None

    @torch.no_grad()
    def __call__(
        self, prompt: Any, height: int, width: int, generator: Any, num_inference_steps: int = 2, output_type: str = ""
    ) -> Tensor:
        self.calls += 1
        self.on_call(self)
        shape = (4, height // 8, width // 8)
        latents = torch.stack([torch.randn(shape, generator=one) for one in generator])
        text = torch.tensor([float(len(one) % 7) for one in prompt])[:, None, None].expand(-1, 1, WIDTH)
        for step in range(num_inference_steps):
            latents = latents - 0.1 * self.unet(latents, torch.tensor(999 - step), encoder_hidden_states=text)
        return latents


PROMPTS = [f"a {'very ' * (i % 5)}red car" for i in range(8)]
SAMPLES = ("branch", "sample", "step", "layer", "head")


def measure(out: Any = None, pipe: Any = None, **options: Any) -> xr.Dataset:
    """A short measurement of the stub; with ``out``, as a run."""
    settings = {"prompts": PROMPTS, "scaling": ("original", 1.5), "batch_size": 2, "progress": False}
    return entropylab.measure(pipe or Stub(), options.pop("sizes", [32, (32, 48)]), out=out, **settings | options)


def again(run: Any, pipe: Any = None, **options: Any) -> xr.Dataset:
    """The command that made the run of the fixture: four units."""
    return measure(run, pipe, **{"scaling": "original", "sizes": [32], **options})


def bare(ds: xr.Dataset) -> xr.Dataset:
    """A Dataset without what says where it comes from."""
    return ds.drop_attrs(deep=False)


def check(found: xr.Dataset, expected: xr.Dataset) -> None:
    """A run that was disturbed has the result of one that was not, bit for bit."""
    if not bare(found).identical(bare(expected)):
        raise AssertionError("the result differs from that of an undisturbed run")


def files(run: Path) -> list[Path]:
    return sorted((run / "units").glob("*.nc"))


class Brightness(nn.Module):
    """Features: the mean of each colour."""

    name, num_features = "brightness", 3

    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean((-2, -1)) / 255


def judged(pipe: Any, **options: Any) -> xr.Dataset:
    """An evaluation of 12 pictures by their brightness."""
    given = {"samples": 12, "metrics": ("fid",), "resamples": 2, "progress": False, "features": Brightness()}
    return entropylab.evaluate(pipe, **given | {"reference": np.random.default_rng(0).random((50, 3))} | options)
