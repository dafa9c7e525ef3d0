"""The figure and the report of two models side by side."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import xarray as xr

from entropylab.figures import figure5, two_models
from entropylab.figures.command import command


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
