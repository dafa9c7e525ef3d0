"""``record`` on pipelines: the right numbers of every layer, head, step, branch and size."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

import entropylab
from entropylab.errors import EntropyLabError, EntropyLabWarning

from ..maps import materialised
from ..sampling import sample


@pytest.mark.parametrize("size", [(64, 64), (72, 40)])
def test_every_layer_and_head_against_float64_maps(random_pipe, size):
    with entropylab.record(random_pipe) as rec:
        sample(random_pipe, size)
    with materialised(random_pipe.unet) as maps:
        sample(random_pipe, size)
    compare(rec.dataset, maps, samples=2)
    assert rec.unmeasured == {}
    with pytest.raises(AssertionError):
        compare(rec.dataset.assign(entropy=rec.dataset.entropy.roll(head=1, roll_coords=False)), maps, samples=2)


def test_embedded_pipeline_against_float64_maps(embedded):
    with entropylab.record(embedded) as rec:
        sample(embedded, (96, 64), steps=2, guidance=3.0)
    with materialised(embedded.unet) as maps:
        sample(embedded, (96, 64), steps=2, guidance=3.0)
    compare(rec.dataset, maps, samples=2)


def compare(ds, maps, samples):
    """Entropy within 1e-4 nats and sigma^2 within 1e-4 of independent maps, for every layer, head, step, branch."""
    assert list(ds.layer.values) == list(maps)
    for layer, calls in maps.items():
        heads = calls[0][0].shape[1]
        for index, name in enumerate(["entropy", "sigma2"]):
            expected = torch.stack([call[index].mean(-1) for call in calls])
            expected = expected.unflatten(1, (-1, samples)).permute(1, 2, 0, 3)
            measured = ds[name].sel(layer=layer).isel(size=0, scaling=0, head=slice(heads))
            measured = measured.transpose("branch", "sample", "step", "head").values
            np.testing.assert_allclose(measured, expected.numpy(), atol=1e-4, rtol=1e-4)
        spread = ds.entropy_std.sel(layer=layer).isel(size=0, scaling=0, head=slice(heads)).values
        expected = torch.stack([call[0].std(-1, unbiased=False) for call in calls])
        expected = expected.unflatten(1, (-1, samples)).permute(1, 2, 0, 3).numpy()
        np.testing.assert_allclose(spread, expected, atol=2e-4)


def test_coordinates(random_pipe):
    with entropylab.record(random_pipe) as rec:
        sample(random_pipe, (64, 96))
    ds = rec.dataset
    assert ds.sizes["branch"] == 2
    assert list(ds.branch.values) == ["uncond", "cond"]
    assert (int(ds.height[0]), int(ds.width[0])) == (64, 96)
    selfs = ds.isel(layer=ds.kind == "self")
    assert set(selfs.tokens.values.ravel()) == {384, 96}
    assert set(selfs.train_tokens.values) == {256, 64}
    assert set(ds.tokens.isel(layer=ds.kind == "cross").values.ravel()) == {24}
    np.testing.assert_array_equal(ds.timestep, random_pipe.scheduler.timesteps.numpy())
    assert ds.entropy.attrs["units"] == "nats"
    assert set(ds.block.values) == {"down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"}


def test_branches_are_not_mixed_up(random_pipe):
    """Sampling the empty prompt alone gives what the uncond branch gave at the first step, where the noise agrees."""
    with entropylab.record(random_pipe) as rec:
        sample(random_pipe, steps=1)
    with entropylab.record(random_pipe) as alone:
        sample(random_pipe, steps=1, guidance=1.0, prompts=["", ""])
    assert list(alone.dataset.branch.values) == ["cond"]
    uncond, cond = (rec.dataset.entropy.sel(branch=branch).values for branch in ("uncond", "cond"))
    empty = alone.dataset.entropy.sel(branch="cond").values
    np.testing.assert_allclose(uncond, empty, atol=1e-5)
    assert np.nanmax(np.abs(cond - empty)) > 1e-4


def test_several_calls_and_sizes_in_one_recording(random_pipe):
    with entropylab.record(random_pipe) as rec:
        sample(random_pipe, (32, 32))
        sample(random_pipe, (64, 64))
        sample(random_pipe, (64, 64), prompts=["a red car"])
    ds = rec.dataset
    assert list(ds["size"].values) == ["32x32", "64x64"]
    assert ds.sizes["sample"] == 3
    assert bool(ds.entropy.sel(size="32x32").isel(sample=2).isnull().all())
    assert bool(ds.entropy.sel(size="64x64").isel(layer=0, head=0).notnull().all())


def test_a_layer_that_hides_its_attention_is_named(random_pipe):
    class Hidden:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
            return hidden_states

    path = "mid_block.attentions.0.transformer_blocks.0.attn1"
    random_pipe.unet.get_submodule(path).set_processor(Hidden())
    with pytest.warns(EntropyLabWarning, match=r"could not be measured.*mid_block"):
        with entropylab.record(random_pipe) as rec:
            sample(random_pipe)
    assert list(rec.unmeasured) == [f"unet.{path}"]
    assert path in rec.dataset.attrs["unmeasured"]
    with pytest.raises(EntropyLabError, match=r"could not be measured.*mid_block"):
        with entropylab.record(random_pipe, strict=True):
            sample(random_pipe)


def test_a_loop_with_a_scheduler_of_its_own_counts_forwards(random_pipe):
    scheduler = DDPMScheduler()
    scheduler.set_timesteps(4)
    latents, text = torch.randn(1, 4, 16, 16), torch.zeros(1, 24, 128)
    with entropylab.record(random_pipe) as rec, torch.no_grad():
        for timestep in scheduler.timesteps:
            noise = random_pipe.unet(latents, timestep, encoder_hidden_states=text).sample
            latents = scheduler.step(noise, timestep, latents).prev_sample
    assert dict(rec.dataset.sizes) == {
        "size": 1, "scaling": 1, "branch": 1, "sample": 1, "step": 4, "layer": 14, "head": 4
    }  # fmt: skip
    np.testing.assert_array_equal(rec.dataset.timestep, scheduler.timesteps)


def test_steps_that_had_several_timesteps_say_none(random_pipe):
    """Of two calls where they differ, and of the images of a batch that is trained on."""
    with entropylab.record(random_pipe) as rec:
        for steps in (2, 3):
            sample(random_pipe, steps=steps)
    assert rec.dataset.sizes["step"] == 3
    np.testing.assert_array_equal(rec.dataset.timestep, [np.nan, np.nan, 1])
    with entropylab.record(random_pipe) as rec:
        for _ in range(2):
            sample(random_pipe, steps=2)
    np.testing.assert_array_equal(rec.dataset.timestep, [501, 1])
    inputs = torch.zeros(2, 4, 8, 8), torch.zeros(2, 5, random_pipe.unet.config.cross_attention_dim)
    with entropylab.record(random_pipe.unet) as rec:
        for times in ([5, 5], [5, 7]):
            random_pipe.unet(inputs[0], torch.tensor(times), inputs[1])
    np.testing.assert_array_equal(rec.dataset.timestep, [5, np.nan])
