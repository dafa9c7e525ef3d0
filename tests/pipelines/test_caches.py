"""Caches of diffusers that compute a part of the batch: what was computed lands in its branch, the rest is missing."""

import numpy as np
import pytest
import torch
from diffusers import FasterCacheConfig

import entropylab

from ..zoo import BY_NAME
from ..zoo.check import call_of
from ..zoo.reference import sight

FORMATS = {"Latte": "BCFHW", "Allegro": "BCFHW", "CogVideoX": "BFCHW"}
"""How a family's denoiser returns a video, as FasterCache must be told."""


def cached(name):
    """A pipeline whose denoiser leaves the unconditional half of its batch out in the second step."""
    config = FasterCacheConfig(
        spatial_attention_timestep_skip_range=(-2, -1),
        temporal_attention_timestep_skip_range=(-2, -1),
        unconditional_batch_timestep_skip_range=(-1, 2000),
        current_timestep_callback=lambda: 500,
        attention_weight_callback=lambda _: 0.5,
        tensor_format=FORMATS[name],
    )
    pipe = BY_NAME[name].build()
    pipe.transformer.enable_cache(config)
    return pipe


@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # diffusers' own
@pytest.mark.parametrize("name", FORMATS)
def test_the_half_that_is_computed_is_the_conditional_one(name):
    family = BY_NAME[name]
    plain = family.sample(cached(name))
    pipe = cached(name)
    with sight({"transformer": pipe.transformer}) as seen:
        family.sample(pipe)
    pipe = cached(name)
    with entropylab.record(pipe) as rec:
        assert torch.equal(plain, family.sample(pipe))
    ds = rec.dataset.isel(size=0, scaling=0)
    assert rec.unmeasured == {}
    assert set(ds.branch.values) == {"cond", "uncond"}
    assert {call_of(ds, layer) for layer in ds.layer.values} == set(seen.calls)
    for layer in ds.layer.values:
        whole, half = (call.entropy for call in seen.calls[call_of(ds, layer)])
        assert 2 * len(half) == len(whole), "the cache left nothing out: this test shows nothing"
        uncond, cond = whole.chunk(2)
        one = ds.entropy.sel(layer=layer).transpose("step", "branch", "sample", "head")
        for step, branch, rows in ((0, "uncond", uncond), (0, "cond", cond), (1, "cond", half)):
            part = family.rows(str(ds.part.sel(layer=layer).item()), rows.shape[-1]) or slice(None)
            wanted = rows[..., part].mean(-1).unflatten(0, (ds.sizes["sample"], -1)).mean(1)
            np.testing.assert_allclose(one.isel(step=step).sel(branch=branch), wanted, atol=1e-4)
        assert one.isel(step=1).sel(branch="uncond").isnull().all()
