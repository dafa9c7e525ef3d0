"""Long runs on the command line: measure --out RUN/, status, merge; progress, in lines and on a terminal."""

import io
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

import entropylab
from entropylab.runs.folder import read_run
from entropylab.runs.progress import Progress
from entropylab.runs.units import cut

from ..command_line import refused, run
from .stub import PROMPTS, Stub
from .stub import measure as measure_stub


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pipelines that were loaded."""
    made: list[Any] = []

    def load(*arguments: Any, **options: Any) -> Stub:
        made.append(Stub())
        return made[-1]

    monkeypatch.setattr(entropylab, "load", load, raising=False)
    return made


def measured(out: Path, prompts: Path, *more: object) -> Result:
    words = ["--sizes", 32, "--steps", 2, "--prompts", prompts, "--batch-size", 2, "--out", out]
    return run("measure", "model", *words, *more)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(f'{{"caption": "{text}"}}' for text in PROMPTS))
    return path


def test_measure_status_merge_and_fit(loaded: list[Any], prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = measured(out, prompts, "--samples", 6, "--column", "caption")
    assert first.exit_code == 0, first.output
    assert f"entropylab fit {out}" in first.stdout
    assert first.stderr.count(" of 3 in all; 0:00:") == 3
    folder = read_run(out)
    folder.file(folder.units[1]).unlink()
    text = run("status", out).stdout
    assert [line.split() for line in text.splitlines()[:3]] == [
        ["size", "scaling", "units", "samples", "at", "work"],
        ["32x32", "original", "2/3", "4/6", "0"],
        ["all", "2/3", "4/6", "0"],
    ]
    half = run("fit", out)
    unfinished = f"warning: {out} is not finished, it has 2 of 3 units: 32x32 original 4 of 6 samples\n"
    assert half.stderr.startswith(unfinished)
    again = measured(out, prompts, "--samples", 6)
    assert again.stderr.count("samples 2 to 3") == 1 == again.stderr.count("in all;")
    merged = run("merge", out, "--out", tmp_path / "one.nc")
    assert merged.exit_code == 0, merged.output
    assert "3 of 3 units" in merged.stdout
    assert entropylab.open(tmp_path / "one.nc").equals(entropylab.open(out))
    refused(run("merge", out, "--out", tmp_path / "one.nc"), "exists already")


def test_mistakes_are_one_line_and_before_the_model_is_loaded(
    loaded: list[Any], prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    refused(measured(tmp_path / "full", prompts), "empty folder", "letter.txt")
    refused(measured(tmp_path / "run", prompts, "--column", "text"), "missing")
    refused(measured(tmp_path / "run", tmp_path / "none.parquet"), "none.parquet")
    refused(run("measure", "--sizes", 32, "--column", "text", "--out", tmp_path / "run"), "column needs --prompts")
    assert loaded == []
    for command in (("status", tmp_path), ("fit", tmp_path), ("merge", tmp_path, "--out", tmp_path / "a.nc")):
        refused(run(*command), "holds no run: run.json is missing")
    (tmp_path / "file.nc").touch()
    for none in ("rum", "file.nc"):
        refused(run("status", tmp_path / none), "holds no run: there is no such folder")
    assert measured(tmp_path / "run", prompts, "--samples", 2, "--quiet").stderr == ""
    refused(measured(tmp_path / "run", prompts, "--samples", 2, "--seed", 4), "seed: 0 there, 4 now", "--overwrite")
    assert measured(tmp_path / "run", prompts, "--samples", 2, "--seed", 4, "--overwrite", "--quiet").exit_code == 0
    assert entropylab.open(tmp_path / "run").attrs["seed"] == 4

    def end(*arguments: Any, **options: Any) -> None:
        raise entropylab.EntropyLabError("no room")

    monkeypatch.setattr("entropylab.runs.worker.to_dataset", end)
    ended, kept = measured(tmp_path / "another", prompts, "--quiet"), tmp_path / "another"
    assert ended.exit_code == 2
    said = f"what was finished is kept: entropylab status {kept}; the same command goes on"
    assert ended.stderr.splitlines() == ["error: no room", said]


def test_status_tells_of_work_and_damage(done: Path, tmp_path: Path) -> None:
    out = shutil.copytree(done, tmp_path / "run")
    folder = read_run(out)
    folder.file(folder.units[0]).write_bytes(b"")
    folder.file(folder.units[1]).unlink()
    with folder.locks.take(folder.units[1].name) or pytest.fail("not taken"):
        text = run("status", out, "--check").stdout
    assert f"process {os.getpid()}" in text
    assert "at work on 1: " in text
    assert "damaged: " in text
    assert "is empty" in text
    assert run("status", out).stdout.count("damaged") == 0


def test_what_holds_no_measurement_is_named(tmp_path: Path) -> None:
    ds = measure_stub(sizes=[32, 64])
    calibration = ds[["entropy"]].assign(sigma2=ds.sigma2.isel(size=0, drop=True), calibrated=ds.entropy)
    path, listing = tmp_path / "calibration.nc", tmp_path / "listing.nc"
    entropylab.save(calibration.assign_attrs(ds.attrs), path)
    entropylab.save(ds[["rows_bad"]].assign_attrs(ds.attrs), listing)
    for command in ("fit", "check", "report"):
        more = ["--out", tmp_path / "report.html"] if command == "report" else []
        refused(run(command, path, *more), "calibration.nc holds no measurement", "every statistic", "sigma2(scaling")
        refused(run(command, listing, *more), "listing.nc holds no measurement", "missing entropy")


def told(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """What progress writes of the first of four units, which took a minute."""
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", stream)
    progress = Progress(cut([(32, 32), (64, 64)], ["original"], 8, 4))
    progress.begin(first := next(iter(progress.pending.values())))
    progress.end(first, 60, workers=3)
    progress.close()
    return stream.getvalue()


def test_progress_with_the_time_left_in_lines_and_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit of 64x64 takes four times as long: nine minutes are left, for three processes three."""
    line = "32x32 original, samples 0 to 3: 60.0 s; 1 of 4 in all; 0:03:00 left\n"
    assert told(terminal=False, monkeypatch=monkeypatch) == line
    bar = told(terminal=True, monkeypatch=monkeypatch)
    assert "32x32 original:   0%" in bar and "0:03:00 left" in bar
    assert "\n" not in bar.strip()
