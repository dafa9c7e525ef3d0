"""The figures as files: written whole, the same again from the same data, others from other data."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import entropylab
from entropylab import EntropyLabError
from entropylab.figures import figure5, figure6, regenerate, samples
from entropylab.figures.command import command
from entropylab.plot.tokens import table

from ..datasets import BOTH, SIZES, synthetic
from .made import DRAWN, MEASURED, leave_pictures_empty, run_small, tables, whole


def drawn(ds: xr.Dataset, out: Path) -> list[Path]:
    return [path for figure in (figure5, figure6) for path in figure.files(ds, out)]


def test_everything_is_written(folder: Path) -> None:
    expected = [*MEASURED, *whole(DRAWN), "smallest_n.csv"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(expected)
    assert all(path.stat().st_size for path in folder.iterdir())
    ds = entropylab.open(folder / "measurement.nc")
    assert ds["scaling"].values.tolist() == ["original", "sqrt_log", "invariant", "calibrated"]
    assert entropylab.Calibration.open(folder / "calibration.nc").dataset["size"].values.tolist() == ["96x64", "96x96"]


def test_another_run_gives_the_same_tables_and_another_model_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_pictures_empty(monkeypatch)
    run_small(tmp_path / "same")
    run_small(tmp_path / "other", sharpness=2)
    same, other = tables(tmp_path / "same"), tables(tmp_path / "other")
    assert tables(folder) == same
    alike = [name for name in same if same[name] == other[name]]
    assert alike == ["gaussian_ablation.csv"], "in which there is no model"


def test_a_folder_can_be_drawn_again(folder: Path, tmp_path: Path) -> None:
    written = regenerate(tmp_path, folder)
    assert sorted(path.name for path in written) == sorted(
        path.name for path in folder.iterdir() if path.suffix != ".nc"
    )
    assert all(path.read_bytes() == (folder / path.name).read_bytes() for path in written)


@pytest.fixture(scope="module")
def once(ds: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return drawn(ds, tmp_path_factory.mktemp("once"))


def test_drawing_again_writes_the_same_files(ds: xr.Dataset, once: list[Path], tmp_path: Path) -> None:
    first, second = once, drawn(ds, tmp_path / "b")
    assert sorted(path.name for path in first) == whole(["figure5", "figure6"])
    assert all(one.read_bytes() == two.read_bytes() for one, two in zip(first, second, strict=True))
    assert b"CreationDate" not in first[0].read_bytes()
    other = drawn(ds.assign(entropy=ds["entropy"] + 0.01), tmp_path / "c")
    assert all(one.read_bytes() != two.read_bytes() for one, two in zip(first, other, strict=True))


def test_tables_beside_the_figures(ds: xr.Dataset, once: list[Path]) -> None:
    five, six = (pd.read_csv(path) for path in once if path.suffix == ".csv")
    np.testing.assert_allclose(five["entropy"], table(ds)["entropy"], atol=1e-6)
    assert {"fraction_removed", "normalised_entropy", "drift"} <= set(six)
    assert set(six["size"]) == {f"{height}x{width}" for height, width in SIZES}


def test_calibrated_rules_are_in_the_table_of_figure_6_and_not_drawn(ds: xr.Dataset) -> None:
    three = synthetic(scalings=(*BOTH, "calibrated"), removed={"sqrt_log": 0.3, "calibrated": 1.0})
    assert len(figure6.draw(three).axes[0].get_lines()) == len(figure6.draw(ds).axes[0].get_lines())


def test_a_measurement_without_the_training_size_has_no_figure_6(
    ds: xr.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    entropylab.save(ds.isel(size=[0, 1]), tmp_path / "run.nc")
    written = regenerate(tmp_path / "out", tmp_path / "run.nc")
    assert sorted(path.name for path in written) == whole(["figure5"])
    assert "figure 6 is left out: train_size must be named" in capsys.readouterr().err


def test_bad_input(ds: xr.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EntropyLabError, match="out must be a folder"):
        regenerate(tmp_path / "file")
    with pytest.raises(EntropyLabError, match="samples must be an int >= 1. Got 0"):
        regenerate(tmp_path, samples=0)
    with pytest.raises(EntropyLabError, match="run must be a file, or a folder with measurement.nc"):
        regenerate(tmp_path, tmp_path)
    with pytest.raises(EntropyLabError, match="at least two sizes"):
        entropylab.save(ds.isel(size=[2]), tmp_path / "one.nc")
        regenerate(tmp_path / "out", tmp_path / "one.nc")
    with pytest.raises(EntropyLabError, match="ds must hold pictures"):
        samples.files(ds, tmp_path)
    with pytest.raises(SystemExit):
        command(figure5, ["--out", str(tmp_path), "--run", str(tmp_path / "none.nc")])
    assert "none.nc" in capsys.readouterr().err
