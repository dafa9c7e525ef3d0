"""The scripts of single figures: they draw from a file, and measure only what they need."""

import runpy
import sys
from pathlib import Path

import pytest
import xarray as xr

from entropylab.figures import figure5, gaussian_ablation, measuring
from entropylab.figures.command import command

from ..conftest import new_random_pipeline
from .made import leave_pictures_empty, tables, whole

SCRIPTS = Path(__file__).parents[2] / "figures"


@pytest.mark.parametrize(
    ("script", "source", "names"),
    [
        ("figure5", "measurement.nc", whole(["figure5"])),
        ("figure6", "measurement.nc", whole(["figure6"])),
        ("sweep", "sweep.nc", whole(["sweep"])),
        ("samples", "pictures.nc", whole(["samples_96x64"])),
        ("law_checks", "law.nc", [*whole(["law_checks"]), "smallest_n.csv"]),
        ("layers", "law.nc", whole(["layers"])),
        ("logits", "logits.nc", whole(["logits"])),
        ("gaussian_ablation", "gaussian_ablation.nc", whole(["gaussian_ablation"])),
        ("regenerate", "measurement.nc", whole(["figure5", "figure6"])),
    ],
)
def test_scripts_draw_from_a_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, source: str, names: list[str]
) -> None:
    """That pictures are the same byte by byte is seen above, once for all."""
    leave_pictures_empty(monkeypatch)
    monkeypatch.setattr(sys, "argv", [script, "--run", str(folder / source), "--out", str(tmp_path / "out")])
    try:
        runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    except SystemExit as end:
        assert not end.code
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert tables(tmp_path / "out").items() <= tables(folder).items()


def test_a_script_measures_only_what_its_figure_needs(
    ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked = {}
    monkeypatch.setattr(measuring, "load", lambda model: new_random_pipeline())
    monkeypatch.setattr(measuring, "measure", lambda pipe, sizes, **options: asked.update(sizes=sizes, **options) or ds)
    command(figure5, ["--out", str(tmp_path), "--samples", "3", "--steps", "4"])
    pairs = [(32, 32), (48, 48), (64, 64), (96, 96), (128, 128), (192, 192), (96, 64), (64, 128)]
    assert asked["sizes"] == pairs
    assert (asked["samples"], asked["steps"], asked["scaling"]) == (3, 4, ["original"])
    written = [f"wrote {tmp_path / name}" for name in ("figure5.pdf", "figure5.png", "figure5.csv")]
    assert capsys.readouterr().out.splitlines() == written


def test_simulation_needs_no_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(measuring, "load", lambda model: pytest.fail("a pipeline was loaded"))
    monkeypatch.setattr(gaussian_ablation, "measured", lambda source: {"source": source})
    monkeypatch.setattr(gaussian_ablation, "files", lambda ds, out: [out / f"{ds['source']}.csv"])
    command(gaussian_ablation, ["--out", str(tmp_path)])
    assert capsys.readouterr().out == f"wrote {tmp_path / 'None.csv'}\n"
