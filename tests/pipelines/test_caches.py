"""Caches of diffusers that leave out blocks, or a part of the batch: what was computed is in its place, no more."""

import numpy as np
import pytest
import torch
import xarray as xr
from diffusers import FasterCacheConfig, FirstBlockCacheConfig, PyramidAttentionBroadcastConfig

import entropylab

from ..zoo import BY_NAME
from ..zoo.check import call_of
from ..zoo.joint_parts import flux_call, two_steps
from ..zoo.reference import sight

FORMATS = {"Latte": "BCFHW", "CogVideoX": "BFCHW"}
"""How a family's denoiser returns a video, as FasterCache must be told."""


def cached(name, config):
    """A pipeline of a family whose transformer keeps what it computed for later steps."""
    pipe = BY_NAME[name].build()
    pipe.transformer.enable_cache(config)
    return pipe


def recorded(name, config):
    """A recording of such a pipeline, whose images are those without it."""
    plain = BY_NAME[name].sample(cached(name, config))
    with entropylab.record(cached(name, config)) as rec:
        assert torch.equal(plain, BY_NAME[name].sample(rec.pipe))
    assert rec.unmeasured == {}
    return rec.dataset.isel(size=0, scaling=0)


@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # diffusers' own
@pytest.mark.parametrize("name", FORMATS)
def test_the_half_that_is_computed_is_the_conditional_one(name):
    """The unconditional half of the batch is left out in the second step."""
    config = FasterCacheConfig(
        spatial_attention_timestep_skip_range=(-2, -1),
        temporal_attention_timestep_skip_range=(-2, -1),
        unconditional_batch_timestep_skip_range=(-1, 2000),
        current_timestep_callback=lambda: 500,
        attention_weight_callback=lambda _: 0.5,
        tensor_format=FORMATS[name],
    )
    family, pipe = BY_NAME[name], cached(name, config)
    with sight({"transformer": pipe.transformer}) as seen:
        family.sample(pipe)
    ds = recorded(name, config)
    assert set(ds.branch.values) == {"cond", "uncond"}
    assert {call_of(ds, layer) for layer in ds.layer.values} == set(seen.calls)
    for layer in ds.layer.values:
        whole, half = (call.entropy for call in seen.calls[call_of(ds, layer)])
        assert 2 * len(half) == len(whole), "the cache left nothing out: this test shows nothing"
        uncond, cond = whole.chunk(2)
        one = ds.entropy.sel(layer=layer).transpose("step", "branch", "sample", "head")
        for step, branch, rows in ((0, "uncond", uncond), (0, "cond", cond), (1, "cond", half)):
            part = family.rows(str(ds.part.sel(layer=layer).item())) or slice(None)
            wanted = rows[..., part].mean(-1).unflatten(0, (ds.sizes["sample"], -1)).mean(1)
            np.testing.assert_allclose(one.isel(step=step).sel(branch=branch), wanted, atol=1e-4)
        assert one.isel(step=1).sel(branch="uncond").isnull().all()


@pytest.mark.parametrize("family", ["FLUX.1, true guidance", "Wan 2.1"])
def test_blocks_that_are_skipped_are_missing_in_their_steps(family):
    """The first block always runs; the others only in the first step, as nothing is allowed to differ enough."""
    ds = recorded(family, FirstBlockCacheConfig(threshold=10.0))
    ran = ds.entropy.isel(sample=0, head=0).notnull()
    assert set(ds.branch.values) == set(BY_NAME[family].branches)
    for layer, block in zip(ds.layer.values, ds.block.values, strict=True):
        for steps in ran.sel(layer=layer).transpose("branch", "step").values:
            assert list(steps) == [True, block == ds.block.values[0]]


def test_steps_that_are_broadcast_are_missing():
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 2000),
        current_timestep_callback=lambda: 500,
        spatial_attention_block_identifiers=("transformer_blocks",),
    )
    ds = recorded("Latte", config)
    with entropylab.record(BY_NAME["Latte"].build()) as usual:
        BY_NAME["Latte"].sample(usual.pipe)
    ran = ds.entropy.isel(head=0, layer=ds.kind == "self").notnull()
    assert set(ran.all(("sample", "branch", "layer")).values) == {True, False}
    np.testing.assert_array_equal(ds.entropy.isel(step=0), usual.dataset.entropy.isel(size=0, scaling=0, step=0))


def test_steps_that_a_cache_leaves_out_as_a_whole_keep_the_numbers_of_the_others():
    """Every second step."""
    family, told = BY_NAME["FLUX.1"], []
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 2000),
        current_timestep_callback=lambda: 500,
        spatial_attention_block_identifiers=("transformer_blocks", "single_transformer_blocks"),
    )
    with entropylab.record(family.build()) as rec:
        two_steps(rec.pipe, *family.size, num_inference_steps=4, **flux_call())
    with entropylab.record(cached("FLUX.1", config), on_step=told.append) as left_out:
        two_steps(left_out.pipe, *family.size, num_inference_steps=4, **flux_call())
    one, other = rec.dataset, left_out.dataset
    np.testing.assert_array_equal(one.timestep, other.timestep)
    ran = other.entropy.notnull()
    assert ran.any([dim for dim in ran.dims if dim != "step"]).values.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(one.entropy.isel(step=0), other.entropy.isel(step=0))
    assert [ds.step.item() for ds in told] == [0, 2]
    assert [ds.timestep.item() for ds in told] == one.timestep.values[[0, 2]].tolist()


def test_two_denoisers_each_have_their_steps():
    family = BY_NAME["Wan 2.2"]
    pipe = family.build()
    plain = family.sample(family.build())
    with entropylab.record(pipe) as rec, entropylab.record(pipe, layers="transformer_2.*") as later:
        assert torch.equal(plain, family.sample(pipe))
    ds = rec.dataset
    xr.testing.assert_equal(later.dataset.entropy, ds.entropy.sel(layer=later.dataset.layer))
    ran = ds.entropy.isel(size=0, scaling=0, sample=0, head=0).notnull().transpose("layer", "branch", "step")
    for layer, steps in zip(ds.layer.values, ran.values, strict=True):
        first = layer.startswith("transformer.")
        assert {tuple(branch) for branch in steps} == {(first, first, not first)}
