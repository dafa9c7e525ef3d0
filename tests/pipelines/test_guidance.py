"""Guidance branches told apart by what the pipeline makes of them, steps that skip, and pipelines called in any way."""

from functools import partial

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
from ..maps import materialised
from ..zoo import FAMILIES

BY_NAME = {family.name: family for family in FAMILIES}
TEXTS = {
    name: torch.randn(2, 24, 128, generator=torch.Generator().manual_seed(seed)) * 2 for seed, name in enumerate("cut")
}
"""Embeddings of two prompts, of none, and of a third kind."""


@pytest.fixture(scope="module")
def pipe():
    return new_random_pipeline(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D")
    )


def start(samples=2):
    return torch.randn(samples, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def sampled(pipe, predict, latents=None, scheduler=None, steps=3, look=True):
    """A loop of one's own with the pipeline's scheduler: the Dataset, the latents, and those of every step."""
    pipe.scheduler = scheduler or DDIMScheduler(steps_offset=1, clip_sample=False)
    latents, before = start() if latents is None else latents, []
    if not look:
        return looped(pipe, predict, latents, before, steps)
    with entropylab.record(pipe) as rec:
        latents = looped(pipe, predict, latents, before, steps)
    assert rec.unmeasured == {}
    return rec.dataset, latents, before


@torch.no_grad()
def looped(pipe, predict, latents, before, steps=3):
    torch.manual_seed(1)  # for schedulers that draw noise
    pipe.scheduler.set_timesteps(steps)
    for index, timestep in enumerate(pipe.scheduler.timesteps):
        scaled = pipe.scheduler.scale_model_input(latents, timestep)
        before.append((scaled, timestep))
        latents = pipe.scheduler.step(predict(pipe, index, scaled, timestep), timestep, latents).prev_sample
    return latents


def net(pipe, latents, timestep, text):
    return pipe.unet(latents, timestep, encoder_hidden_states=text).sample


def doubled(order, combine):
    """All branches in one batch."""

    def predict(pipe, index, latents, timestep):
        text = torch.cat([TEXTS[name] for name in order])
        outputs = net(pipe, torch.cat([latents] * len(order)), timestep, text).chunk(len(order))
        return combine(dict(zip(order, outputs, strict=True)), index)

    return predict


def separate(order, combine):
    """Every branch in a call of its own."""

    def predict(pipe, index, latents, timestep):
        return combine({name: net(pipe, latents, timestep, TEXTS[name]) for name in order}, index)

    return predict


def guidance(scale):
    return lambda out, index: out["u"] + scale * (out["c"] - out["u"])


def with_std_of_cond(out, index, share=0.7):
    """As ``guidance_rescale`` does."""
    guided, axes = guidance(5.0)(out, index), (1, 2, 3)
    fitting = guided * out["c"].std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return share * fitting + (1 - share) * guided


def starting_from_zero(out, index):
    """As CFG-zero does: its first step is no step."""
    return 0 * out["c"] if index == 0 else guidance(5.0)(out, index)


def three_branches(out, index):
    return out["u"] + 1.5 * (out["t"] - out["u"]) + 6 * (out["c"] - out["t"])


COMBINATIONS = {
    "strong": guidance(7.5),
    "weak": guidance(1.2),
    "one": guidance(1.0),
    "negated": lambda out, index: -guidance(5.0)(out, index),
    "rescaled": with_std_of_cond,
    "rescaled wholly": partial(with_std_of_cond, share=1.0),
    "stronger each step": lambda out, index: guidance(2.0 + 3 * index)(out, index),
    "in half precision": lambda out, index: guidance(5.0)(out, index).half().float(),
    "from zero": starting_from_zero,
}


def alone(pipe, before, text):
    """Entropies by running the denoiser with one text alone on the latents of every step, by whole maps in float64."""
    with materialised(pipe.unet) as maps, torch.no_grad():
        for latents, timestep in before:
            net(pipe, latents, timestep, text)
    heads = max(calls[0][0].shape[1] for calls in maps.values())
    found = np.full((len(text), len(before), len(maps), heads), np.nan)
    for index, calls in enumerate(maps.values()):
        for step, (entropy, _) in enumerate(calls):
            found[:, step, index, : entropy.shape[1]] = entropy.mean(-1)
    return found


def of_branch(ds, branch):
    return ds.entropy.sel(branch=branch).squeeze(("size", "scaling")).transpose("sample", "step", "layer", "head")


def agree(ds, pipe, before, **texts):
    """Every branch has the numbers of a run of the denoiser with that branch's text alone."""
    for branch, text in texts.items():
        np.testing.assert_allclose(of_branch(ds, branch), alone(pipe, before, TEXTS[text]), atol=2e-5)


WAYS = pytest.mark.parametrize(("way", "order"), [(doubled, "uc"), (separate, "cu")])


@WAYS
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_branches_have_the_numbers_of_their_text_alone(pipe, combination, way, order):
    ds, _, before = sampled(pipe, way(order, COMBINATIONS[combination]))
    assert set(ds.branch.values) == {"cond", "uncond"}
    agree(ds, pipe, before, cond="c", uncond="u")


def test_agreement_would_notice_branches_that_are_swapped(pipe):
    ds, _, before = sampled(pipe, doubled("uc", guidance(5.0)))
    with pytest.raises(AssertionError):
        agree(ds, pipe, before, cond="u", uncond="c")


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.7])
@WAYS
def test_branches_that_are_mixed_and_not_guided_get_no_names(pipe, order, way, scale):
    """(1 - s) uncond + s cond with 0 < s < 1 looks the same with s and 1 - s the other way round."""
    ds, _, before = sampled(pipe, way(order, guidance(scale)))
    assert list(ds.branch.values) == ["branch 0", "branch 1"]
    agree(ds, pipe, before, **{f"branch {index}": text for index, text in enumerate(order)})


