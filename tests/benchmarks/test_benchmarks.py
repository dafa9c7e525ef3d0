"""The benchmarks run, and their tables hold what they say; how fast anything is, is not tested."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from . import full_size, kernel
from .__main__ import written


def tiny() -> nn.Module:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=1024,
    )


@pytest.fixture
def tiny_denoiser(monkeypatch: pytest.MonkeyPatch) -> full_size.Denoiser:
    denoiser = full_size.Denoiser("tiny", tiny, full_size.sd_inputs, (8,))
    monkeypatch.setattr(full_size, "DENOISERS", [denoiser])
    monkeypatch.setattr(full_size, "CUDA", False)
    monkeypatch.setattr(full_size, "DEVICE", "cpu")
    monkeypatch.setattr(full_size, "DTYPE", torch.float32)
    return denoiser


def test_every_contestant_is_timed_against_plain_sampling(tiny_denoiser: full_size.Denoiser, tmp_path: Path) -> None:
    rows = full_size.run(2)
    assert [row["contestant"] for row in rows] == list(full_size.CONTESTANTS)
    assert rows[0]["ratio"] == 1
    for row in rows:
        assert row["low"] <= row["ratio"] <= row["high"]
        assert row["first_step"] > 0
    kept = json.loads(written("full_size", rows, 2, tmp_path).read_text(encoding="utf-8"))
    assert kept["rows"] == rows
    assert {"device", "threads", "versions", "repeats"} < set(kept)


def test_whoever_refuses_is_told_in_its_own_words(
    tiny_denoiser: full_size.Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: nn.Module) -> None:
        raise RuntimeError("too many tokens")

    monkeypatch.setitem(full_size.CONTESTANTS, "exact", refuse)
    row = next(row for row in full_size.run(1) if row["contestant"] == "exact")
    assert row["refused"] == "too many tokens"
    assert "ratio" not in row


def test_whole_maps_and_this_package_agree(tiny_denoiser: full_size.Denoiser) -> None:
    """What is raced computes the same numbers."""
    model = full_size.made(tiny_denoiser)
    found: list[torch.Tensor] = []

    def entropy(call) -> None:
        found.append(full_size.entropy_of((call.query @ call.key.transpose(-1, -2) * call.scale).softmax(-1)))

    torch.manual_seed(0)
    inputs = tiny_denoiser.inputs(8)
    with full_size.entropylab.record(model) as rec, full_size.intercept({"model": model}, entropy), torch.no_grad():
        model(**inputs)
    measured = rec.dataset.entropy.squeeze().transpose("layer", "sample", "head")
    for index, maps in enumerate(found):
        torch.testing.assert_close(torch.as_tensor(measured.values[index]), maps, rtol=0, atol=1e-4)


def test_growth_is_the_exponent_of_a_power_law() -> None:
    assert kernel.growth({10: 300.0, 20: 1200.0, 40: 4800.0, 80: None}) == pytest.approx(2)
    assert kernel.growth({10: 300.0}) is None
