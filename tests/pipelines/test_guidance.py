"""Guidance branches told apart by what the pipeline makes of them, in loops of one's own, with any scheduler."""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, HeunDiscreteScheduler, PNDMScheduler, UniPCMultistepScheduler

import entropylab
from entropylab.pipelines.guidance import Branch, Handed, Texts, evidence

from ..conftest import new_random_pipeline
from ..maps import materialised
from ..sampling import sample
from ..seeds import normal

TEXTS = {name: 2 * normal(2, 24, 128, seed=seed) for seed, name in enumerate("cut")}
"""Embeddings of two prompts, of none, and of a third kind."""

FEW_LAYERS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}


@pytest.fixture(scope="module")
def pipe():
    return new_random_pipeline(**FEW_LAYERS)


def start(samples=2):
    return normal(samples, 4, 8, 8, seed=5)


def sampled(pipe, predict, latents=None, scheduler=None, steps=3):
    """A loop of one's own with the pipeline's scheduler: the Dataset, the latents, and those of every step."""
    pipe.scheduler = scheduler or DDIMScheduler(steps_offset=1, clip_sample=False)
    before = []
    with entropylab.record(pipe) as rec:
        latents = looped(pipe, predict, start() if latents is None else latents, before, steps)
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
    """There are these branches, with the numbers of a run of the denoiser with that branch's text alone."""
    assert set(ds.branch.values) >= set(texts)
    for branch, text in texts.items():
        np.testing.assert_allclose(of_branch(ds, branch), alone(pipe, before, TEXTS[text]), atol=2e-5)


def with_std_of_cond(out, index, share=0.7):
    """As ``guidance_rescale`` does."""
    guided, axes = guidance(5.0)(out, index), (1, 2, 3)
    fitting = guided * out["c"].std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return share * fitting + (1 - share) * guided


COMBINATIONS = {
    "strong": guidance(7.5),
    "weak": guidance(1.2),
    "one": guidance(1.0),
    "negated": lambda out, index: -guidance(5.0)(out, index),
    "rescaled": with_std_of_cond,
    "rescaled wholly": partial(with_std_of_cond, share=1.0),
    "stronger each step": lambda out, index: guidance(2.0 + 3 * index)(out, index),
    "in half precision": lambda out, index: guidance(5.0)(out, index).half().float(),
    "from zero, as CFG-zero": lambda out, index: 0 * out["c"] if index == 0 else guidance(5.0)(out, index),
}


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_branches_have_the_numbers_of_their_text_alone(pipe, combination):
    way, order = ((doubled, "uc"), (separate, "cu"))[list(COMBINATIONS).index(combination) % 2]
    ds, _, before = sampled(pipe, way(order, COMBINATIONS[combination]), steps=2)
    assert set(ds.branch.values) == {"cond", "uncond"}
    agree(ds, pipe, before, cond="c", uncond="u")
    if combination == "strong":
        with pytest.raises(AssertionError):
            agree(ds, pipe, before, cond="u", uncond="c")


@pytest.mark.parametrize(("way", "order", "scale"), [(doubled, "uc", 0.5), (separate, "cu", 0.3)])
def test_branches_that_are_mixed_and_not_guided_get_no_names(pipe, order, way, scale):
    """(1 - s) uncond + s cond with 0 < s < 1 looks the same with s and 1 - s the other way round."""
    ds, _, before = sampled(pipe, way(order, guidance(scale)), steps=2)
    assert list(ds.branch.values) == ["branch 0", "branch 1"]
    agree(ds, pipe, before, **{f"branch {index}": text for index, text in enumerate(order)})


@pytest.mark.parametrize(("way", "order"), [(doubled, "utc"), (separate, "cut")])
def test_three_branches(pipe, way, order):
    def combine(out, index):
        return out["u"] + 1.5 * (out["t"] - out["u"]) + 6 * (out["c"] - out["t"])

    ds, _, before = sampled(pipe, way(order, combine), steps=2)
    assert set(ds.branch.values) == {"cond", "uncond", "uncond 2"}
    others = [text for text in order if text != "c"]
    agree(ds, pipe, before, cond="c", **dict(zip(("uncond", "uncond 2"), others, strict=True)))


@torch.no_grad()
def test_the_same_texts_in_other_numbers_of_branches_are_judged_anew(pipe):
    """Texts are judged once; which of them a branch was handed depends on how many branches share them."""
    text = torch.cat([TEXTS["u"], TEXTS["c"]])
    pipe.scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    with entropylab.record(pipe) as rec:
        pipe.scheduler.set_timesteps(2)
        for samples, timestep in zip((2, 1), pipe.scheduler.timesteps, strict=True):
            latents, branches = start(samples), 4 // samples
            first, *others, last = net(pipe, torch.cat([latents] * branches), timestep, text).chunk(branches)
            guided = first + 0.5 * sum(others, 0 * first) + 5 * (last - first)
            pipe.scheduler.step(guided, timestep, latents)
    assert set(rec.dataset.branch.values) == {"uncond", "uncond 2", "uncond 3", "cond"}


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
    ds, _, before = sampled(pipe, doubled("cc", lambda out, index: out["c"]), steps=1)
    assert (list(ds.branch.values), ds.sizes["sample"]) == (["branch 0", "branch 1"], 2)
    agree(ds, pipe, before, **{"branch 0": "c", "branch 1": "c"})


def test_equal_samples_without_guidance_are_samples(pipe):
    """Two images from the same seed and prompt are in no way two branches."""
    text, latents = TEXTS["c"][:1].expand(2, -1, -1), start(1).expand(2, -1, -1, -1)
    ds, _, _ = sampled(pipe, lambda pipe, index, latents, timestep: net(pipe, latents, timestep, text), latents)
    assert (list(ds.branch.values), ds.sizes["sample"]) == (["cond"], 2)
    np.testing.assert_allclose(ds.entropy.isel(sample=0), ds.entropy.isel(sample=1), atol=1e-6)


