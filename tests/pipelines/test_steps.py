"""Steps that skip blocks or denoisers, schedulers of second order, and pipelines inside of pipelines."""

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig

import entropylab

from ..zoo import BY_NAME


def cached(family, config):
    """A pipeline of a family whose transformer keeps what it computed for later steps."""
    pipe = BY_NAME[family].build()
    pipe.transformer.enable_cache(config)
    return pipe


@pytest.mark.parametrize("family", ["FLUX.1", "FLUX.1, true guidance", "Wan 2.1"])
def test_blocks_that_are_skipped_are_missing_in_their_steps(family):
    """The first block always runs; the others only in the first step, as nothing is allowed to differ enough."""
    config, sample = FirstBlockCacheConfig(threshold=10.0), BY_NAME[family].sample
    plain = sample(cached(family, config))
    pipe = cached(family, config)
    with entropylab.record(pipe) as rec:
        images = sample(pipe)
    assert torch.equal(plain, images)
    assert rec.unmeasured == {}
    ran = rec.dataset.entropy.isel(size=0, scaling=0, sample=0, head=0).notnull()
    blocks = list(dict.fromkeys(rec.dataset.block.values))
    assert set(rec.dataset.branch.values) == set(BY_NAME[family].branches)
    for layer, block in zip(rec.dataset.layer.values, rec.dataset.block.values, strict=True):
        for steps in ran.sel(layer=layer).transpose("branch", "step").values:
            assert list(steps) == [True, block == blocks[0]]


def test_steps_that_are_broadcast_are_missing():
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 2000),
        current_timestep_callback=lambda: 500,
        spatial_attention_block_identifiers=("transformer_blocks",),
    )
    sample = BY_NAME["Latte"].sample
    plain = sample(cached("Latte", config))
    pipe = cached("Latte", config)
    with entropylab.record(pipe) as rec:
        images = sample(pipe)
    assert torch.equal(plain, images)
    with entropylab.record(BY_NAME["Latte"].build()) as usual:
        sample(usual.pipe)
    ds, other = rec.dataset, usual.dataset
    ran = ds.entropy.isel(size=0, scaling=0, head=0, layer=ds.kind == "self").notnull()
    assert set(ran.all(("sample", "branch", "layer")).values) == {True, False}
    np.testing.assert_array_equal(ds.entropy.isel(step=0), other.entropy.isel(step=0))


def test_two_denoisers_each_have_their_steps():
    family = BY_NAME["Wan 2.2"]
    pipe = family.build()
    plain = family.sample(family.build())
    with entropylab.record(pipe) as rec:
        assert torch.equal(plain, family.sample(pipe))
    ds = rec.dataset
    ran = ds.entropy.isel(size=0, scaling=0, sample=0, head=0).notnull().transpose("layer", "branch", "step")
    for layer, steps in zip(ds.layer.values, ran.values, strict=True):
        first = layer.startswith("transformer.")
        assert {tuple(branch) for branch in steps} == {(first, first, not first)}
