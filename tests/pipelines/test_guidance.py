"""Guidance branches told apart by what the pipeline makes of them."""

from functools import partial

import numpy as np
import pytest
import torch

from .loops import TEXTS, agree, alone, doubled, guidance, net, of_branch, sampled, separate, start


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


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_branches_have_the_numbers_of_their_text_alone(pipe, combination):
    way, order = ((doubled, "uc"), (separate, "cu"))[list(COMBINATIONS).index(combination) % 2]
    ds, _, before = sampled(pipe, way(order, COMBINATIONS[combination]))
    assert set(ds.branch.values) == {"cond", "uncond"}
    agree(ds, pipe, before, cond="c", uncond="u")


def test_agreement_would_notice_branches_that_are_swapped(pipe):
    ds, _, before = sampled(pipe, doubled("uc", guidance(5.0)))
    with pytest.raises(AssertionError):
        agree(ds, pipe, before, cond="u", uncond="c")


@pytest.mark.parametrize(("way", "order", "scale"), [(doubled, "uc", 0.5), (separate, "cu", 0.3)])
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
