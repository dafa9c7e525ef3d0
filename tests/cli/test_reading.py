"""What the command line makes of words: sizes in every form."""

from pathlib import Path
from typing import Any

import pytest

import entropylab
from entropylab.cli.words import repeat_sizes, say
from entropylab.sizes import parse_sizes

from ..command_line import refused, run
from ..datasets import synthetic


@pytest.mark.parametrize(
    ("words", "model"),
    [
        ("--sizes 32 64 96x128", None),
        ("--sizes 32 --sizes 64 --sizes 96x128", None),
        ("--sizes=32 64,96X128", None),
        ("org/model --sizes 32 64 96x128", "org/model"),
        ("--sizes 32,64,96x128 org/model", "org/model"),
        ("--sizes 32 64 96x128 -- org/model", "org/model"),
    ],
)
def test_sizes_in_every_way_and_a_model_before_or_after_them(
    words: str, model: str | None, calls: dict[str, Any], tmp_path: Path
) -> None:
    result = run("measure", "--out", tmp_path / "a.nc", "--samples", 2, *words.split())
    assert result.exit_code == 0, result.output
    assert (calls["measure"]["sizes"], calls["measure"]["samples"]) == ([32, 64, (96, 128)], 2)
    assert calls["load"]["model"] == model


def test_only_what_looks_like_a_size_is_taken_for_one() -> None:
    words = ["--sizes", "3D/model", "64", "9d/x", "--seed", "3"]
    assert repeat_sizes(words) == ["--sizes", "3D/model", "--sizes", *words[2:]]
    for others in (["--samples", "2", "64"], ["--sizes", "1", "--", "2"]):
        assert repeat_sizes(others) == others


def test_sizes_that_are_none(calls: dict[str, Any], tmp_path: Path) -> None:
    for size in ("64.5", "0", "-64", "96x", "x96", "96x0", "1x2x3", "abc", "", "32,,64", "1e3", "nan"):
        refused(run("measure", "--sizes", size, "--out", tmp_path / "a.nc"), "sizes", repr(size))
    for words in ("64 64", "64 64x64", "64x96,64x96"):
        refused(run("measure", "--sizes", *words.split(), "--out", tmp_path / "a.nc"), "more than once")
    assert parse_sizes(["96x128", "128x96"]) == [(96, 128), (128, 96)]
    result = run("measure")
    assert result.exit_code == 2
    assert "--sizes" in result.stderr
    assert calls == {}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\rb\x07\x7f\x9b", r"a\rb\x07\x7f\x9b"),
        ("\u202eabc\u2066", r"\u202eabc\u2066"),
        ("\udcff", r"\udcff"),
        ("H = 0.98 log N − σ²/2\n\tmöglich 猫", "H = 0.98 log N − σ²/2\n\tmöglich 猫"),
    ],
)
def test_nothing_that_is_printed_steers_the_terminal(text: str, shown: str, capsys: pytest.CaptureFixture) -> None:
    say(text)
    say(text, err=True)
    assert capsys.readouterr() == (shown + "\n", shown + "\n")


def test_names_in_a_file_do_not_steer_the_terminal(tmp_path: Path) -> None:
    ds = synthetic(samples=2, steps=1)
    ds = ds.assign_coords(layer=[f"\x1b]0;{path}\x07" for path in ds["layer"].values])
    entropylab.save(ds, tmp_path / "entropy.nc")
    for command in (["fit", "--by", "layer"], ["check", "--by", "layer"], ["fit", "--by", "head", "--kind", "cross"]):
        result = run(command[0], tmp_path / "entropy.nc", *command[1:])
        assert not {"\x1b", "\x07"} & set(result.output)
    refused(run("fit", tmp_path / "entropy.nc", "--kind", "joint"), "joint")
