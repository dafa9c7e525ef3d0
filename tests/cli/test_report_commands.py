"""``entropylab report`` and ``entropylab check``, and the figures of models side by side."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure
from typer.testing import CliRunner, Result

import entropylab
from entropylab import EntropyLabError, check, plot
from entropylab.cli import app
from entropylab.figures import figure5, two_models
from entropylab.figures.command import command
from entropylab.law.check_table import grouped
from entropylab.law.validity import TOLERANCE
from entropylab.plot.compare import layer_lines
from entropylab.reporting import pictures
from entropylab.reporting.blocks import Picture

from ..datasets import NOISY, synthetic

PNG = b"\x89PNG"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that are not drawn."""
    monkeypatch.setattr(pictures, "picture", lambda name, caption, draw, **_: [Picture(name, caption, PNG)])


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return synthetic(scalings=("original", "sqrt_log"), removed={"sqrt_log": 0.3}, **NOISY)


# The commands.


@pytest.fixture(scope="module")
def saved(ds: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.nc"
    entropylab.save(ds, path)
    return path


def test_report_on_the_command_line(saved: Path, tmp_path: Path, undrawn: None) -> None:
    out = tmp_path / "r.html"
    words = ("report", saved, saved, "--name", "one", "--name", "two", "--out", out)
    result = run(*words, "--tolerance", "0.05")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"wrote {out} and {tmp_path / 'r.md'}\n"
    assert "Attention entropy: one, two" in out.read_text(encoding="utf-8")
    assert "within 0.05 nats" in out.read_text(encoding="utf-8")
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {out} exists already; overwrite=True (--overwrite) replaces it.\n"
    assert run(*words, "--overwrite").exit_code == 0


def test_runs_of_one_model_are_numbered(saved: Path, tmp_path: Path, undrawn: None) -> None:
    assert run("report", saved, saved, "--out", tmp_path / "r.html").exit_code == 0
    assert "synthetic (1), synthetic (2)" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_run_that_is_none_is_refused_before_anything_is_written(saved: Path, tmp_path: Path) -> None:
    result = run("report", saved, tmp_path / "none.nc", "--out", tmp_path / "r.html")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_check_on_the_command_line(saved: Path, ds: xr.Dataset, tmp_path: Path) -> None:
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
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.parametrize(
    ("words", "message"),
    [("--by wisdom", "by must be some of"), ("--tolerance 0", "tolerance must be"), ("--kind joint", "kind='joint'")],
)
def test_what_check_refuses(words: str, message: str, saved: Path, tmp_path: Path) -> None:
    result = run("check", saved, *words.split(), "--out", tmp_path / "table.csv")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_groups_of_layers_are_the_layers_of_the_check(ds: xr.Dataset) -> None:
    found = check(synthetic(cumulants=True, **NOISY))
    layers, own = found.layers(), grouped(found)
    for name in set(own) & set(layers) - {"layer", "tokens"}:
        np.testing.assert_allclose(own[name].astype(float), layers[name].astype(float), err_msg=name)
    heads = grouped(found, ["layer", "head"])
    assert len(heads) == 32
    assert heads["law_off"].nunique() > len(own)
    assert grouped(found, ("layer", "head", "size"))["rows"].eq(1).all()
    with pytest.raises(EntropyLabError, match="by must be some of layer, size, each once. Got 'head'"):
        grouped(check(ds.mean("head", keep_attrs=True)), "head")


# The figures.


def test_layers_of_two_models_in_one_panel(ds: xr.Dataset) -> None:
    other = synthetic(slope=0.8, **NOISY)
    ax = plot.by_layer({"one": ds, "other": other}, Figure().subplots(), name="slope")
    lines = {str(line.get_label()): line for line in ax.lines}
    for name, data in (("one", ds), ("other", other)):
        np.testing.assert_allclose(lines[name].get_ydata(), entropylab.fit(data, by="layer").to_frame()["slope"])
        np.testing.assert_allclose(lines[name].get_xdata(), np.linspace(0, 1, 5))
    assert abs(np.subtract(lines["one"].get_ydata(), lines["other"].get_ydata())).min() > 0.1
    ax = plot.by_layer({"one": ds}, Figure().subplots(), name="deficit")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), layer_lines({"one": ds})["deficit"])
    assert ax.get_yscale() == "linear"
    wide = plot.by_layer({"one": synthetic(sigma2=(0.1, 1, 10, 100, 1))}, Figure().subplots(), name="half_sigma2")
    assert wide.get_yscale() == "log"


