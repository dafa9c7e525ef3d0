"""The figures as files: written whole, the same again from the same data, others from other data."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure

import entropylab
from entropylab import EntropyLabError
from entropylab.figures import figure5, figure6, gaussian_ablation, law_checks, layers, measuring, regenerate, samples
from entropylab.figures import logits as logits_figure
from entropylab.figures.command import command
from entropylab.law.checks import check
from entropylab.law.drift import MEAN
from entropylab.plot.tokens import table

from ..conftest import new_random_pipeline
from ..datasets import NOISY, SIZES, synthetic

SCRIPTS = Path(__file__).parents[2] / "figures"
BOTH = ("original", "sqrt_log")
NAMES = ("calibration", "gaussian_ablation", "law", "logits", "measurement", "pictures", "sweep")
MEASURED = [f"{name}.nc" for name in NAMES]
LAW = ["law_checks", "layers"]
DRAWN = ["figure5", "figure6", "gaussian_ablation", *LAW, "logits", "samples_96x64", "sweep"]


def whole(names: list[str]) -> list[str]:
    return [f"{name}.{ending}" for name in names for ending in ("csv", "pdf", "png")]


def drawn(ds: xr.Dataset, out: Path) -> list[Path]:
    return [path for figure in (figure5, figure6) for path in figure.files(ds, out)]


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.csv"))}


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return synthetic(slope=0.95, scalings=BOTH, removed={"sqrt_log": 0.3}, **NOISY)


def leave_pictures_empty(patch: pytest.MonkeyPatch) -> None:
    """Figures are made and not painted, which takes most of the time: their files are empty."""
    patch.setattr(Figure, "savefig", lambda self, path, **options: path.write_bytes(b""))


def run_small(out: Path, sharpness: float = 1) -> list[Path]:
    """Everything, from the small random pipeline, at fewer sizes and multipliers."""
    pipe = new_random_pipeline()
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        for name, weight in pipe.unet.named_parameters():
            weight *= sharpness if "attn1.to_q" in name else 1
        patch.setattr(measuring, "load", lambda model: pipe)
        patch.setattr(measuring, "SIDES", ((1, 1), (1.5, 1), (1.5, 1.5)))
        patch.setattr(measuring, "LOWER", (1.5, 1))
        patch.setattr(measuring, "HIGHER", (1.5, 1.5))
        patch.setattr(measuring, "NUMBERS", (0.7, 1.5))
        patch.setattr(measuring, "ITERATIONS", 1)
        patch.setattr(samples, "SIDES", ((1.5, 1),))
        patch.setattr(gaussian_ablation, "TOKENS", (64, 256))
        patch.setattr(gaussian_ablation, "TRAINED", 64)
        patch.setattr(gaussian_ablation, "DEPARTURES", (0.0, 1.0))
        patch.setattr(gaussian_ablation, "DISTRIBUTIONS", ("student_t", "low_rank"))
        patch.setattr(gaussian_ablation, "SETTINGS", {"d": 8, "heads": 2, "queries": 16, "samples": 3})
        return regenerate(out, samples=2, steps=1, progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("figures") / "made" / "on the way"
    written = run_small(out)
    assert sorted(written) == sorted(out.iterdir()), "what was written is what is told"
    return out


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


def test_tables_say_what_the_rules_do(folder: Path) -> None:
    six = pd.read_csv(folder / "figure6.csv")
    assert set(six["scaling"]) == {"original", "sqrt_log", "invariant", "calibrated"}
    sweep = pd.read_csv(folder / "sweep.csv")
    mean = sweep[sweep["layer"] == MEAN]
    assert set(mean["size"]) == {"96x64", "96x96"}
    assert set(mean["scaling"]) == {"original", "0.7", "1.5", "sqrt_log", "invariant", "calibrated"}
    falls = mean[mean["curve"]].groupby("size")["entropy"]
    assert falls.apply(lambda entropy: entropy.is_monotonic_decreasing).all(), "a larger scale, a lower entropy"
    change = pd.read_csv(folder / "samples_96x64.csv")
    assert set(change["scaling"]) == {"sqrt_log", "calibrated"}
    assert list(dict.fromkeys(change["prompt"])) == ["a red heart", "a banana", "mean"]


def pictures() -> xr.Dataset:
    """Black under "original", a fifth of white under the other rule; the second sample white throughout."""
    values = np.zeros((2, 2, 4, 8, 3), np.uint8)
    values[1, 0], values[:, 1] = 51, 255
    size, home = samples.as_variable(values, "scaling", "sample"), samples.as_variable(values[0, :, :, :4], "sample")
    coords = {"scaling": list(BOTH), "prompt": ("sample", ["a cat", "a dog"])}
    return xr.Dataset({"4x4": home, "4x8": size}, coords, {"train_size": "4x4", "entropylab_version": "0"})


def test_how_much_pictures_change() -> None:
    rows = samples.table(pictures())
    assert rows["prompt"].tolist() == ["a cat", "a dog", "mean"]
    np.testing.assert_allclose(rows["change"], [0.2, 0, 0.1])
    np.testing.assert_allclose(rows["other_pictures"], 1)
    alone = samples.table(pictures().isel(sample=[0]))
    assert alone["other_pictures"].isna().all()
    np.testing.assert_allclose(alone["change"], 0.2)


def test_pictures_have_the_numbers_of_the_paper(tmp_path: Path) -> None:
    small = pictures().rename({"4x4": "8x8", "4x8": "4x4"})
    large = pictures().rename({"4x4": "2x2", "4x8": "4x4"})
    for ds, home, name in ((small, "8x8", "figure3"), (large, "2x2", "figure4"), (pictures(), "4x4", "samples_4x8")):
        paths = samples.files(ds.assign_attrs(train_size=home), tmp_path / name)
        assert sorted(path.name for path in paths) == whole([name])


def test_pictures_are_drawn_row_by_row() -> None:
    (ax,) = samples.draw(pictures(), "4x8").axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["4x4\noriginal", "4x8\noriginal", "4x8\nsqrt_log"]
    shown = [float(image.get_array().mean()) for image in ax.images]
    assert shown == [0, 255, 0, 255, 51, 255]


def test_pictures_are_those_of_the_pipeline(folder: Path) -> None:
    ds = entropylab.open(folder / "pictures.nc")
    pipe = new_random_pipeline()
    seeds = [torch.Generator("cpu").manual_seed(seed) for seed in (0, 1)]
    prompts = ["a red heart", "a banana"]
    for rule in BOTH:
        with entropylab.rescale(pipe, rule):
            own = pipe(prompts, height=96, width=64, num_inference_steps=1, generator=seeds, output_type="np").images
        seeds = [seed.manual_seed(number) for number, seed in enumerate(seeds)]
        np.testing.assert_allclose(ds["96x64"].sel(scaling=rule) / 255, own, atol=0.003)


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


def test_simulation_needs_no_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "load", lambda model: pytest.fail("a pipeline was loaded"))
    monkeypatch.setattr(gaussian_ablation, "measured", lambda source: source)
    monkeypatch.setattr(gaussian_ablation, "files", lambda ds, out: [ds])
    command(gaussian_ablation, ["--out", str(tmp_path)])


def test_the_ablation_says_what_leaves_the_law(folder: Path) -> None:
    rows = pd.read_csv(folder / "gaussian_ablation.csv").set_index(["distribution", "departure", "size"])
    assert len(rows) == 8
    off = abs(rows["law_residual"].xs("16x16", level="size"))
    assert off["student_t", 1.0] > 0.1 > off["low_rank", 1.0]
    assert off["student_t", 0.0] == off["low_rank", 0.0], "without any departure all are one"
    np.testing.assert_allclose(rows["fraction_under_law"], 1 / (2 * np.log(64)), rtol=0.2)
    (left, *_) = gaussian_ablation.draw(rows.reset_index()).axes
    student = next(bar for bar in left.containers if bar.get_label() == "student t")
    own = rows["law_residual"].loc["student_t"].xs("16x16", level="size")
    np.testing.assert_allclose(student.lines[0].get_ydata().astype(float), own)
    with pytest.raises(EntropyLabError, match="ds must be simulated"):
        gaussian_ablation.table(synthetic())


def test_checks_of_the_law_are_in_tables(folder: Path) -> None:
    ds = entropylab.open(folder / "law.nc")
    assert ds["size"].values.tolist() == ["96x64", "64x64", "96x96"]
    assert {"third", "fourth", "sigma2"} <= set(ds)
    table = pd.read_csv(folder / "law_checks.csv")
    np.testing.assert_allclose(table["law_residual"], check(ds).to_frame()["law_residual"], atol=1e-6)
    assert len(pd.read_csv(folder / "smallest_n.csv")) == table["layer"].nunique()
    assert len(law_checks.draw(ds.drop_vars("third")).axes) == len(law_checks.draw(ds).axes) - 1
    steps = pd.read_csv(folder / "layers.csv")
    assert set(steps["step"]) == {0}
    assert layers.draw(ds).axes[0].get_xlabel().startswith("denoising step")


def test_logits_are_those_of_the_layers(folder: Path) -> None:
    ds = entropylab.open(folder / "logits.nc")
    rows = pd.read_csv(folder / "logits.csv")
    assert rows["keys"].tolist() == [value.shape[1] for value in ds.values()]
    assert rows["layer"].tolist() == [value.attrs["layer"] for value in ds.values()]
    assert rows["layer"].iloc[0].startswith("unet.down_blocks.0")
    with pytest.raises(EntropyLabError, match="ds must hold logits"):
        logits_figure.files(synthetic(), folder)


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
