"""What query rows and keys stand for: joint attention in any order, kinds of attention, and rescaling with them."""

from itertools import groupby

import numpy as np
import pytest
import torch

import entropylab
from entropylab.errors import EntropyLabWarning

from ..joints import inputs, lengths, new_joint, wanted
from ..maps import entropy_of, logits_of
from ..seeds import normal
from ..zoo import BY_NAME
from ..zoo.joint_packed import glm_image_call
from ..zoo.joint_parts import flux_call, photo, two_steps


def recorded(model, *given, **options):
    """The Dataset of some forwards, and what the layers did in them."""
    with torch.no_grad():
        plain = [model(**each) for each in given]
        model.calls()
        with entropylab.record(model, **options) as rec:
            watched = [model(**each) for each in given]
    assert rec.unmeasured == {}
    assert all(torch.equal(one, other) for one, other in zip(plain, watched, strict=True))
    return rec.dataset, model.calls()


def agree(ds, calls, parts=("image", "text")):
    """Every part of every layer in every forward has the entropies and numbers of keys of its rows."""
    assert set(ds.part.values) == set(parts)
    assert set(ds.kind.values) == {"joint"}
    for index, layer in enumerate(calls):
        for part in parts:
            one = ds.sel(layer=f"model.blocks.{index}:{part}").squeeze(("size", "scaling", "branch"))
            for step, call in enumerate(layer):
                expected = wanted(call, part)
                for name in ("entropy", "sigma2", "keys", "keys_image"):
                    here = one[name].isel(step=step).transpose("sample", "head").values
                    known = np.full(here.shape, np.nan)
                    known[: len(call.query)] = expected[name]
                    np.testing.assert_allclose(here, known, atol=1e-4, rtol=1e-4, err_msg=f"{name}, forward {step}")


@pytest.mark.parametrize("order", [("other", "text", "image"), "shuffled", "middle"], ids=str)
def test_lengths_that_change_between_calls(order):
    """Other text, other images, another batch; and the first ones again."""
    sizes = [(12, 7), (12, 9), (7, 12), (12, 7, 3), (12, 7)]
    registers = 3 if "other" in order else 0
    ds, calls = recorded(new_joint(order, registers), *(inputs(*size) for size in sizes))
    parts = ("image", "text", "other") if registers else ("image", "text")
    begun = {"input 12x8": 0, "input 7x8": 0}
    assert set(ds["size"].values) == set(begun)
    for image, forwards in groupby(range(len(sizes)), lambda index: sizes[index][0]):
        ran, label = list(forwards), f"input {image}x8"  # forwards of one size, one after the other, are steps
        batch = len(calls[0][ran[0]].query)
        own = ds.sel(size=[label]).isel(sample=slice(begun[label], begun[label] + batch))
        agree(own, [[layer[index] for index in ran] for layer in calls], parts)
        begun[label] += batch


COUNTS = [(7, 4), (2, 6), (7, 4)]


@pytest.mark.parametrize(("order", "dense"), [("shuffled", False), (("text", "image"), True)], ids=str)
def test_masks_of_one_shape_that_differ_between_calls(order, dense):
    """Padding moved behind everything gives every sample a layout of its own, which differs in every call."""
    model = new_joint(order)
    model.dense = dense
    agree(*recorded(model, *(inputs(encoder_attention_mask=lengths(7, *counts)) for counts in COUNTS)))


def test_lengths_instead_of_masks():
    """A vector of lengths decides where tokens stand as a mask does."""
    model = new_joint()
    model.dense = True
    agree(*recorded(model, *(inputs(text_lengths=torch.tensor(counts)) for counts in COUNTS)))


@pytest.mark.parametrize("closed", [-9999.0, -torch.inf, -5000.0])
def test_additive_masks(closed):
    """A key counts as masked from -9999 on; less is added to the logits as it is."""
    model = new_joint()
    model.additive, model.closed = True, closed
    ds, calls = recorded(model, inputs(encoder_attention_mask=lengths(7, 3, 5)))
    agree(ds, calls)
    left = [12 + 3, 12 + 5] if closed <= -9999 else [19, 19]
    np.testing.assert_array_equal(ds["keys"].isel(layer=0, head=0).squeeze(), left)
    assert float(ds.tokens[0, 0]) == np.mean(left)


def test_a_sample_without_any_text():
    ds, calls = recorded(new_joint(), inputs(encoder_attention_mask=lengths(7, 0, 5)))
    agree(ds, calls)
    text = ds.sel(layer="model.blocks.0:text").squeeze()
    assert bool(text.entropy.isel(sample=0).isnull().all())
    image = ds.sel(layer="model.blocks.0:image").squeeze().isel(sample=0)
    np.testing.assert_array_equal(image.mass_image, 1)
    np.testing.assert_array_equal(image.entropy_between, 0)


def test_references_that_come_and_go():
    five, three = (inputs(ref_hidden_states=normal(2, count, 8, seed=count)) for count in (5, 3))
    given = [inputs(), five, inputs(), three]
    ds, calls = recorded(new_joint(("text", "reference", "image")), *given)
    agree(ds, calls, ("image", "text", "reference"))


def test_text_that_conditions_the_image_leaves_it_the_image():
    model = new_joint(("image", "text"))
    model.blend = "text"
    ds, calls = recorded(model, inputs(), inputs(12, 9))
    agree(ds, calls)
    for call in (call for layer in calls for call in layer):
        call.codes = call.codes.flip(1)
    with pytest.raises(AssertionError):
        agree(ds, calls)