@pytest.mark.parametrize(("order", "scale"), [("uc", 4.0), ("cu", 1.0)])
def test_a_doubled_sample_that_is_stepped_whole(pipe, order, scale):
    """As DiT does: both halves of the latents are the same, and both are stepped."""

    def predict(pipe, index, latents, timestep):
        half = latents.chunk(2)[0]
        outputs = net(pipe, torch.cat([half] * 2), timestep, torch.cat([TEXTS[name][:1] for name in order]))
        guided = guidance(scale)(dict(zip(order, outputs.chunk(2), strict=True)), index)
        return torch.cat([guided] * 2)

    ds, _, before = sampled(pipe, predict, torch.cat([start(1)] * 2), steps=2)
    assert (set(ds.branch.values), ds.sizes["sample"]) == ({"cond", "uncond"}, 1)
    halves = [(latents[:1], timestep) for latents, timestep in before]
    for branch, text in (("cond", "c"), ("uncond", "u")):
        np.testing.assert_allclose(of_branch(ds, branch), alone(pipe, halves, TEXTS[text][:1]), atol=2e-5)


@pytest.mark.parametrize(
    ("scheduler", "steps", "way"),
    [
        (HeunDiscreteScheduler(), 5, separate),
        (PNDMScheduler(skip_prk_steps=True), 4, doubled),
        (UniPCMultistepScheduler(), 3, doubled),
    ],
    ids=["Heun", "PNDM", "UniPC"],
)
def test_schedulers_of_every_order(pipe, scheduler, steps, way):
    """A scheduler of second order calls the denoiser twice a step."""
    ds, latents, before = sampled(pipe, way("uc", guidance(5.0)), scheduler=scheduler)
    pipe.scheduler = type(scheduler).from_config(scheduler.config)
    assert torch.equal(latents, looped(pipe, way("uc", guidance(5.0)), start(), []))
    assert (ds.sizes["step"], list(ds.branch.values)) == (steps, ["uncond", "cond"])
    agree(ds, pipe, before, cond="c", uncond="u")


@pytest.mark.parametrize("order", ["uc", "cu"])
def test_a_learned_variance_behind_the_noise(order):
    """The denoiser returns twice as many channels: noise is combined, the variance of one branch goes with it."""
    pipe = new_random_pipeline(out_channels=8, **FEW_LAYERS)

    def with_variance(out, index):
        noise = {name: both.chunk(2, dim=1)[0] for name, both in out.items()}
        return torch.cat([guidance(5.0)(noise, index), out["c"].chunk(2, dim=1)[1]], 1)

    scheduler = DDPMScheduler(variance_type="learned_range")
    ds, _, before = sampled(pipe, doubled(order, with_variance), scheduler=scheduler, steps=2)
    assert set(ds.branch.values) == {"cond", "uncond"}
    agree(ds, pipe, before, cond="c", uncond="u")


def test_calls_with_and_without_guidance_in_one_recording(pipe):
    pipe.scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    calls = [
        (["a red car"], 4.0, {}),
        (["a blue house"], 1.0, {}),
        (["a car", "a house"], 4.0, {"guidance_rescale": 0.5}),
    ]
    with entropylab.record(pipe) as rec:
        for prompts, scale, more in calls:
            sample(pipe, (32, 32), prompts, guidance=scale, **more)
    ds = rec.dataset
    assert (set(ds.branch.values), ds.sizes["sample"]) == ({"cond", "uncond"}, 4)
    assert bool(of_branch(ds, "uncond").isel(sample=1).isnull().all())
    for index, (prompts, scale, _) in enumerate(calls[:2]):
        with entropylab.record(pipe) as rec:
            sample(pipe, (32, 32), prompts, guidance=scale)
        for branch in rec.dataset.branch.values:
            here = of_branch(ds, branch).isel(sample=[index])
            np.testing.assert_array_equal(here, of_branch(rec.dataset, branch))


def test_a_pipeline_call_and_a_loop_of_ones_own_in_one_recording(pipe):
    pipe.scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    predict, before = separate("cu", guidance(5.0)), []
    with entropylab.record(pipe) as rec, torch.no_grad():
        sample(pipe, (32, 32), ["a red car", "a blue house"], guidance=4.0)
        for seed in range(2):
            looped(pipe, predict, normal(2, 4, 16, 16, seed=seed), before)
    ds = rec.dataset
    assert (list(ds["size"].values), list(ds.branch.values)) == (["32x32", "64x64"], ["uncond", "cond"])
    assert ds.sizes["sample"] == 4
    for index in range(2):
        own = ds.sel(size=["64x64"]).isel(sample=slice(2 * index, 2 * index + 2))
        agree(own, pipe, before[3 * index : 3 * index + 3], cond="c", uncond="u")


@pytest.mark.parametrize(("numbers", "names"), [(1, ["branch 0", "branch 1"]), (64, ["uncond", "cond"])])
def test_few_numbers_name_no_branches(numbers, names):
    """Those that are combined stand behind three others, which seem to be combined too if they are as few."""
    for seed in range(20):
        u, c = normal(2, 4, numbers + 3, seed=seed)
        branches = [Branch(out, Handed([normal(4, 24, 8, seed=place)], 4)) for place, out in enumerate((u, c))]
        guided, latents = guidance(5.0)({"u": u, "c": c}, 0)[:, 3:], normal(4, numbers, seed=100 + seed)
        assert evidence(branches, guided, latents, 1, None, Texts()).names() == names