@pytest.mark.parametrize(("way", "order"), [(doubled, "utc"), (separate, "cut"), (doubled, "ctu")])
def test_three_branches(pipe, way, order):
    ds, _, before = sampled(pipe, way(order, three_branches))
    assert set(ds.branch.values) == {"cond", "uncond", "uncond 2"}
    others = [text for text in order if text != "c"]
    agree(ds, pipe, before, cond="c", **dict(zip(("uncond", "uncond 2"), others, strict=True)))


@pytest.mark.parametrize("way", [doubled, separate])
def test_guidance_in_some_steps_only(pipe, way):
    """Steps without guidance have the conditional branch alone."""

    def predict(pipe, index, latents, timestep):
        guided = way("uc", guidance(5.0))
        return guided(pipe, index, latents, timestep) if index == 1 else net(pipe, latents, timestep, TEXTS["c"])

    ds, _, before = sampled(pipe, predict)
    assert set(ds.branch.values) == {"cond", "uncond"}
    agree(ds, pipe, before, cond="c")
    uncond = of_branch(ds, "uncond")
    assert list(uncond.isnull().all(("sample", "layer", "head")).values) == [True, False, True]
    np.testing.assert_allclose(uncond.isel(step=[1]), alone(pipe, before[1:2], TEXTS["u"]), atol=2e-5)


def test_branches_that_are_equal_are_not_named(pipe):
    ds, _, before = sampled(pipe, doubled("cc", lambda out, index: out["c"]))
    assert list(ds.branch.values) == ["branch 0", "branch 1"]
    assert ds.sizes["sample"] == 2
    agree(ds, pipe, before, **{"branch 0": "c", "branch 1": "c"})


def test_equal_samples_without_guidance_are_samples(pipe):
    """Two images from the same seed and prompt are in no way two branches."""
    text = TEXTS["c"][:1].expand(2, -1, -1)
    latents = start(1).expand(2, -1, -1, -1)
    ds, _, _ = sampled(pipe, lambda pipe, index, latents, timestep: net(pipe, latents, timestep, text), latents)
    assert list(ds.branch.values) == ["cond"]
    assert ds.sizes["sample"] == 2
    np.testing.assert_allclose(ds.entropy.isel(sample=0), ds.entropy.isel(sample=1), atol=1e-6)


def test_equal_samples_with_guidance_are_samples(pipe):
    latents, texts = start(1).expand(2, -1, -1, -1), {name: text[:1].expand(2, -1, -1) for name, text in TEXTS.items()}

    def predict(pipe, index, latents, timestep):
        outputs = net(pipe, torch.cat([latents] * 2), timestep, torch.cat([texts["u"], texts["c"]])).chunk(2)
        return guidance(4.0)(dict(zip("uc", outputs, strict=True)), index)

    ds, _, _ = sampled(pipe, predict, latents)
    assert (list(ds.branch.values), ds.sizes["sample"]) == (["uncond", "cond"], 2)


@pytest.mark.parametrize(("order", "scale"), [("uc", 4.0), ("cu", 4.0), ("cu", 1.0)])
def test_a_doubled_sample_that_is_stepped_whole(pipe, order, scale):
    """As DiT does: both halves of the latents are the same, and both are stepped."""

    def predict(pipe, index, latents, timestep):
        half, count = latents.chunk(2)[0], len(latents) // 2
        outputs = net(pipe, torch.cat([half] * 2), timestep, torch.cat([TEXTS[name][:count] for name in order]))
        guided = guidance(scale)(dict(zip(order, outputs.chunk(2), strict=True)), index)
        return torch.cat([guided] * 2)

    ds, _, before = sampled(pipe, predict, torch.cat([start(1)] * 2))
    assert (set(ds.branch.values), ds.sizes["sample"]) == ({"cond", "uncond"}, 1)
    halves = [(latents[:1], timestep) for latents, timestep in before]
    for branch, text in (("cond", "c"), ("uncond", "u")):
        np.testing.assert_allclose(of_branch(ds, branch), alone(pipe, halves, TEXTS[text][:1]), atol=2e-5)


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


def call(pipe, prompts, guidance_scale=4.0, **options):
    generators = [torch.Generator().manual_seed(index) for index in range(len(prompts))]
    return pipe(
        prompts, height=32, width=32, generator=generators, output_type="latent", guidance_scale=guidance_scale,
        **({"num_inference_steps": 3} | options),
    ).images  # fmt: skip


def test_calls_with_and_without_guidance_in_one_recording():
    pipe = new_random_pipeline()
    with entropylab.record(pipe) as rec:
        call(pipe, ["a red car"])
        call(pipe, ["a blue house"], guidance_scale=1.0)
        call(pipe, ["a red car", "a blue house"], guidance_rescale=0.5)
    ds = rec.dataset
    assert (set(ds.branch.values), ds.sizes["sample"]) == ({"cond", "uncond"}, 4)
    assert bool(of_branch(ds, "uncond").isel(sample=1).isnull().all())
    for index, options in enumerate([{}, {"guidance_scale": 1.0}]):
        with entropylab.record(pipe) as rec:
            call(pipe, [["a red car"], ["a blue house"]][index], **options)
        for branch in rec.dataset.branch.values:
            here = of_branch(ds, branch).isel(sample=[index])
            np.testing.assert_array_equal(here, of_branch(rec.dataset, branch))


def test_a_pipeline_call_and_a_loop_of_ones_own_in_one_recording(pipe):
    pipe.scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    predict, before = separate("cu", guidance(5.0)), []
    with entropylab.record(pipe) as rec, torch.no_grad():
        call(pipe, ["a red car", "a blue house"])
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
