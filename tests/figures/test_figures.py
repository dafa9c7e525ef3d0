"""The scripts of figures/ on tiny settings: they write their files, the same again from the same data, and numbers."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure

import entropylab
import figure5
import figure6
import gaussian_ablation
import law_checks
import layers
import logits
import maps
import regenerate
import samples
import shared
import two_models
from entropylab.law.drift import MEAN

from ..conftest import new_random_pipeline
from ..datasets import BOTH, SIZES, synthetic
from ..runs.stub import measure

MEASURED = ("calibration", "figure5", "gaussian_ablation", "law", "logits", "maps", "measurement", "pictures", "rules")
DRAWN = ("figure5", "figure6", "gaussian_ablation", "law_checks", "layers", "logits", "maps", "rules", "samples_96x64")


def whole(*names: str) -> set[str]:
    return {f"{name}.{ending}" for name in names for ending in ("csv", "pdf", "png")}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_everything_is_written_and_drawn_again_from_what_was_measured(
    folder: Path, tmp_path: Path, unpainted: None
) -> None:
    measured = {f"{name}.nc" for name in (*MEASURED, "sweep")}
    drawn = whole(*DRAWN, "sweep") | {"smallest_n.csv", "overview.pdf", "overview.png"}
    assert names_in(folder) == measured | drawn
    ds = entropylab.open(folder / "measurement.nc")
    assert ds["scaling"].values.tolist() == ["original", "sqrt_log", "invariant", "calibrated"]
    assert entropylab.Calibration.open(folder / "calibration.nc").dataset["size"].values.tolist() == ["96x64", "96x96"]
    for name in ("law.nc", "logits.nc"):
        shutil.copy(folder / name, tmp_path)
    regenerate.command(["--run", str(tmp_path), "--out", str(tmp_path / "again")])
    assert names_in(tmp_path / "again") == whole("law_checks", "layers", "logits") | {"smallest_n.csv"}
    for path in (tmp_path / "again").glob("*.csv"):
        assert path.read_bytes() == (folder / path.name).read_bytes() != b""


def test_the_same_data_make_the_same_files(folder: Path, tmp_path: Path) -> None:
    ds = entropylab.open(folder / "measurement.nc")
    for name, data in {"one": ds, "same": ds, "other": ds.assign(entropy=ds["entropy"] + 0.01)}.items():
        (tmp_path / name).mkdir()
        figure6.draw(data, tmp_path / name)
    for name in whole("figure6"):
        one, same, other = ((tmp_path / run / name).read_bytes() for run in ("one", "same", "other"))
        assert one == same != other


@pytest.mark.parametrize("kind", ["self", "joint"])
def test_figures_are_of_joint_layers_where_there_is_no_self_attention_and_say_so(
    kind, monkeypatch, capsys, tmp_path: Path, figures: list[Figure]
) -> None:
    ds = synthetic(samples=2, steps=1, cumulants=True)
    ds = ds.assign_coords(kind=("layer", np.where(ds["kind"] == "self", kind, "cross")))
    monkeypatch.setattr("entropylab.measure", lambda *_, **__: ds, raising=False)
    source = shared.Source()
    source.pipe = None
    found = source.measure([(64, 64)])
    assert set(found["kind"].values) == {kind} and found.sizes["layer"] == 5
    told = capsys.readouterr().err
    titles = [shared.title(found, 256), told]
    assert ["joint layers" in text for text in titles] == [kind == "joint"] * 2
    for script in (layers, law_checks):
        script.draw(found.mean("branch", keep_attrs=True), tmp_path)
        assert figures[-1].get_suptitle() == ("joint layers" if kind == "joint" else "")


def test_a_script_measures_only_what_its_figure_needs(
    ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unpainted: None
) -> None:
    asked = {}
    monkeypatch.setattr("entropylab.load", lambda model: new_random_pipeline(), raising=False)
    measured = lambda pipe, sizes, **options: asked.update(sizes=sizes, **options) or ds  # noqa: E731
    monkeypatch.setattr("entropylab.measure", measured, raising=False)
    shared.command(None, figure5.FILES, figure5.draw, ["--out", str(tmp_path), "--samples", "3", "--steps", "4"])
    pairs = [(32, 32), (48, 48), (64, 64), (96, 96), (128, 128), (192, 192), (96, 64), (64, 128)]
    assert asked["sizes"] == pairs
    assert (asked["samples"], asked["steps"], asked["scaling"]) == (3, 4, ["original"])
    assert names_in(tmp_path) == whole("figure5")


def test_what_can_not_be_drawn_is_left_out_or_one_line(
    ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unpainted: None, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("entropylab.load", lambda model: new_random_pipeline(), raising=False)
    entropylab.save(ds.isel(size=[0, 1]), "run.nc")
    regenerate.command(["--run", "run.nc", "--out", "out"])
    assert names_in(tmp_path / "out") == whole("figure5")
    assert "figure 6 is left out: train_size must be named" in capsys.readouterr().err
    measure("long", sizes=[32, 64], scaling="original")
    regenerate.command(["--run", "long", "--out", "of_long"])
    assert names_in(tmp_path / "of_long") >= whole("figure5")
    (tmp_path / "file").touch()
    for words, message in {
        "--out file": "File exists",
        "--samples 0": "samples must be an int >= 1. Got 0",
        "--steps 0": "steps must be an int >= 1. Got 0",
        "--run none.nc": "none.nc",
        "--run out": "run must be a file, or a folder with measurement.nc",
        "sd21 --tables": "--tables are of the embedded pipeline",
    }.items():
        with pytest.raises(SystemExit) as ended:
            regenerate.command(["--out", "out", "--quiet", *words.split()])
        said = capsys.readouterr().err
        assert ended.value.code == 2 and message in said and "Traceback" not in said
    entropylab.save(ds.assign_coords(tokens=ds["tokens"].astype(str)), "text.nc")
    unsuitable = [(script, "run.nc") for script in (layers, maps, samples, logits, gaussian_ablation)]
    for script, file in (*unsuitable, (figure6, "text.nc")):
        with pytest.raises(SystemExit) as ended:
            shared.command("", script.FILES, script.draw, ["--out", "out", "--run", file])
        assert ended.value.code == 2 and "run must be such as this script measures" in capsys.readouterr().err


# The numbers beside the figures.


def test_what_the_rules_do(folder: Path, ds: xr.Dataset, tmp_path: Path, figures: list[Figure]) -> None:
    six = pd.read_csv(folder / "figure6.csv")
    assert set(six["scaling"]) == {"original", "sqrt_log", "invariant", "calibrated"}
    three = synthetic(scalings=(*BOTH, "calibrated"), removed={"sqrt_log": 0.3, "calibrated": 1.0})
    figure6.draw(three, tmp_path)
    figure6.draw(ds, tmp_path)
    with_it, without = (len(figure.axes[0].get_lines()) for figure in figures)
    assert with_it == without, "what is calibrated lies on the reference, and is in the table only"
    assert set(pd.read_csv(tmp_path / "figure6.csv")["size"]) == {f"{height}x{width}" for height, width in SIZES}
    sweep = pd.read_csv(folder / "sweep.csv")
    mean = sweep[sweep["layer"] == MEAN]
    assert set(mean["size"]) == {"96x64", "96x96"}
    assert set(mean["scaling"]) == {"original", "0.7", "1.5", "sqrt_log", "invariant", "calibrated"}
    falls = mean[mean["curve"]].groupby("size")["entropy"]
    assert falls.apply(lambda entropy: entropy.is_monotonic_decreasing).all(), "a larger scale, a lower entropy"


def test_the_ablation_says_what_leaves_the_law(folder: Path) -> None:
    rows = pd.read_csv(folder / "gaussian_ablation.csv").set_index(["distribution", "departure", "size"])
    off = abs(rows["law_residual"].xs("16x16", level="size"))
    assert off["student_t", 1.0] > 0.1 > off["low_rank", 1.0]
    assert off["student_t", 0.0] == off["low_rank", 0.0], "without any departure all are one"
    np.testing.assert_allclose(rows["fraction_under_law"], 1 / (2 * np.log(64)), rtol=0.2)


def test_layers_and_their_logits(folder: Path) -> None:
    ds = entropylab.open(folder / "law.nc")
    assert ds["size"].values.tolist() == ["96x64", "64x64", "96x96"]
    table = pd.read_csv(folder / "law_checks.csv")
    np.testing.assert_allclose(table["law_residual"], entropylab.check(ds).to_frame()["law_residual"], atol=1e-6)
    assert len(pd.read_csv(folder / "smallest_n.csv")) == table["layer"].nunique()
    steps = pd.read_csv(folder / "layers.csv")
    assert len(steps) == ds["entropy"].mean("sample").notnull().sum()
    np.testing.assert_allclose(steps["normalised_entropy"], steps["entropy"] / np.log(steps["tokens"]), atol=1e-6)
    met, rows = entropylab.open(folder / "logits.nc"), pd.read_csv(folder / "logits.csv")
    assert rows["keys"].tolist() == [value.shape[1] for value in met.values()]
    assert rows["layer"].tolist() == [value.attrs["layer"] for value in met.values()]
    assert rows["layer"].iloc[0].startswith("unet.down_blocks.0")
    first = met["layer0"].values.astype(float)
    centred = first - first.mean(-1, keepdims=True)
    kurtosis = (centred**4).mean(-1) / (centred**2).mean(-1) ** 2 - 3
    assert rows["kurtosis"].iloc[0] == pytest.approx(kurtosis.mean(), abs=1e-6)


def pictures() -> xr.Dataset:
    """Black under "original", a fifth of white under the other rule; the second sample white throughout."""
    values = np.zeros((2, 2, 4, 8, 3), np.uint8)
    values[1, 0], values[:, 1] = 51, 255
    coords = {"scaling": list(BOTH), "prompt": ("sample", ["a cat", "a dog"])}
    return samples.dataset(values[0, :, :, :4], {(4, 8): values}, coords)


def test_pictures_stand_row_by_row_with_how_much_they_change(tmp_path: Path, figures: list[Figure]) -> None:
    small = pictures().rename({"4x4": "8x8", "4x8": "4x4"}).assign_attrs(train_size="8x8")
    large = pictures().rename({"4x4": "2x2", "4x8": "4x4"}).assign_attrs(train_size="2x2")
    for ds, name in ((small, "figure3"), (large, "figure4"), (pictures(), "samples_4x8")):
        samples.draw(ds, tmp_path)
        assert whole(name) <= names_in(tmp_path)
    (ax,) = figures[-1].axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["4x4\noriginal", "4x8\noriginal", "4x8\nsqrt_log"]
    assert [float(image.get_array().mean()) for image in ax.images] == [0, 255, 0, 255, 51, 255]
    rows = samples.table(pictures(), "4x8")
    assert rows["prompt"].tolist() == ["a cat", "a dog", "mean"]
    np.testing.assert_allclose(rows["change"], [0.2, 0, 0.1])
    np.testing.assert_allclose(rows["other_pictures"], 1)
    assert samples.table(pictures().isel(sample=[0]), "4x8")["other_pictures"].isna().all()


def test_pictures_are_those_of_the_pipeline(folder: Path) -> None:
    ds = entropylab.open(folder / "pictures.nc")
    pipe = new_random_pipeline()
    for rule in BOTH:
        seeds = [torch.Generator("cpu").manual_seed(seed) for seed in (0, 1)]
        with entropylab.rescale(pipe, rule):
            own = pipe(
                ["a red heart", "a banana"], height=96, width=64, num_inference_steps=1, generator=seeds,
                output_type="np",
            ).images  # fmt: skip
        np.testing.assert_allclose(ds["96x64"].sel(scaling=rule) / 255, own, atol=0.003)


def test_two_models_side_by_side(ds: xr.Dataset, tmp_path: Path, undrawn: None, figures: list[Figure]) -> None:
    ds = ds.isel(size=[0, 2, 4], step=[0], branch=[0]).assign_coords(part=("layer", ["image"] * ds.sizes["layer"]))
    other = ds.assign(entropy=0.9 * ds["entropy"]).assign_attrs(model="other")
    two_models.draw(ds, other, tmp_path)
    assert set(pd.read_csv(tmp_path / "two_models.csv")["run"]) == {"embedded", "emoji-joint"}
    assert len(figures[0].axes) == 3
    assert "emoji-joint" in (tmp_path / "two_models.html").read_text(encoding="utf-8")
