"""``entropylab`` fit, layers and generate: what they hand to the library and what they say."""

from pathlib import Path
from typing import Any

import pytest

from ..command_line import refused, run


def test_fit_prints_the_summary(monkeypatch: pytest.MonkeyPatch, calls: dict[str, Any]) -> None:
    monkeypatch.setattr("entropylab.law.averages.check", lambda ds: ds)
    options = {"by": None, "kind": None, "scaling": None}
    assert run("fit", "a.nc").stdout == f"slope 0.96 of <a.nc> with {options}\n"
    options = {"by": ["layer", "head"], "kind": "image", "scaling": "sqrt_log"}
    words = ("--by", "layer,head", "--kind", "image", "--scaling", "sqrt_log")
    assert run("fit", "a.nc", *words).stdout == f"slope 0.96 of <a.nc> with {options}\n"


def test_layers_are_listed(calls: dict[str, Any]) -> None:
    header, line = run("layers", "org/model").stdout.splitlines()
    assert header.split() == ["path", "kind", "heads", "processor"]
    assert line.split() == ["unet.mid_block.attn1", "self", "8", "AttnProcessor2_0"]
    assert calls["load"]["model"] == "org/model"


def test_generate_writes_an_image_for_each_size_and_rule(calls: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "images"
    words = ["--size", 64, "96x128", "--scaling", "original,sqrt_log", "--seed", 7, "--steps", 4, "--out", out]
    result = run("generate", "a cat", *words)
    assert result.exit_code == 0, result.output
    names = ["64x64_original_seed7", "64x64_sqrt_log_seed7", "96x128_original_seed7", "96x128_sqrt_log_seed7"]
    assert sorted(path.stem for path in out.iterdir()) == names
    call = (out / "96x128_sqrt_log_seed7.png").read_text()
    expected = {"rule": "sqrt_log", "seed": 7, "prompt": "a cat", "height": 96, "width": 128, "num_inference_steps": 4}
    assert call == repr(expected)
    assert "'rule': 'original'" in (out / "64x64_original_seed7.png").read_text()
    run("generate", "a cat", "--size", 32, "--scaling", "0.9", "--train-size", "64x32", "--out", out)
    assert "'rule': (0.9, (64, 32))" in (out / "32x32_0.9_seed0.png").read_text()


def test_generate_checks_its_files_before_the_model_is_loaded(calls: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "64x64_original_seed0.png").write_text("before")
    refused(run("generate", "a cat", "--size", 32, 64, "--out", tmp_path), "exists already")
    assert calls == {}
    assert run("generate", "a cat", "--size", 32, 64, "--out", tmp_path, "--overwrite").exit_code == 0
    assert (tmp_path / "64x64_original_seed0.png").read_text() != "before"


def test_generate_says_which_sizes_are_near(calls: dict[str, Any], tmp_path: Path) -> None:
    refused(run("generate", "a cat", "--size", 33, "--out", tmp_path), "33x33", "32x32")
    assert list(tmp_path.iterdir()) == []
