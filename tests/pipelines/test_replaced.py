"""Parts that take the place of others while somebody looks: they are followed, wherever they are."""

import copy

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from torch import nn

import entropylab

from ..attention import PlainAttention
from ..conftest import new_random_pipeline
from ..measuring import layers as denoisers
from ..sampling import sample
from ..seeds import normal
from ..state import state_of_pipeline
from .test_guidance import FEW_LAYERS


def euler(pipe):
    return EulerDiscreteScheduler.from_config(pipe.scheduler.config)


def sample_small(pipe):
    return sample(pipe, (32, 32), steps=2)


PUT = {"by attribute": setattr, "by registration": lambda pipe, name, part: pipe.register_modules(**{name: part})}


@pytest.mark.parametrize("put", PUT.values(), ids=PUT)
def test_a_scheduler(random_pipe, put):
    with entropylab.record(random_pipe, strict=True) as rec:
        sample_small(random_pipe)
        put(random_pipe, "scheduler", euler(random_pipe))
        sample_small(random_pipe)
    ds = rec.dataset
    assert ds.branch.values.tolist() == ["uncond", "cond"]
    assert (ds.sizes["size"], ds.sizes["sample"], ds.sizes["step"]) == (1, 4, 2)
    assert bool(ds.entropy.isel(head=0).notnull().all())


def test_a_scheduler_in_a_loop_of_ones_own(random_pipe):
    latents, text = normal(2, 4, 16, 16), normal(2, 9, random_pipe.unet.config.cross_attention_dim)
    with torch.no_grad(), entropylab.record(random_pipe, strict=True) as rec:
        random_pipe.scheduler = scheduler = euler(random_pipe)
        scheduler.set_timesteps(2)
        for timestep in scheduler.timesteps:
            noise = random_pipe.unet(latents, timestep, text).sample
            noise = noise[:1] + 2 * (noise[1:] - noise[:1])
            latents = scheduler.step(noise, timestep, latents[:1]).prev_sample.expand(2, -1, -1, -1)
    assert (set(rec.dataset.branch.values), rec.dataset.sizes["step"]) == ({"uncond", "cond"}, 2)


def test_a_denoiser():
    pipe = new_random_pipeline(**FEW_LAYERS)
    with entropylab.record(pipe, strict=True) as rec:
        sample_small(pipe)
        before = set(rec.dataset.layer.values)
        pipe.unet = new_random_pipeline().unet
        sample_small(pipe)
    with entropylab.record(pipe) as alone:
        sample_small(pipe)
    assert rec.dataset.sizes["sample"] == 4
    assert set(alone.dataset.layer.values) > before
    second = rec.dataset.entropy.sel(layer=alone.dataset.layer).isel(sample=slice(2, 4))
    np.testing.assert_allclose(second, alone.dataset.entropy, rtol=1e-5)


def test_a_denoiser_that_is_rescaled_and_everything_is_as_it_was(random_pipe):
    own, first, before = type(random_pipe).__setattr__, random_pipe.unet, state_of_pipeline(random_pipe)
    handle = entropylab.rescale(random_pipe, 1.5)
    random_pipe.unet = other = copy.deepcopy(first)
    with entropylab.record(random_pipe, layers="self") as rec:
        assert type(random_pipe).__setattr__ is not own
        random_pipe.scheduler = euler(random_pipe)
        scaled = sample_small(random_pipe)
    assert set(handle.multipliers.values()) == {1.5}
    assert rec.dataset.scaling.values.tolist() == ["1.5"]
    handle.remove()
    assert not torch.equal(scaled, sample_small(random_pipe))
    assert type(random_pipe).__setattr__ is own
    assert not any(part._forward_hooks or part._forward_pre_hooks for unet in (first, other) for part in unet.modules())
    assert state_of_pipeline(random_pipe)[0] == before[0]
    assert not [name for name in vars(random_pipe.scheduler) if "followed" in name]


def test_a_denoiser_in_a_wrapper_is_seen_once(random_pipe):
    class Wrapper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.config, self.add_embedding = inner, inner.config, None

        dtype, device = torch.float32, torch.device("cpu")

        def forward(self, sample, timestep, **more):
            return self.inner(sample, timestep, **more)

    with entropylab.record(random_pipe, strict=True) as rec:
        sample_small(random_pipe)
        random_pipe.unet = Wrapper(random_pipe.unet)
        sample_small(random_pipe)
    assert rec.dataset.sizes["sample"] == 4
    assert bool(rec.dataset.entropy.isel(head=0).notnull().all())


def test_a_layer_inside_a_denoiser():
    model = denoisers.Denoiser()
    with entropylab.record(model, strict=True) as rec:
        denoisers.run(model)
        model.layers[1] = denoisers.SomeAttention()
        denoisers.run(model)
        model.layers.append(PlainAttention(8))
        denoisers.run(model)
    with entropylab.rescale(model, 1.5) as handle:
        denoisers.run(model)
        model.layers.append(PlainAttention(8))
        denoisers.run(model)
    assert handle.multipliers == dict.fromkeys([f"model.layers.{index}" for index in range(4)], 1.5)
    assert rec.dataset.layer.values.tolist() == ["model.layers.0", "model.layers.1", "model.layers.2"]
    known = rec.dataset.entropy.notnull().all(["sample", "head"]).squeeze().values
    assert known.tolist() == [[True, True, False], [True, True, False], [True, True, True]]
