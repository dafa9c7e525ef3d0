"""The parts of the recipes that can be tried in a second: drawings, the brake, a run that goes on."""

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from PIL import Image
from torch import nn

from recipes.brake import Brake, attended_variance, logit_variance
from recipes.loop import Loop
from recipes.pictures import variants


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
