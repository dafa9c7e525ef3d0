"""Attention within parts of the picture: windows do not grow with it, lines do, and which they are nobody can tell."""

import math

import pytest
import torch
from torch import nn

import entropylab
from entropylab import EntropyLabError

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
    "4x4": windows(4, 4),
    "7x7": windows(7, 7),
    "rows": lambda grid: grid.permute(0, 2, 3, 1).flatten(0, 1),
    "columns": lambda grid: grid.permute(0, 3, 2, 1).flatten(0, 1),
}


class Net(nn.Module):
    """Attention within parts of the picture, at the second level of a denoiser that is half as fine."""

    def __init__(self, cut, **config):
        super().__init__()
        torch.manual_seed(0)
        self.config = type("Config", (), config)
        self.cut, self.attn = cut, PlainAttention(WIDTH)

    def forward(self, sample, timestep):
        self.attn(3 * self.cut(sample[..., ::2, ::2]))
        return sample


def trained(cut, picture):
    """T of the one layer, when it was measured and rescaled."""
    net, step = Net(cut, sample_size=16), torch.tensor(1)
    with torch.no_grad(), entropylab.record(net, strict=True) as rec:
        net(picture, step)
    with torch.no_grad(), entropylab.rescale(net, train_size=16) as handle:
        net(picture, step)
    assert set(rec.dataset.kind.values) == {"self"}
    return rec.dataset.train_tokens.item(), list(handle.multipliers.values())


def test_the_whole_picture_and_frames_of_a_video_grow_with_it():
    tokens, factors = trained(lambda grid: grid.flatten(2).mT, normal(1, WIDTH, *PICTURE))
    assert (tokens, factors) == (64, [pytest.approx(math.sqrt(math.log(352) / math.log(64)))])
    tokens, _ = trained(lambda video: video.movedim(1, -1).flatten(2, 3).flatten(0, 1), normal(1, WIDTH, 4, 16, 16))
    assert tokens == 64


@pytest.mark.parametrize("cut", PARTS.values(), ids=PARTS)
def test_of_parts_it_is_not_known_what_they_were_in_training(cut):
    net, picture = Net(cut, sample_size=16), normal(3, WIDTH, *PICTURE)
    with torch.no_grad(), entropylab.record(net, strict=True) as rec:
        net(picture, torch.tensor(1))
    assert rec.dataset.sizes["sample"] == 3 and rec.dataset.train_tokens.isnull().all()
    with torch.no_grad(), entropylab.rescale(net, train_size=16):
        with pytest.raises(EntropyLabError, match="can't be told"):
            net(picture, torch.tensor(1))
