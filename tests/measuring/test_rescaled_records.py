"""``record`` of a pipeline that is rescaled says so: the rule by name, and the factor of every layer."""

import numpy as np
import pytest
import torch

import entropylab
from entropylab import EntropyLabError
from entropylab.law.drift import drift

from ..sampling import sample, slicing, use_legacy_processors


@pytest.mark.parametrize("prepare", [use_legacy_processors, slicing(1)], ids=["legacy", "sliced"])
def test_the_factor_of_every_layer(random_pipe, prepare):
    prepare(random_pipe)
    with entropylab.record(random_pipe) as rec:
        sample(random_pipe, (96, 96), steps=1)
        with entropylab.rescale(random_pipe) as handle:
            sample(random_pipe, (96, 96), steps=1)
            factors = handle.multipliers
    found = rec.dataset.multiplier.isel(size=0)
    assert list(found.scaling.values) == ["original", "sqrt_log"]
    np.testing.assert_array_equal(found.sel(scaling="original"), 1.0)
    wanted = [factors.get(layer, 1.0) for layer in rec.dataset.module.values]
    np.testing.assert_allclose(found.sel(scaling="sqrt_log"), wanted)
    assert max(wanted) > 1


def test_one_factor_per_head_is_averaged(random_pipe):
    with entropylab.rescale(random_pipe, lambda n, t: torch.tensor([0.5, 1.0, 1.0, 1.5])[: 2 if n > 128 else 4]):
        with entropylab.record(random_pipe, layers="*down_blocks.0*attn1") as rec:
            sample(random_pipe)
    np.testing.assert_allclose(rec.dataset.multiplier, 0.75)


SAMPLING = {"samples": 1, "steps": 1, "prompts": ["a red car"], "layers": "self", "progress": False}


def half(tokens, train_tokens):
    return 0.5


@pytest.mark.parametrize(("rule", "name"), [(1.25, "1.25"), (half, "half")])
def test_measure_inside_a_rescaling_carries_the_name_of_the_rule(random_pipe, rule, name):
    with entropylab.rescale(random_pipe, rule):
        ds = entropylab.measure(random_pipe, [64, 96], **SAMPLING)
    assert ds.scaling.values.tolist() == [name]
    assert rule != 1.25 or (ds.multiplier == 1.25).all()
    with pytest.raises(EntropyLabError, match="measured under scaling .original."):
        drift(ds)
    again = entropylab.measure(random_pipe, [64, 96], **SAMPLING)
    assert again.scaling.values.tolist() == ["original"]


def test_what_is_measured_inside_a_rescaling_is_what_measure_does_itself(random_pipe):
    with entropylab.rescale(random_pipe):
        inside = entropylab.measure(random_pipe, [96], **SAMPLING)
    own = entropylab.measure(random_pipe, [96], scaling="sqrt_log", **SAMPLING)
    np.testing.assert_array_equal(inside.entropy, own.entropy)
    np.testing.assert_array_equal(inside.multiplier, own.multiplier)


@pytest.mark.parametrize("scaling", [1.25, ("original", "sqrt_log")])
def test_measure_does_not_rescale_what_is_rescaled(random_pipe, scaling, monkeypatch):
    monkeypatch.setattr(random_pipe.unet, "forward", None)
    with entropylab.rescale(random_pipe, 1.25):
        with pytest.raises(EntropyLabError, match="rescaled already, by '1.25'.*scaling='original'"):
            entropylab.measure(random_pipe, [64], scaling=scaling, **SAMPLING)


@pytest.mark.parametrize("other", [1.5, half])
def test_a_run_does_not_go_on_under_another_rescaling(random_pipe, tmp_path, other):
    with entropylab.rescale(random_pipe, 1.25):
        first = entropylab.measure(random_pipe, [64], out=tmp_path / "run", **SAMPLING)
        again = entropylab.measure(random_pipe, [64], out=tmp_path / "run", **SAMPLING)
    assert first.scaling.values.tolist() == again.scaling.values.tolist() == ["1.25"]
    with pytest.raises(EntropyLabError, match="another configuration"):
        entropylab.measure(random_pipe, [64], out=tmp_path / "run", **SAMPLING)
    with entropylab.rescale(random_pipe, other), pytest.raises(EntropyLabError, match="another configuration"):
        entropylab.measure(random_pipe, [64], out=tmp_path / "run", **SAMPLING)


def test_a_run_does_not_go_on_under_a_rescaling_that_differs_in_more_than_its_name(random_pipe, tmp_path):
    rules = [{"train_size": 64}, {"train_size": 32}, {"kinds": ("self", "cross")}]
    for index, options in enumerate(rules):
        with entropylab.rescale(random_pipe, **options):
            if index == 0:
                entropylab.measure(random_pipe, [64], out=tmp_path / "run", **SAMPLING)
                continue
            with pytest.raises(EntropyLabError, match="another configuration.*rules"):
                entropylab.measure(random_pipe, [64], out=tmp_path / "run", **SAMPLING)
    entropylab.measure(random_pipe, [64], scaling="sqrt_log", out=tmp_path / "run", **SAMPLING)  # the same as the first


def rescaling_call(pipe, size, prompts, generators):
    with entropylab.rescale(pipe, 1.25):
        return sample(pipe, size, prompts=prompts, steps=1)


def test_a_call_that_rescales_says_so(random_pipe, tmp_path):
    options = {"samples": 1, "prompts": ["a red car"], "layers": "self", "progress": False, "call": rescaling_call}
    ds = entropylab.measure(random_pipe, [64], **options)
    assert ds.scaling.values.tolist() == ["1.25"]
    np.testing.assert_allclose(ds.multiplier, 1.25)
    with pytest.raises(EntropyLabError, match="sampled under '1.25'"):
        entropylab.measure(random_pipe, [64], out=tmp_path / "run", **options)


def test_a_rule_that_begins_within_a_run_is_not_called_original(random_pipe):
    handles = []

    def begin(pipe, step, timestep, tensors):
        if step == 0:
            handles.append(entropylab.rescale(pipe, 1.25))
        return tensors

    with entropylab.record(random_pipe, layers="self") as rec:
        sample(random_pipe, callback_on_step_end=begin)
        handles[0].remove()
    assert rec.dataset.scaling.values.tolist() == ["original, then 1.25"]
    assert rec.dataset.multiplier.isnull().all()


def test_a_part_that_is_rescaled_by_itself_is_not_original(random_pipe):
    with entropylab.rescale(random_pipe.unet, 1.25), entropylab.record(random_pipe) as whole:
        sample(random_pipe, steps=1)
    with entropylab.rescale(random_pipe.unet.mid_block, 1.5), entropylab.record(random_pipe) as part:
        sample(random_pipe, steps=1)
    assert whole.dataset.scaling.values.tolist() == ["1.25"]
    assert part.dataset.scaling.values.tolist() == ["1.5"]


def test_a_rule_of_ones_own_is_not_called_as_one_of_ours(random_pipe):
    def original(tokens, train_tokens):
        return 1.25

    with pytest.raises(EntropyLabError, match="function must have a name of its own.*'original'"):
        entropylab.rescale(random_pipe, original)