@pytest.mark.parametrize("order", [("text", "image"), "shuffled"])
def test_an_image_that_has_entered_the_text_is_no_longer_told_apart(order):
    """Every token depends on the image then: rows are not split by a guess."""
    model = new_joint(order)
    model.blend = "image"
    ds, calls = recorded(model, inputs(), inputs(12, 9))
    assert set(ds.part.values) == {"unknown"}
    assert list(ds.layer.values) == ["model.blocks.0", "model.blocks.1"]
    assert "mass_image" not in ds
    for index, layer in enumerate(calls):
        call = layer[0]
        rows = entropy_of(logits_of(call.query, call.key)).mean(-1)
        here = ds.entropy.isel(layer=index, step=0).squeeze().transpose("sample", "head")
        np.testing.assert_allclose(here, rows, atol=1e-4)


def test_a_pipeline_called_again_with_other_arguments():
    """Each call in one recording gives what it gives in a recording of its own."""
    pipe, samples = BY_NAME["FLUX.1"].build(), {}
    calls = [flux_call(10), flux_call(13), flux_call(10, height=64, width=64), flux_call(10)]
    with entropylab.record(pipe) as rec:
        for given in calls:
            two_steps(pipe, **given)
    for given in calls:
        with entropylab.record(pipe) as alone:
            two_steps(pipe, **given)
        size = str(alone.dataset["size"].item())
        begin = samples.get(size, 0)
        samples[size] = begin + alone.dataset.sizes["sample"]
        together = rec.dataset.sel(size=[size], layer=alone.dataset.layer, branch=alone.dataset.branch)
        for variable in ("entropy", "sigma2", "keys", "mass_image", "entropy_from_text"):
            here = together[variable].isel(sample=slice(begin, samples[size]))
            np.testing.assert_array_equal(here, alone.dataset[variable], err_msg=variable)


def test_tokens_are_unknown_where_an_indicator_does_not_fit_them():
    model = BY_NAME["Ideogram 4"].build().transformer
    indicator = torch.tensor([[3] * 4 + [2] * 6] * 2)
    ids = torch.arange(10).expand(2, 10)
    given = {"hidden_states": torch.randn(2, 10, 16), "encoder_hidden_states": torch.randn(2, 10, 13 * 16)}
    given |= {"timestep": torch.tensor([0.5, 0.5]), "position_ids": torch.stack([ids] * 3, -1)}
    with torch.no_grad(), entropylab.record(model) as rec:
        model(**given, segment_ids=torch.ones(2, 10), indicator=indicator)
    assert set(rec.dataset.part.values) == {"image", "text"}
    told = pytest.warns(EntropyLabWarning, match="could not be told")
    with torch.no_grad(), told, entropylab.record(model) as rec:
        model(**given, segment_ids=torch.ones(2, 10), indicator=indicator[:1])
    assert set(rec.dataset.part.values) == {"unknown"}


def test_keys_in_a_cache_stand_for_what_they_stood_for_when_they_were_put_there():
    """Each layer's entry is of one part in all steps; alike when it is sampled again."""
    family, found = BY_NAME["FLUX.2 klein, cached reference"], []
    pipe = family.build()
    for _ in range(2):
        with entropylab.record(pipe) as rec:
            family.sample(pipe)
        found.append(rec.dataset)
        image = rec.dataset.isel(layer=rec.dataset.part.values == "image")
        assert (image.kind == "joint").all()
        assert (image.keys_image == 48).all()
        assert (image.rows == 48).all()
    assert found[0].drop_attrs().equals(found[1].drop_attrs())


def test_cached_keys_of_several_references_are_told_from_those_of_the_image():
    """GLM-Image puts the keys of one picture after the other into a cache, and leaves it out without the prompt."""
    images = {"image": [[photo(64, 80), photo(96, 64)]], "prior_token_image_ids": [torch.arange(44) % 20]}
    given = glm_image_call(**images, source_image_grid_thw=[torch.tensor([[1, 4, 5], [1, 6, 4]])])
    with entropylab.record(BY_NAME["GLM-Image, reference image"].build(), received=True) as rec:
        two_steps(rec.pipe, 128, 192, **given)
    assert set(rec.maps["128x192"].children) == {"8x12", "text_10", "reference_44"}
    ds = rec.dataset.sel(branch=["cond", "uncond"]).isel(layer=rec.dataset.kind.values == "joint")
    assert set(ds.part.values) == {"image", "text"} and (ds.keys_image == 96).all()
    assert (ds["keys"].sel(branch="cond") == 10 + 96 + 44).all()
    assert (ds["keys"].sel(branch="uncond") == 10 + 96).all()


def test_keys_in_a_cache_are_unknown_where_nobody_saw_it_filled():
    family, given = BY_NAME["Qwen-Image 2.1"], []
    pipe = family.build()
    handle = pipe.transformer.register_forward_pre_hook(lambda _, args, kwargs: given.append(kwargs), with_kwargs=True)
    family.sample(pipe)
    handle.remove()
    told = pytest.warns(EntropyLabWarning, match="could not be told")
    with torch.no_grad(), told, entropylab.record(pipe.transformer) as rec:
        pipe.transformer(**given[-1])
    assert given[-1]["kv_cache_mode"] == "cached"
    assert set(rec.dataset.part.values) == {"unknown"}


def test_parts_are_unknown_where_more_keys_than_the_images_come_from_no_text():
    """Of Kandinsky 2.1's 183 keys, 77 come from text and 10 from the embedding of a picture, which is no token."""
    family = BY_NAME["Kandinsky 2.1"]
    pipe = family.build()
    with entropylab.record(pipe) as rec:
        family.sample(pipe)
    assert (rec.dataset["keys"] == 96 + 77 + 10).all()
    assert set(rec.dataset.kind.values) == {"joint"}
    assert set(rec.dataset.part.values) == {"unknown"}
    assert "keys_image" not in rec.dataset
