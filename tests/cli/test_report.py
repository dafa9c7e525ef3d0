"""``entropylab report``, ``fit`` and ``check``."""

from pathlib import Path

import pandas as pd
import pytest
import xarray as xr

import entropylab
from entropylab import check
from entropylab.law.theory import TOLERANCE

from ..command_line import refused, run
from ..datasets import under_both


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return under_both(steps=1, samples=3)


@pytest.fixture(scope="module")
def saved(ds: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.nc"
    entropylab.save(ds, path)
    return path


def test_report_on_the_command_line(saved: Path, tmp_path: Path, undrawn: None) -> None:
    out = tmp_path / "r.html"
    words = ("report", saved, saved, "--name", "one", "--name", "two", "--out", out)
    refused(run("report", saved, tmp_path / "none.nc", "--out", out), "none.nc")
    assert list(tmp_path.iterdir()) == []
    out.touch()
    refused(run(*words), str(out), "--overwrite")
    result = run(*words, "--tolerance", "0.05", "--overwrite")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"wrote {out} and {tmp_path / 'r.md'}\n"
    assert "Attention entropy: one, two" in out.read_text(encoding="utf-8")
    assert "within 0.05 nats" in out.read_text(encoding="utf-8")
    assert run("report", saved, saved, "--out", out, "--overwrite").exit_code == 0
    assert "synthetic (1), synthetic (2)" in out.read_text(encoding="utf-8")


def test_fit_and_check_on_the_command_line(saved: Path, ds: xr.Dataset, tmp_path: Path) -> None:
    found = entropylab.fit(ds, by=["layer"], kind="self", scaling="sqrt_log")
    options = ("--by", "layer", "--kind", "self", "--scaling", "sqrt_log")
    assert run("fit", saved, *options).stdout == f"{found.summary()}\n"
    result = run("check", saved)
    assert result.exit_code == 0, result.output
    assert check(ds).summary() in result.stdout
    assert f"smallest N, the law within {TOLERANCE:g} nats" in result.stdout
    table = tmp_path / "table.csv"
    assert run("check", saved, "--by", "layer,size", "--out", table, "--tolerance", "0.2").exit_code == 0
    assert len(pd.read_csv(table)) == 5 * ds.sizes["size"]
    assert "exists already" in run("check", saved, "--out", table).stderr
    assert run("check", saved, "--scaling", "sqrt_log", "--out", table, "--overwrite").exit_code == 0
    assert len(pd.read_csv(table)) == len(check(ds).to_frame())
    other = tmp_path / "other.csv"
    for words, message in {
        "--by wisdom": "by must be some of",
        "--tolerance 0": "tolerance must be",
        "--kind joint": "kind='joint'",
    }.items():
        refused(run("check", saved, *words.split(), "--out", other), message)
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
