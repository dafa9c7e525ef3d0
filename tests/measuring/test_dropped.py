"""What can't be measured is named: batches that don't divide, layers without keys, layers that hide halfway."""

import pytest
import torch

import entropylab
from entropylab.errors import EntropyLabWarning

from .layers import Denoiser, run


@pytest.mark.parametrize(
    "choose",
    [
        lambda x: x[:3],
        lambda x: x[:1],
        lambda x: torch.cat([x, x[:2]]),
    ],
    ids=["three", "one", "six"],
)
def test_a_batch_that_is_not_that_of_the_denoiser_is_named(choose):
    model = Denoiser()
    model.layers[0].choose = choose
    with pytest.warns(EntropyLabWarning, match="layers.0"), entropylab.record(model) as rec:
        run(model)
    assert set(rec.unmeasured) == {"model.layers.0"}
    assert list(rec.dataset.layer.values) == ["model.layers.1"]


def test_a_batch_of_frames_is_still_measured():
    model = Denoiser()
    model.layers[0].choose = lambda x: torch.cat([x, x])
    with entropylab.record(model) as rec:
        run(model)
    assert rec.unmeasured == {} and rec.dataset.sizes["layer"] == 2


def test_a_layer_without_keys_is_named():
    model = Denoiser()
    model.layers[0].mask = torch.zeros(6, 6, dtype=torch.bool)
    with pytest.warns(EntropyLabWarning, match="no key"), entropylab.record(model) as rec:
        run(model)
    assert set(rec.unmeasured) == {"model.layers.0"}
    assert list(rec.dataset.layer.values) == ["model.layers.1"]


@pytest.mark.parametrize("first", [True, False])
def test_a_layer_that_hides_in_some_forwards_is_named(first):
    model = Denoiser()
    with pytest.warns(EntropyLabWarning, match="layers.1"), entropylab.record(model) as rec:
        for hidden in (first, not first):
            model.layers[1].hidden = hidden
            run(model)
    assert set(rec.unmeasured) == {"model.layers.1"}
    assert rec.dataset.sizes["layer"] == 2