@pytest.mark.parametrize(
    ("runs", "name", "message"),
    [({}, "slope", "runs must map"), ([1], "slope", "runs must map"), (None, "wisdom", "name must be one of slope")],
)
def test_layers_that_can_not_be_compared(runs: Any, name: str, message: str, ds: xr.Dataset) -> None:
    with pytest.raises(EntropyLabError, match=message):
        plot.by_layer({"one": ds} if runs is None else runs, Figure().subplots(), name=name)


def test_deficit_beside_sigma2() -> None:
    data = synthetic(sigma2=(0.2, 1.4, 6.0, 1.2, 0.6), noise=1e-3)
    ax = plot.deficit_vs_sigma2(data, Figure().subplots())
    rows = check(data).to_frame()
    free = rows[rows["flags"] == ""]
    drawn = {str(line.get_label()): line for line in ax.lines}
    np.testing.assert_allclose(drawn[f"no flag ({len(free)})"].get_ydata(), free["deficit"])
    np.testing.assert_allclose(drawn[f"no flag ({len(free)})"].get_xdata(), free["half_sigma2"])
    assert 0 < len(free) < len(rows)
    assert ax.get_xscale() == ax.get_yscale() == "log"
    uniform = plot.deficit_vs_sigma2(synthetic(sigma2=(0,) * 5), Figure().subplots())
    assert any("not above 0" in text.get_text() for text in uniform.get_legend().get_texts())


def test_two_models(
    ds: xr.Dataset, tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    ds = ds.isel(size=[0, 2, 4], step=[0], branch=[0])
    other = ds.assign(entropy=0.9 * ds["entropy"]).assign_attrs(model="other")
    monkeypatch.setattr(two_models, "measured", lambda source: {"embedded": ds, "emoji-dit": other})
    source: Any = type("Source", (), {"pipe": None})()
    assert two_models.kept(source, tmp_path) == [], "there is no second model to any other"
    monkeypatch.setattr(two_models, "embedded_name", lambda pipe: "embedded")
    written = two_models.kept(source, tmp_path)
    assert [path.name for path in written[:6]] == [
        *("two_models_embedded.nc", "two_models_emoji-dit.nc", "two_models.pdf", "two_models.png", "two_models.csv"),
        "two_models.html",
    ]
    assert set(pd.read_csv(tmp_path / "two_models.csv")["run"]) == {"embedded", "emoji-dit"}
    assert len(two_models.draw({"a": ds, "b": other}).axes) == 3
    drawn: list[Any] = []
    monkeypatch.setattr(two_models, "files", lambda runs, out: drawn.append(runs) or [out / "two_models.html"])
    assert two_models.redrawn(tmp_path / "none", tmp_path) == drawn == []
    two_models.redrawn(tmp_path, tmp_path)
    command(two_models, ["--out", str(tmp_path), "--run", *(str(path) for path in written[:2])])
    assert [list(runs) for runs in drawn] == [["embedded", "emoji-dit"], ["synthetic", "other"]]
    assert all(runs[name].identical(ds) for runs, name in zip(drawn, ("embedded", "synthetic"), strict=True))
    assert "two_models.html" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command(figure5, ["--out", str(tmp_path), "--run", *(str(path) for path in written[:2])])
    assert "run must be one file for this figure. Got 2." in capsys.readouterr().err
