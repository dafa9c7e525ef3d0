"""Attention over time and over space, told by shapes and by names."""

import numpy as np
import pytest
import torch
from torch import nn

import entropylab

from ..attention import PlainAttention
from ..maps import entropy_of, logits_of


class Video(nn.Module):
    """Attention within each frame, and at each place among the frames; nothing in the names says which is which."""

    def __init__(self, names=("first", "second")):
        super().__init__()
        self.names = names
        for name in names:
            self.add_module(name, PlainAttention(6))

    def forward(self, sample, timestep):
        batch, channels, frames, height, width = sample.shape
        tokens = sample.permute(0, 2, 3, 4, 1).reshape(batch * frames, height * width, channels)
        tokens = tokens + getattr(self, self.names[0])(tokens)
        tokens = tokens.reshape(batch, frames, height * width, channels).transpose(1, 2).flatten(0, 1)
        tokens = tokens + getattr(self, self.names[1])(tokens)
        return tokens.reshape(batch, height, width, frames, channels).permute(0, 4, 3, 1, 2) + timestep


def kinds(model, *shape):
    torch.manual_seed(0)
    sample = torch.randn(*shape)
    with torch.no_grad(), entropylab.record(model) as rec:
        model(sample, torch.tensor(1.0))
    return list(rec.dataset.kind.values), rec.dataset


@pytest.mark.parametrize(("batch", "frames"), [(1, 2), (2, 3), (3, 5), (2, 6)])
def test_temporal_attention_is_told_by_its_shape(batch, frames):
    found, ds = kinds(Video(), batch, 6, frames, 4, 5)
    assert found == ["self", "temporal"]
    assert ds.sizes["sample"] == batch
    assert list(ds.tokens.values.ravel()) == [20, frames]


@pytest.mark.parametrize("names", [("spatial", "temporal"), ("attn_space", "motion_modules"), ("blocks", "temp_attn")])
def test_temporal_attention_is_told_by_its_name_where_shapes_do_not(names):
    """As many frames as places."""
    assert kinds(Video(names), 2, 6, 6, 2, 3)[0] == ["self", "temporal"]


def test_values_of_temporal_attention_are_means_over_places():
    model = Video()
    sides = []
    for name in model.names:
        getattr(model, name).register_forward_pre_hook(lambda module, args: sides.append(module.sides(args[0])[:2]))
    _, ds = kinds(model, 2, 6, 3, 4, 5)
    for layer, (query, key) in zip(ds.layer.values, sides, strict=True):
        expected = entropy_of(logits_of(query, key)).mean(-1).unflatten(0, (2, -1)).mean(1)
        found = ds.entropy.sel(layer=layer).squeeze().transpose("sample", "head")
        np.testing.assert_allclose(found, expected, atol=1e-5)
