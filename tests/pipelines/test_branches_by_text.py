"""Guidance branches named by the text that they were handed, at any guidance."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import entropylab
from entropylab.pipelines.guidance import Branch, Handed, Texts
from tests.conftest import new_random_pipeline
from tests.seeds import generator
from tests.zoo.joint import FAMILIES as JOINT


def always_guided(pipe: Any) -> Any:
    """The pipeline with both branches at any guidance, as pipelines of users have it."""
    pipe.__class__ = type("Guided", (type(pipe),), {"do_classifier_free_guidance": True})
    return pipe


def pipeline(name: str) -> tuple[Any, dict[str, Any]]:
    """A tiny pipeline, and what it is asked."""
    if name == "Stable Diffusion":
        asked = {"prompt": "a red car", "negative_prompt": "a blue house", "height": 64, "width": 64}
        return new_random_pipeline(), asked
    family = next(family for family in JOINT if family.name == name)
    texts = {
        f"{sign}{kind}": torch.randn(1, *shape, generator=generator(seed))
        for seed, sign in enumerate(("", "negative_"))
        for kind, shape in (("prompt_embeds", (10, 32)), ("pooled_prompt_embeds", (32,)))
    }
    return family.build(), {**texts, "height": 64, "width": 96}


@cache
def recorded(name: str, guidance: float, both: bool = True) -> Any:
    """The Dataset of one step."""
    pipe, asked = pipeline(name)
    pipe.set_progress_bar_config(disable=True)
    pipe = always_guided(pipe) if both else pipe
    with entropylab.record(pipe) as rec:
        pipe(**asked, num_inference_steps=1, guidance_scale=guidance, generator=generator(0), output_type="latent")
    return rec.dataset


@pytest.mark.parametrize(
    ("name", "guidance"),
    [*(("Stable Diffusion", scale) for scale in (-1.0, 0.0, 0.5, 1.0, 7.0)), ("Stable Diffusion 3", 0.5)],
)
def test_the_prompt_names_the_conditional_branch_at_any_guidance(name, guidance):
    alone, ds = recorded(name, 1.0, both=False), recorded(name, guidance)
    assert list(alone.branch.values) == ["cond"]
    assert set(ds.branch.values) == {"cond", "uncond"}
    expected, found = alone.entropy.sel(branch="cond"), ds.entropy.sel(branch="cond")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(ds.entropy.sel(branch="uncond") - expected).max() > 1e-3, "branches that are swapped would be seen"


def test_a_negative_prompt_that_is_the_prompt_names_nothing():
    """The two branches are the same then: either name is as good, and none is a wrong one."""
    pipe, asked = pipeline("Stable Diffusion")
    asked |= {"negative_prompt": asked["prompt"], "num_inference_steps": 1, "output_type": "latent"}
    with entropylab.record(always_guided(pipe)) as rec:
        pipe(**asked, guidance_scale=0.0)
    assert set(rec.dataset.branch.values) == {"branch 0", "branch 1"}


def test_the_same_texts_in_other_numbers_of_branches_are_judged_anew():
    """Texts are judged once; which of them a branch was handed depends on how many branches share them."""
    text, texts = torch.tensor([[1.0], [1.0], [2.0], [2.0]]), Texts()
    handed = Handed([text], 4)
    for count, wanted in ((2, [[1, 0], [0, 1]]), (4, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])):
        branches = [Branch(text, handed, at, count) for at in range(count)]
        alike, prompted = texts.judged(branches, None, text.device)
        assert torch.equal(alike, torch.tensor(wanted, dtype=torch.bool)) and prompted is None
