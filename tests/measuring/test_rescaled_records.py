"""``record`` of a pipeline that is rescaled says so: the rule by name, and the factor of every layer."""

import numpy as np
import pytest
import torch

import entropylab

from ..sampling import sample, slicing, use_legacy_processors


@pytest.mark.parametrize(
    "prepare", [lambda pipe: None, use_legacy_processors, slicing(1)], ids=["sdpa", "legacy", "sliced"]
)
def test_the_factor_of_every_layer(random_pipe, prepare):
    prepare(random_pipe)
    with entropylab.record(random_pipe) as rec:
        sample(random_pipe, (96, 96))
        with entropylab.rescale(random_pipe) as handle:
            sample(random_pipe, (96, 96))
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


def test_a_factor_that_changes_within_a_run_is_not_known(random_pipe):
    handles = []

    def begin(pipe, step, timestep, tensors):
        if step == 0:
            handles.append(entropylab.rescale(pipe, 1.2))
        return tensors

    with entropylab.record(random_pipe, layers="self") as rec:
        random_pipe(
            "a red car", height=64, width=64, num_inference_steps=2, output_type="latent", callback_on_step_end=begin
        )
    handles[0].remove()
    assert rec.dataset.multiplier.isnull().all()


def test_measure_inside_a_rescaling_says_what_was_measured(random_pipe):
    with entropylab.rescale(random_pipe, 1.25):
        ds = entropylab.measure(
            random_pipe, [64], samples=1, steps=1, prompts=["a red car"], layers="self", progress=False
        )
    np.testing.assert_allclose(ds.multiplier, 1.25)
