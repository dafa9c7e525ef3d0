"""A denoiser on its own, called at several sizes in one recording: each is a size of its own."""

import numpy as np
import pytest
import torch
from torch import nn

import entropylab

from ..attention import PlainAttention
from ..seeds import normal

WIDTH = 8


class Bare(nn.Module):
    """Attention on a grid (batch, channels, height, width), or on tokens (batch, tokens, channels).

    The second layer needs more than 30 tokens.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attn, self.more = PlainAttention(WIDTH), PlainAttention(WIDTH)

    def forward(self, hidden_states, timestep):
        tokens = hidden_states.flatten(2).mT if hidden_states.ndim == 4 else hidden_states
        tokens = 3 * self.attn(3 * tokens)
        return self.more(tokens) if tokens.shape[1] > 30 else tokens


def recorded(model, shapes, **options):
    with torch.no_grad(), entropylab.record(model, strict=True, **options) as rec:
        for seed, shape in enumerate(shapes):
            model(normal(*shape, seed=seed), torch.tensor(1.0))
    return rec.dataset


def grid(side, batch=2):
    return (batch, WIDTH, side, side)


@pytest.mark.parametrize("keep", [None, ("layer",)])
def test_one_size_each(keep):
    ds = recorded(Bare(), [grid(6), grid(8), grid(10)], keep=keep)
    assert ds["size"].values.tolist() == ["6x6", "8x8", "10x10"]
    assert ds.height.values.tolist() == ds.width.values.tolist() == [6, 8, 10]
    np.testing.assert_array_equal(ds.tokens.sel(layer="model.attn"), [36, 64, 100])


def test_each_size_has_the_numbers_it_has_alone():
    model, shapes = Bare(), [grid(6), grid(8), grid(10)]
    together = recorded(model, shapes)
    for seed, shape in enumerate(shapes):
        with torch.no_grad(), entropylab.record(model) as rec:
            model(normal(*shape, seed=seed), torch.tensor(1.0))
        np.testing.assert_array_equal(together.entropy.isel(size=seed), rec.dataset.entropy.isel(size=0))
    assert not np.array_equal(together.entropy.isel(size=0), together.entropy.isel(size=1))


def test_forwards_of_one_size_are_steps_and_another_size_between_them_begins_anew():
    shapes = [grid(6)] * 3 + [grid(8)] * 2 + [grid(6)] * 3
    ds = recorded(Bare(), shapes)
    assert dict(ds.sizes)["size"] == 2
    assert ds.entropy.notnull().all(["layer", "head"]).sum(["sample", "step"]).values.ravel().tolist() == [12, 4]


def test_tokens_without_a_grid_are_told_apart_by_their_number():
    ds = recorded(Bare(), [(2, 40, WIDTH), (2, 60, WIDTH)])
    assert ds["size"].values.tolist() == ["input 40x8", "input 60x8"]
    assert set(ds.height.values) == set(ds.width.values) == {-1}
    np.testing.assert_array_equal(ds.tokens.sel(layer="model.attn"), [40, 60])
    assert recorded(Bare(), [(2, 40, WIDTH)] * 2)["size"].values.tolist() == ["unknown"]


def test_a_layer_that_runs_at_some_sizes_only():
    ds = recorded(Bare(), [grid(5), grid(8), grid(10)])
    np.testing.assert_array_equal(ds.tokens.sel(layer="model.more"), [np.nan, 64, 100])
    alone = ds.sel(layer=["model.attn"])
    assert entropylab.fit(ds).slope == pytest.approx(entropylab.fit(alone).slope)
    smallest = entropylab.check(ds).smallest(0.1).set_index("layer")
    assert smallest.tokens_max.tolist()[0] == 100
    assert np.isnan(smallest.tokens_max["model.more"])
    assert entropylab.fit(ds).slope != pytest.approx(entropylab.fit(ds.isel(size=slice(1, None))).slope)
