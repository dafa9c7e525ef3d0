"""Attention within parts of the picture: windows of fixed size, which do not grow with it, and lines, which do."""

import math

import pytest
import torch
from torch import nn

import entropylab

from ..attention import PlainAttention
from ..seeds import normal

WIDTH = 8
PICTURE = (32, 44)


def windows(height, width):
    """(batch, channels, H, W) as (batch * windows, tokens, channels); the last windows are padded."""

    def cut(grid):
        grid = nn.functional.pad(grid, (0, -grid.shape[-1] % width, 0, -grid.shape[-2] % height))
        parts = grid.unflatten(3, (-1, width)).unflatten(2, (-1, height))
        return parts.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)

    return cut


PARTS = {
    "whole, and 4 sinks": (lambda grid: torch._foreach_mul([grid.flatten(2).mT], 1.0)[0], 356, 68),  # not followed
    "8x8": (windows(8, 8), 64, 64),
    "4x4": (windows(4, 4), 16, 16),
    "7x7": (windows(7, 7), 49, 49),
    "3x5": (windows(3, 5), 15, 15),
    "rows": (lambda grid: grid.permute(0, 2, 3, 1).flatten(0, 1), 22, 8),
    "columns": (lambda grid: grid.permute(0, 3, 2, 1).flatten(0, 1), 16, 8),
    "whole": (lambda grid: grid.flatten(2).mT, 352, 64),
}
"""How the second level is cut, how many tokens then attend to each other, and how many did in training."""


class WithSinks(PlainAttention):
    """Attention with further keys, which are no tokens and do not grow."""

    def sides(self, tokens, context=None):
        query, *sides = super().sides(tokens, context)
        return query, *(nn.functional.pad(side, (0, 0, 0, 4)) for side in sides)


class Net(nn.Module):
    """Attention within parts of the picture, at the second level of a denoiser that is half as fine."""

    def __init__(self, cut, attn=PlainAttention, **config):
        super().__init__()
        torch.manual_seed(0)
        self.config = type("Config", (), config)
        self.cut, self.attn = cut, attn(WIDTH)

    def forward(self, sample, timestep):
        self.attn(3 * self.cut(sample[..., ::2, ::2]))
        return sample


@pytest.mark.filterwarnings("ignore:.*could not (be told|tell what the tokens of Net stand for)")
@pytest.mark.parametrize("name", PARTS)
def test_tokens_at_the_training_size(name):
    cut, tokens, trained = PARTS[name]
    attn = WithSinks if "sinks" in name else PlainAttention
    net, picture, step = Net(cut, attn, sample_size=16), normal(3, WIDTH, *PICTURE), torch.tensor(1)
    with torch.no_grad(), entropylab.rescale(net, train_size=16) as handle:
        net(picture, step)
    assert list(handle.multipliers.values()) == [pytest.approx(math.sqrt(math.log(tokens) / math.log(trained)))]
    with torch.no_grad(), entropylab.record(net, strict=True) as rec:
        net(picture, step)
    ds = rec.dataset
    assert (set(ds.kind.values), ds.sizes["sample"]) == ({"self"}, 3)
    assert (set(ds.tokens.values.ravel()), set(ds.train_tokens.values)) == ({tokens}, {trained})


def test_frames_of_a_video_are_no_windows():
    net = Net(lambda video: video.movedim(1, -1).flatten(2, 3).flatten(0, 1), sample_size=16)
    with torch.no_grad(), entropylab.record(net, strict=True) as rec:
        net(normal(1, WIDTH, 4, 8, 8), torch.tensor(1))
    assert (rec.dataset.tokens.item(), rec.dataset.train_tokens.item()) == (16, 64)
