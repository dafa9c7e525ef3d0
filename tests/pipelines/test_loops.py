"""Schedulers of every order, a learned variance, and several calls in one recording."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

import entropylab

from ..conftest import new_random_pipeline
from ..sampling import sample
from .loops import TEXTS, agree, alone, doubled, guidance, looped, of_branch, sampled, separate


@pytest.mark.parametrize(
    ("scheduler", "steps"),
    [
        (HeunDiscreteScheduler(), 7),
        (PNDMScheduler(skip_prk_steps=True), 5),
        (UniPCMultistepScheduler(), 4),
        (EulerDiscreteScheduler(), 4),
        (DDPMScheduler(), 4),
    ],
    ids=lambda value: type(value).__name__,
)
def test_schedulers(pipe, scheduler, steps):
    """A scheduler of second order calls the denoiser twice a step; images are the same, watched or not."""
    predict = separate("uc", guidance(5.0)) if steps == 7 else doubled("uc", guidance(5.0))
    ds, latents, before = sampled(pipe, predict, scheduler=scheduler, steps=4)
    again = sampled(pipe, predict, scheduler=type(scheduler).from_config(scheduler.config), steps=4, look=False)
    assert torch.equal(latents, again)
    assert ds.sizes["step"] == steps
    assert list(ds.branch.values) == ["uncond", "cond"]
    agree(ds, pipe, before, cond="c", uncond="u")


def test_a_learned_variance_behind_the_noise():
    """The denoiser returns twice as many channels: noise is combined, the variance of one branch goes with it."""
    pipe = new_random_pipeline(
        out_channels=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )

    def with_variance(out, index):
        noise = {name: both.chunk(2, dim=1)[0] for name, both in out.items()}
        return torch.cat([guidance(5.0)(noise, index), out["c"].chunk(2, dim=1)[1]], 1)

    for order in ("uc", "cu"):
        ds, _, before = sampled(
            pipe, doubled(order, with_variance), scheduler=DDPMScheduler(variance_type="learned_range")
        )
        assert set(ds.branch.values) == {"cond", "uncond"}
        agree(ds, pipe, before, cond="c", uncond="u")


def test_calls_with_and_without_guidance_in_one_recording():
    pipe = new_random_pipeline()
    with entropylab.record(pipe) as rec:
        sample(pipe, (32, 32), ["a red car"], guidance=4.0)
        sample(pipe, (32, 32), ["a blue house"], guidance=1.0)
        sample(pipe, (32, 32), ["a red car", "a blue house"], guidance=4.0, guidance_rescale=0.5)
    ds = rec.dataset
    assert (set(ds.branch.values), ds.sizes["sample"]) == ({"cond", "uncond"}, 4)
    assert bool(of_branch(ds, "uncond").isel(sample=1).isnull().all())
    for index, (prompt, strength) in enumerate([("a red car", 4.0), ("a blue house", 1.0)]):
        with entropylab.record(pipe) as rec:
            sample(pipe, (32, 32), [prompt], guidance=strength)
        for branch in rec.dataset.branch.values:
            here = of_branch(ds, branch).isel(sample=[index])
            np.testing.assert_array_equal(here, of_branch(rec.dataset, branch))


def test_a_pipeline_call_and_a_loop_of_ones_own_in_one_recording(pipe):
    pipe.scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    predict, before = separate("cu", guidance(5.0)), []
    with entropylab.record(pipe) as rec, torch.no_grad():
        sample(pipe, (32, 32), ["a red car", "a blue house"], guidance=4.0)
        for _ in range(2):
            looped(pipe, predict, torch.randn(2, 4, 16, 16), before)
    ds = rec.dataset
    assert list(ds["size"].values) == ["32x32", "64x64"]
    assert list(ds.branch.values) == ["uncond", "cond"]
    assert ds.sizes["sample"] == 4
    for index in range(2):
        steps = before[3 * index : 3 * index + 3]
        for branch, text in (("cond", "c"), ("uncond", "u")):
            here = ds.entropy.sel(size="64x64", branch=branch).squeeze("scaling")
            here = here.transpose("sample", "step", "layer", "head").isel(sample=slice(2 * index, 2 * index + 2))
            np.testing.assert_allclose(here, alone(pipe, steps, TEXTS[text]), atol=2e-5)
