"""What of the recipes can be tried in a second: drawings, the brake, a run that goes on, the law's numbers."""

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from PIL import Image
from torch import nn

from entropylab.gaussian import table
from entropylab.law.theory import SKEWED
from recipes.brake import Brake, attended_variance, logit_variance
from recipes.gaussian import MANY, SIGMAS, drawn_rows, of_few, simulated
from recipes.loop import Loop
from recipes.pictures import variants
from recipes.thresholds import crossing, simulated_threshold


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


def test_both_variances_are_those_of_the_map():
    """That of the logits; and under attention, which is how the entropy falls: dH/d(log factor) = -Var_A, per row."""
    torch.manual_seed(0)
    query, key = torch.randn(3, 4, 7, 5).double(), 2 + torch.randn(3, 4, 11, 5).double()

    def logits(scale: float) -> torch.Tensor:
        return scale * query @ key.transpose(-1, -2)

    def entropy(scale: float) -> torch.Tensor:
        attention = logits(scale).softmax(-1)
        return -(attention * attention.log()).sum(-1).mean((0, 2))

    variance = logits(0.5).var(-1, correction=0).mean((0, 2))
    torch.testing.assert_close(logit_variance(query, key, 0.5), variance, rtol=1e-12, atol=0)
    assert not torch.allclose(logit_variance(query, key, 0.51), variance, rtol=1e-2)
    slope = (entropy(0.5 * (1 - 1e-5)) - entropy(0.5 * (1 + 1e-5))) / 2e-5
    torch.testing.assert_close(attended_variance(query, key, 0.5), slope, rtol=1e-6, atol=0)
    assert not torch.allclose(variance, slope, rtol=1e-2)


class Block(nn.Module):
    """One layer of self-attention and one of cross-attention, called as diffusers calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1 = Attention(8, heads=2, dim_head=4)
        self.attn2 = Attention(8, heads=2, dim_head=4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.attn2(self.attn1(tokens), encoder_hidden_states=tokens[:, :3])


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


def test_the_threshold_of_the_law_comes_from_simulation():
    """Of few rows, because the whole simulation takes some seconds."""
    found = simulated_threshold(seed=3, cells=2**17)
    assert 0.7 * found <= SKEWED <= found
    where = np.array([0.0, 1.0, 2.0])
    assert crossing(where, np.array([0.0, 0.05, 0.15])) == pytest.approx(1.5)
    assert crossing(where, np.array([0.0, 0.05, -0.15])) == pytest.approx(1.5)
    assert crossing(where, np.zeros(3)) == np.inf
    assert crossing(where, np.array([0.0, np.nan, 0.0])) == 0.0


def test_the_table_of_few_keys_comes_from_its_recipe():
    """Of many keys it takes half a minute a row; tests/entropy/test_beyond.py holds those against simulation."""
    known, sigmas = table(), SIGMAS[::40]
    few = of_few(5, sigmas)
    np.testing.assert_allclose(known["entropy"][4, ::40], few[0], atol=1e-6)
    np.testing.assert_allclose(known["spread"][4, ::40], few[1], atol=1e-6)
    np.testing.assert_allclose(known["tokens"], [*range(1, 8), *MANY])
    for number in (8, 512, 4096):  # by keys one by one and in cells
        mean, spread = simulated(*drawn_rows(number, 2000), sigmas[1:])
        row = known["tokens"] == number
        np.testing.assert_allclose(known["spread"][row, 40::40][0], spread, rtol=0.12)
        assert (abs(known["entropy"][row, 40::40] - mean) < 0.004 + 4 * spread / 2000**0.5).all()
