"""Guidance branches named by the text that they were handed, at any guidance."""

import numpy as np
import pytest

import entropylab

from ..conftest import new_random_pipeline
from ..seeds import generator, normal
from ..zoo import BY_NAME
from ..zoo.joint_parts import two_steps
from ..zoo.unet_parts import SIZE, prompts


def recorded(guidance, both=True, encoded=False, avoided="a blue house"):
    """The Dataset of one step; with ``both`` branches at any guidance, as pipelines of users have it."""
    pipe = new_random_pipeline()
    if both:
        pipe.__class__ = type("Guided", (type(pipe),), {"do_classifier_free_guidance": True})
    texts = {"prompt": "a red car", "negative_prompt": avoided}
    if encoded:
        texts = {f"{name}_embeds": pipe.encode_prompt(text, "cpu", 1, False)[0] for name, text in texts.items()}
    with entropylab.record(pipe) as rec:
        pipe(
            **texts, height=64, width=64, num_inference_steps=1, guidance_scale=guidance, generator=generator(),
            output_type="latent",
        )  # fmt: skip
    return rec.dataset


@pytest.fixture(scope="module")
def alone():
    ds = recorded(1.0, both=False)
    assert list(ds.branch.values) == ["cond"]
    return ds.entropy.sel(branch="cond")


@pytest.mark.parametrize(
    ("guidance", "encoded"), [(-1.0, False), (0.0, False), (0.5, False), (1.0, False), (0.5, True)]
)
def test_the_prompt_names_the_conditional_branch_at_any_guidance(guidance, encoded, alone):
    ds = recorded(guidance, encoded=encoded)
    assert set(ds.branch.values) == {"cond", "uncond"}
    np.testing.assert_allclose(ds.entropy.sel(branch="cond"), alone, rtol=1e-4, atol=1e-5)
    assert np.abs(ds.entropy.sel(branch="uncond") - alone).max() > 1e-3, "branches that are swapped would be seen"


def test_a_negative_prompt_that_is_the_prompt_names_nothing():
    """The two branches are the same then: either name is as good, and none is a wrong one."""
    assert set(recorded(0.0, avoided="a red car").branch.values) == {"branch 0", "branch 1"}


def test_a_picture_alone_may_tell_the_branches_apart():
    """With an IP-Adapter and no prompt both branches have the same text, and the unconditional one another picture."""
    family, same = BY_NAME["IP-Adapter"], prompts()["prompt_embeds"]
    pictures = [normal(2, 1, 12, seed=6)]
    pipe = family.build()
    with entropylab.record(pipe) as rec:
        two_steps(pipe, *SIZE, prompt_embeds=same, negative_prompt_embeds=same, ip_adapter_image_embeds=pictures)
    assert set(rec.dataset.branch.values) == {"cond", "uncond"}
