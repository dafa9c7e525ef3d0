"""Attention within parts of the picture: windows of fixed size, which do not grow with it, and rows, which do."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import entropylab

from ..attention import PlainAttention
from ..seeds import normal

WIDTH = 8


def windows(height, width):
    """(batch, channels, H, W) as (batch * windows, tokens, channels); the last windows are padded."""

    def cut(grid):
        grid = nn.functional.pad(grid, (0, -grid.shape[-1] % width, 0, -grid.shape[-2] % height))
        parts = grid.unflatten(3, (-1, width)).unflatten(2, (-1, height))
        return parts.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)

    return cut


def rows(grid):
    return grid.permute(0, 2, 3, 1).flatten(0, 1)


def columns(grid):
    return grid.permute(0, 3, 2, 1).flatten(0, 1)


def whole(grid):
    return grid.flatten(2).mT


class Net(nn.Module):
    """Attention within parts of the picture, at the second level of a denoiser that is half as fine."""

    def __init__(self, cut, sample_size=16):
        super().__init__()
        torch.manual_seed(0)
        self.config = {"sample_size": sample_size}
        self.cut, self.attn = cut, PlainAttention(WIDTH)

    def forward(self, sample, timestep):
        self.attn(3 * self.cut(sample[..., ::2, ::2]))
        return sample


PARTS = {
    "8x8": (windows(8, 8), 64, 64),
    "4x4": (windows(4, 4), 16, 16),
    "7x7": (windows(7, 7), 49, 49),
    "3x5": (windows(3, 5), 15, 15),
    "rows": (rows, 22, 8),
    "columns": (columns, 16, 8),
    "whole": (whole, 352, 64),
}


@pytest.mark.parametrize(("cut", "tokens", "trained"), PARTS.values(), ids=PARTS)
def test_tokens_at_the_training_size(cut, tokens, trained):
    batch = 1 if cut is whole else 3
    net, picture = Net(cut), normal(batch, WIDTH, 32, 44)
    with torch.no_grad(), entropylab.rescale(net, train_size=16) as handle:
        net(picture, torch.tensor(1))
    multiplier = math.sqrt(math.log(tokens) / math.log(trained))
    assert list(handle.multipliers.values()) == [pytest.approx(multiplier)]
    net.config = type("Config", (), {"sample_size": 16})
    with torch.no_grad(), entropylab.record(net, strict=True) as rec:
        net(picture, torch.tensor(1))
    ds = rec.dataset
    assert set(ds.kind.values) == {"self"}
    assert ds.sizes["sample"] == batch
    assert set(ds.tokens.values.ravel()) == {tokens}
    assert set(ds.train_tokens.values) == {trained}


class Video(nn.Module):
    """Attention within each frame."""

    def __init__(self):
        super().__init__()
        self.config = type("Config", (), {"sample_size": 16})
        self.attn = PlainAttention(WIDTH)

    def forward(self, sample, timestep):
        self.attn(3 * sample.permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1))
        return sample


def test_frames_of_a_video_are_no_windows():
    model = Video()
    with torch.no_grad(), entropylab.record(model, strict=True) as rec:
        model(normal(1, WIDTH, 4, 8, 8), torch.tensor(1))
    np.testing.assert_array_equal(rec.dataset.train_tokens, [256])
