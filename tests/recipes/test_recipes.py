"""The parts of the recipes that can be tried in a second: backgrounds, the brake, a run that goes on."""

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from PIL import Image
from torch import nn

from recipes.brake import Brake, attended_variance, logit_variance
from recipes.loop import Loop, cosine
from recipes.pictures import background, place, variants


def test_backgrounds_are_calm_and_differ():
    rng = np.random.default_rng(0)
    drawn = np.stack([background((64, 64), rng) for _ in range(200)]).astype(float)
    assert drawn.shape == (200, 64, 64, 3)
    assert drawn.min() >= 90
    means = drawn.mean((1, 2))
    assert means.std(0).min() > 20  # colours differ from picture to picture
    spreads = drawn.std((1, 2)).max(1)
    assert 0.15 < (spreads < 1).mean() < 0.5  # a third is plain
    assert np.median(spreads) < 20 and spreads.max() < 60
    steps = np.abs(np.diff(drawn, axis=1)).max((1, 2, 3))
    assert np.quantile(steps, 0.9) < 20  # no edges that could be taken for a drawing's


def test_drawings_are_placed_inside_the_frame_at_varied_sizes():
    square = Image.new("RGBA", (256, 256), (0, 0, 0, 255))
    images = variants([square, square], 30, seed=0)
    assert images.shape == (2, 30, 64, 64, 3) and images.dtype == np.uint8
    dark = (images < 40).all(-1).reshape(60, 64, 64)
    sides = dark.any(1).sum(1)
    assert 38 <= sides.min() < 46 and 54 < sides.max() <= 62
    assert np.array_equal(sides, dark.any(2).sum(1))  # whole squares: nothing is cut off
    lefts = dark.any(1).argmax(1)
    assert lefts.min() <= 1 and lefts.max() > 12
    assert np.array_equal(images, variants([square, square], 30, seed=0))
    assert not np.array_equal(images, variants([square, square], 30, seed=1))


def test_drawings_in_frames_of_any_shape_stand_whole_in_their_middle_square():
    square = Image.new("RGBA", (256, 256), (0, 0, 0, 255))
    dark = (place(square, (40, 96), np.random.default_rng(0)) < 40).all(-1)
    assert dark.shape == (40, 96)
    down, across = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    assert len(down) == len(across) == dark.sum() ** 0.5
    assert across.min() >= 28 and across.max() < 68


def brute_force(query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
    logits = scale * query @ key.transpose(-1, -2)
    return logits.var(-1, correction=0).mean((0, 2))


def test_logit_variance_is_that_of_the_map():
    torch.manual_seed(0)
    query, key = torch.randn(3, 4, 7, 5).double(), 2 + torch.randn(3, 4, 11, 5).double()
    torch.testing.assert_close(logit_variance(query, key, 0.3), brute_force(query, key, 0.3), rtol=1e-12, atol=0)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(logit_variance(query, key + query.mean(), 0.31), brute_force(query, key, 0.3))


class Block(nn.Module):
    """One layer of self-attention and one of cross-attention, called as diffusers calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1 = Attention(8, heads=2, dim_head=4)
        self.attn2 = Attention(8, heads=2, dim_head=4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.attn2(self.attn1(tokens), encoder_hidden_states=tokens[:, :3])


def test_attended_variance_is_how_the_entropy_falls_with_a_factor():
    """dH/d(log factor) = -Var_A, per row: from the entropy on both sides."""
    torch.manual_seed(0)
    query, key = torch.randn(3, 4, 7, 5).double(), torch.randn(3, 4, 11, 5).double()

    def entropy(scale: float) -> torch.Tensor:
        attention = (scale * query @ key.transpose(-1, -2)).softmax(-1)
        return -(attention * attention.log()).sum(-1).mean((0, 2))

    slope = (entropy(0.5 * (1 - 1e-5)) - entropy(0.5 * (1 + 1e-5))) / 2e-5
    torch.testing.assert_close(attended_variance(query, key, 0.5), slope, rtol=1e-6, atol=0)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(logit_variance(query, key, 0.5), slope, rtol=1e-2, atol=0)


def test_brake_reads_self_attention():
    torch.manual_seed(0)
    block, tokens = Block(), torch.randn(6, 9, 8)
    brake = Brake(block, variance=2.0, pictures=6, rows=4000)
    block(tokens)
    with torch.no_grad():
        block(2 * tokens)  # sampling while training is not looked at
    variances, shares = brake.read()
    layer = block.attn1
    query, key = (linear(tokens).view(6, 9, 2, 4).transpose(1, 2) for linear in (layer.to_q, layer.to_k))
    torch.testing.assert_close(variances[0], brute_force(query, key, layer.scale), rtol=1e-5, atol=0)
    expected = attended_variance(query, key, layer.scale) / (2 * np.log(9))
    torch.testing.assert_close(shares[0], expected, rtol=0.05, atol=0)  # rows are drawn by lot


def test_brake_pulls_both_numbers_to_their_targets():
    torch.manual_seed(0)
    block, tokens = Block(), torch.randn(6, 30, 8)
    brake = Brake(block, variance=3.0, share=0.2, pictures=6, rows=30)
    optimizer = torch.optim.Adam(block.parameters(), lr=0.02)
    for _ in range(200):
        block(tokens)
        term, seen = brake()
        optimizer.zero_grad()
        (20 * term).backward()
        optimizer.step()
    assert seen["variance"] == pytest.approx(3, rel=0.1)
    assert seen["share"] == pytest.approx(0.2, rel=0.1)


def loop_of(folder, steps: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and average after ``steps`` of a run that checkpoints every third step."""
    torch.manual_seed(seed)
    model = nn.Linear(4, 4)
    loop = Loop(folder, "stage", model, peak=1e-2, rate=lambda step, steps, peak: peak)
    target = torch.eye(4)

    def loss_of_batch():
        inputs = torch.randn(8, 4)
        return (model(inputs) - inputs @ target).square().mean(), {"seen": 1.0}

    loop.train(steps, loss_of_batch, every=3)
    return model.weight.detach().clone(), loop.average.module.state_dict()["weight"]


def test_a_run_that_goes_on_takes_the_steps_it_would_have_taken(tmp_path):
    whole, average = loop_of(tmp_path / "whole", 9)
    loop_of(tmp_path / "parts", 6)
    weight, continued = loop_of(tmp_path / "parts", 9, seed=77)  # random numbers too are the checkpoint's
    assert torch.equal(weight, whole) and torch.equal(continued, average)
    other, _ = loop_of(tmp_path / "other", 9, seed=77)
    assert not torch.equal(other, whole)


def test_learning_rate_warms_up_and_falls_to_zero_at_the_planned_end():
    rates = [cosine(step, 1000, 1.0) for step in range(1, 1001)]
    assert rates[0] < 0.01 and rates[149] == pytest.approx(0.946, abs=0.01)
    assert max(rates) < 1 and rates[-1] == pytest.approx(0, abs=1e-6)
    assert np.all(np.diff(rates[150:]) < 0)
    assert cosine(500, 2000, 1.0) > cosine(500, 1000, 1.0)  # a longer plan, when a run goes on
