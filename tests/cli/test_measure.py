"""``entropylab measure``: what it hands to the library, and what it checks before any model is loaded."""

from pathlib import Path
from typing import Any

import pytest

import entropylab
from entropylab.errors import EntropyLabError

from ..command_line import refused, run


def test_measure_hands_every_option_on(calls: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n\n  ein Bär \n", encoding="utf-8")
    words = "--sizes 64 --samples 3 --steps 5 --guidance 2.5 --seed 9 --scaling original,sqrt_log,0.9 --rows 256 "
    words += "--statistics entropy,lse --statistics third --batch-size 4 --device cpu --dtype float16 --overwrite "
    words += "--quiet --train-size 512 --layers self,*attn2 --layers joint --keep layer,sample --strict"
    out = tmp_path / "a.nc"
    result = run("measure", "m", *words.split(), "--prompts", tmp_path / "prompts.txt", "--out", out)
    assert result.exit_code == 0, result.output
    assert calls["measure"] == {
        "sizes": [64],
        "prompts": ["a cat", "ein Bär"],
        "samples": 3,
        "steps": 5,
        "guidance_scale": 2.5,
        "seed": 9,
        "scaling": ["original", "sqrt_log", 0.9],
        "statistics": ("entropy", "lse", "third"),
        "rows": 256,
        "layers": ["self", "*attn2", "joint"],
        "keep": ("sample", "layer"),
        "train_size": (512, 512),
        "batch_size": 4,
        "strict": True,
        "received": False,
        "progress": False,
    }
    assert calls["load"] == {"model": "m", "dtype": "float16", "device": "cpu"}
    assert calls["save"] == {"path": out, "overwrite": True}
    assert f"entropylab fit {out}" in result.stdout


def test_maps_go_to_a_file_beside_the_measurement(calls: dict[str, Any], tmp_path: Path) -> None:
    out, maps = tmp_path / "a.nc", tmp_path / "maps.nc"
    assert run("measure", "--sizes", 64, "--out", out, "--maps", maps, "--overwrite").exit_code == 0
    assert calls["measure"]["maps"] == maps and calls["measure"]["overwrite"] is True
    for beside in (maps, tmp_path / "run"):
        refused(run("measure", "--sizes", 64, "--out", beside, "--maps", maps), "maps must be a file beside out")
    maps.touch()
    refused(run("measure", "--sizes", 64, "--out", out, "--maps", maps), "maps.nc exists already")


def test_words_are_checked_before_the_model_is_loaded(calls: dict[str, Any], tmp_path: Path) -> None:
    prompts, there = tmp_path / "prompts.txt", tmp_path / "there.nc"
    prompts.write_bytes(b"\n  \n")
    there.touch()
    for out, *said in ((there, str(there), "--overwrite"), (tmp_path / "none" / "a.nc", "none"), (tmp_path, "folder")):
        refused(run("measure", "--sizes", 64, "--out", out), *said)
    rest = ("measure", "--sizes", 64, "--out", tmp_path / "a.nc")
    for words in (
        ("--prompts", prompts),
        ("--prompts", tmp_path / "none.txt"),
        *(("--scaling", rules) for rules in ("sqrt_lg", "original,-1", "nan")),
        *(("--train-size", sizes) for sizes in ("x", "64,32")),
        ("--statistics", "wisdom"),
        ("--keep", "wisdom"),
    ):
        refused(run(*rest, *words), words[0].strip("-") if words[1] != "x" else "sizes must be whole numbers of pixels")
    for words in (("--samples", 0), ("--steps", -1), ("--rows", 0), ("--batch-size", 0), ("--seed", "x")):
        result = run(*rest, *words)
        assert result.exit_code == 2 and "Traceback" not in result.output
        assert words[0] in result.stderr
    assert calls == {}
    assert run("measure", "--sizes", 64, "--out", there, "--overwrite").exit_code == 0
    assert "measure" in calls


@pytest.mark.parametrize("error", [EntropyLabError("statistics must be known.\nGot 'wisdom'."), ValueError("a bug")])
def test_the_librarys_errors_are_one_line_and_others_are_not_hidden(
    error: Exception, monkeypatch: pytest.MonkeyPatch, calls: dict[str, Any], tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(entropylab, "measure", fail)
    result = run("measure", "--sizes", 64, "--out", tmp_path / "a.nc")
    if isinstance(error, EntropyLabError):
        refused(result, "statistics must be known. Got 'wisdom'.")
    else:
        assert result.exit_code == 1
        assert result.exception is error
