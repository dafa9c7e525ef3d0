"""Layers that are handed a part of their denoiser's batch, as under perturbed-attention guidance, and which part."""

import numpy as np
import pytest
from diffusers.models.attention_processor import PAGCFGIdentitySelfAttnProcessor2_0

import entropylab
from entropylab.errors import EntropyLabWarning

from ..zoo import BY_NAME
from ..zoo.joint import SD3
from ..zoo.joint_parts import assembled, flow_matching, pooled_call, sized, two_steps
from ..zoo.unets import build_stable, sample_stable

PERTURBED = "unet.mid_block.attentions.0.transformer_blocks.0.attn1"
"""The layer that leaves the last branch out, as the pipeline has it by default."""


def perturbed():
    return build_stable("StableDiffusionPAGPipeline")


def recorded(pipe, guidance_scale=3.0):
    """A recording, and its first step, at which every pipeline has the same latents."""
    with entropylab.record(pipe) as rec:
        sample_stable(pipe, 2, guidance_scale=guidance_scale)
    return rec, rec.dataset.entropy.isel(size=0, scaling=0, step=0).transpose("branch", "sample", "layer", "head")


@pytest.fixture(scope="module")
def usual():
    """What Stable Diffusion itself gives with the same weights, texts and noise, in which every layer sees all."""
    return recorded(build_stable())[1]


def agree(found, expected, **branches):
    """Branches of one recording have the numbers of those of another, in every layer."""
    for branch, other in branches.items():
        np.testing.assert_allclose(found.sel(branch=branch), expected.sel(branch=other), atol=1e-5)


def test_values_of_a_part_of_the_batch_land_on_their_branches(usual):
    """The branch that is left out is missing in its layer, and nowhere else."""
    rec, found = recorded(perturbed())
    assert rec.unmeasured == {}
    assert set(found.branch.values) == {"cond", "uncond", "perturbed"}
    agree(found, usual, cond="cond", uncond="uncond")
    for one, other in (("cond", "uncond"), ("uncond", "cond")):
        with pytest.raises(AssertionError):
            agree(found.sel(layer=[PERTURBED]), usual.sel(layer=[PERTURBED]), **{one: other})
    known = found.notnull().any(("sample", "head"))
    np.testing.assert_array_equal(known.sel(branch="perturbed"), found.layer.values != PERTURBED)
    assert bool(known.sel(branch=["cond", "uncond"]).all())
    before = [layer.startswith("unet.down_blocks") for layer in found.layer.values]
    agree(found.isel(layer=before), usual.isel(layer=before), perturbed="cond")
    after = found.isel(layer=[layer.startswith("unet.up_blocks") for layer in found.layer.values])
    assert float(abs(after.sel(branch="perturbed") - after.sel(branch="cond")).max()) > 1e-4


def test_without_guidance_by_text_there_are_two_branches_and_one_is_left_out(usual):
    rec, found = recorded(perturbed(), guidance_scale=1.0)
    assert rec.unmeasured == {}
    agree(found, usual, cond="cond")
    assert set(found.branch.values) == {"cond", "perturbed"}
    known = found.sel(branch="perturbed").notnull().any(("sample", "head"))
    np.testing.assert_array_equal(known, found.layer.values != PERTURBED)


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_a_perturbed_branch_that_attends_by_itself_is_the_last_one(guidance):
    """In joint attention its image rows look at the text and at themselves alone."""
    modules = {"transformer": sized("SD3Transformer2DModel", **SD3), "scheduler": flow_matching()}
    pipe = assembled("StableDiffusion3PAGPipeline", **modules, pag_applied_layers=["blocks.1"])
    with entropylab.record(pipe, strict=True) as rec:
        two_steps(pipe, **pooled_call(2), pag_scale=3.0, guidance_scale=guidance)
    ds = rec.dataset
    layers = [f"transformer.transformer_blocks.1.attn{call}:image" for call in ("", ":2")]
    others = ("size", "scaling", "sample", "step", "head")
    whole, alone = (ds.entropy.sel(layer=layer).notnull().all(others) for layer in layers)
    np.testing.assert_array_equal(alone, ds["branch"] == "perturbed")
    np.testing.assert_array_equal(whole, ds["branch"] != "perturbed")
    assert ds.tokens.sel(layer=layers[1]).item() == 10 + 1


def test_layers_that_are_handed_their_batch_in_parts_are_named():
    """Split inference of AnimateDiff: two places of one video are not its two branches."""
    family = BY_NAME["AnimateDiff"]
    pipe = family.build()
    pipe._enable_split_inference_motion_modules_(pipe.unet.mid_block.motion_modules, 2)
    with pytest.warns(EntropyLabWarning, match="handed its batch in parts"), entropylab.record(pipe) as rec:
        family.sample(pipe)
    split = [layer.path for layer in entropylab.layers(pipe) if "mid_block.motion_modules" in layer.path]
    assert split and set(rec.unmeasured) == set(split)
    assert set(rec.dataset.module.values) == {layer.path for layer in entropylab.layers(pipe)} - set(split)


class Another(PAGCFGIdentitySelfAttnProcessor2_0):
    """It leaves the last branch out too, and nothing about it says so."""


def test_a_layer_that_does_not_say_what_it_leaves_out_is_named():
    pipe = perturbed()
    pipe.set_pag_applied_layers("mid", (Another(), Another()))
    with pytest.warns(EntropyLabWarning, match=r"mid_block.*attn1.*a batch of 4 where its denoiser has 6 images"):
        rec, found = recorded(pipe)
    assert list(rec.unmeasured) == [PERTURBED]
    assert PERTURBED not in found.layer.values
