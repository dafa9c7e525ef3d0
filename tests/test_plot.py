"""Figures, by what was drawn: the data of their artists."""

import importlib
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import entropylab
from entropylab import plot
from entropylab.drift import MEAN, drift
from entropylab.errors import EntropyLabError
from entropylab.law import fit
from entropylab.plot.stabilization import short
from entropylab.plot.tokens import table

from .datasets import SIZES, synthetic

FIGURES = Path(__file__).parents[1] / "figures"
BOTH = ("original", "sqrt_log")


@pytest.fixture(scope="module")
def ds() -> entropylab.law.xr.Dataset:
    noise = {"noise": 0.05, "sample_slope": 0.02, "sample_level": 0.1}
    return synthetic(slope=0.95, scalings=BOTH, removed={"sqrt_log": 0.3}, **noise)


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


def lines(ax: Axes) -> dict[str, Line2D]:
    """The lines that the legend names."""
    return {str(line.get_label()): line for line in ax.get_lines() if not str(line.get_label()).startswith("_")}


def bars(ax: Axes) -> dict[str, ErrorbarContainer]:
    return {str(bar.get_label()): bar for bar in ax.containers if isinstance(bar, ErrorbarContainer)}


def starting(found: dict, word: str) -> Line2D:
    (line,) = [line for text, line in found.items() if text.startswith(word)]
    return line


def heights(bar: ErrorbarContainer) -> np.ndarray:
    """Half the length of every error bar."""
    return np.array([(segment[1, 1] - segment[0, 1]) / 2 for segment in bar.lines[2][0].get_segments()])


def test_entropy_vs_tokens_draws_the_fit(ds, ax) -> None:
    assert plot.entropy_vs_tokens(ds, ax) is ax
    result = fit(ds)
    points = result.points().sort_values("log_tokens")
    drawn = starting(lines(ax), "slope")
    np.testing.assert_allclose(drawn.get_ydata(), result.intercept + result.slope * drawn.get_xdata())
    np.testing.assert_allclose(drawn.get_xdata(), points["log_tokens"])
    assert f"slope {result.slope:.3f} ± {result.slope_error:.3f}" in drawn.get_label()
    np.testing.assert_allclose(starting(lines(ax), "law").get_ydata(), points["log_tokens"] - points["half_sigma2"])
    uniform = lines(ax)["uniform attention"]
    np.testing.assert_allclose(uniform.get_ydata(), uniform.get_xdata())


def test_points_have_their_errors_and_sizes_that_are_not_square_are_hollow(ds, ax) -> None:
    plot.entropy_vs_tokens(ds, ax)
    points = fit(ds).points().sort_values("log_tokens")
    square = points["height"] == points["width"]
    for name, part in (("mean of layers and heads", points[square]), ("the same, not square", points[~square])):
        bar = bars(ax)[name]
        np.testing.assert_allclose(bar.lines[0].get_ydata().astype(float), part["entropy"])
        np.testing.assert_allclose(heights(bar), part["entropy_error"])
    assert len(points[~square]) == 2
    assert bars(ax)["the same, not square"].lines[0].get_markerfacecolor() == "white"


def test_layers_lie_thin_behind(ds, ax) -> None:
    plot.entropy_vs_tokens(ds, ax)
    thin = [line for line in ax.get_lines() if line.get_linewidth() == 0.6]
    by_layer = fit(ds, by="layer")
    assert len(thin) == 5
    for number, line in enumerate(thin):
        np.testing.assert_allclose(line.get_ydata(), np.sort(by_layer["entropy"].values[:, number]))
    rows = table(ds)
    assert min(bar.lines[0].get_zorder() for bar in bars(ax).values()) > max(line.get_zorder() for line in thin)
    bare = plot.entropy_vs_tokens(ds, Figure().subplots(), layers=False, law=False)
    assert set(lines(bare)) == {text for text in lines(ax) if text.startswith(("slope", "uniform"))}
    assert set(rows["layer"]) == {MEAN, *by_layer.slope["layer"].values}


def test_deficit_beside_half_of_sigma2(ds, ax) -> None:
    assert plot.deficit_vs_tokens(ds, ax) is ax
    result = fit(ds)
    points = result.points().sort_values("log_tokens")
    np.testing.assert_allclose(starting(lines(ax), "law").get_ydata(), points["half_sigma2"])
    slope = starting(lines(ax), "slope")
    assert f"slope {1 - result.slope:.3f} ± {result.slope_error:.3f}" in slope.get_label()
    gained = np.diff(slope.get_ydata()) / np.diff(slope.get_xdata())
    np.testing.assert_allclose(gained, 1 - result.slope)
    square = points[points["height"] == points["width"]]
    drawn = bars(ax)["mean of layers and heads"].lines[0].get_ydata()
    np.testing.assert_allclose(drawn.astype(float), square["deficit"])


def test_another_dataset_draws_another_line(ds, ax) -> None:
    first = starting(lines(plot.entropy_vs_tokens(ds, ax)), "slope").get_ydata()
    other = plot.entropy_vs_tokens(ds, Figure().subplots(), scaling="sqrt_log")
    assert not np.allclose(starting(lines(other), "slope").get_ydata(), first, atol=0.05)


def test_axes_say_what_they_show(ds, ax) -> None:
    plot.entropy_vs_tokens(ds, ax)
    assert ax.get_ylabel() == "attention entropy of a row [nats]"
    assert ax.get_xlabel() == "log N [nats]  (N, mean number of keys of a row)"
    renamed = ds.assign(entropy=ds["entropy"].assign_attrs(long_name="surprise", units="bits"))
    assert plot.entropy_vs_tokens(renamed, Figure().subplots()).get_ylabel() == "surprise [bits]"
    assert "[nats]" in plot.deficit_vs_tokens(ds, Figure().subplots()).get_ylabel()


@pytest.mark.parametrize("average", [("sample",), ("branch", "step", "head"), ("branch", "sample", "step", "head")])
def test_averaged_datasets_can_be_drawn(average: tuple[str, ...]) -> None:
    part = synthetic(average=average, scalings=BOTH, removed={"sqrt_log": 0.3}).drop_vars("sigma2")
    drawn = plot.entropy_vs_tokens(part, Figure().subplots())
    assert not [text for text in lines(drawn) if text.startswith("law")]
    plot.deficit_vs_tokens(part, Figure().subplots())
    assert len(lines(plot.stabilization(part, Figure().subplots()))) == 5


def test_the_table_is_what_was_drawn(ds) -> None:
    rows = table(ds)
    assert len(rows) == 6 * len(SIZES)
    assert rows["layer"].iloc[0] == MEAN
    mean = rows[rows["layer"] == MEAN]
    np.testing.assert_allclose(mean["fitted"], mean["intercept"] + mean["slope"] * mean["log_tokens"])
    assert mean["slope"].unique().tolist() == [fit(ds).slope]
    assert rows.drop(columns="entropy_error").notna().all().all()
    assert len(table(ds.isel(layer=0))) == len(SIZES)


def test_stabilization_draws_every_layer_in_order(ds, ax) -> None:
    assert plot.stabilization(ds, ax) is ax
    drawn = lines(ax)
    rows = drift(ds)
    for size in ("32x32", "128x128"):
        for rule in BOTH:
            line = starting(drawn, f"{size}, {rule}")
            own = rows[(rows["size"] == size) & (rows["scaling"] == rule) & (rows["layer"] != MEAN)]
            np.testing.assert_allclose(line.get_ydata(), own["entropy"])
    home = fit(ds, by="layer").to_dataset()["entropy"].sel(size="64x64")
    np.testing.assert_allclose(drawn["64x64, training size"].get_ydata(), home)
    assert "128x128, sqrt_log (30% of the drift removed)" in drawn
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["down 0", "down 1", "mid", "up 0", "up 1"]
    assert ax.get_xlabel().startswith("self-attention layer")
    assert ax.get_ylabel() == "attention entropy of a row [nats]"


def test_lines_differ_without_colour(ds, ax) -> None:
    plot.stabilization(ds, ax)
    looks = {
        (line.get_linestyle(), line.get_marker(), line.get_markerfacecolor() == "white") for line in lines(ax).values()
    }
    assert len(looks) == 5
    assert len({(str(p["linestyle"]), p["marker"]) for p in plot.PAPER["axes.prop_cycle"]}) == 6


def test_sizes_and_scalings_can_be_chosen(ds, ax) -> None:
    plot.stabilization(ds, ax, sizes=(48, (96, 64)), scaling=())
    assert set(lines(ax)) == {"64x64, training size", "48x48, original", "96x64, original"}
    other = plot.stabilization(ds, Figure().subplots(), train_size=96)
    assert "96x96, training size" in lines(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (48, 50)}, "sizes must be two of those measured"),
        ({"sizes": (48,)}, "sizes must be two"),
        ({"sizes": (48.5, 64)}, "a size must be a label, a side or a pair.* Got 48.5"),
        ({"scaling": ["calibrated"]}, "scaling must be some of those measured.* Got"),
        ({"train_size": 50}, "train_size"),
        ({"kind": "joint"}, "kind='joint'"),
    ],
)
def test_what_can_not_be_drawn(ds, ax, options: dict, message: str) -> None:
    with pytest.raises(EntropyLabError, match=message):
        plot.stabilization(ds, ax, **options)
    assert not ax.get_lines()


def test_current_axes_by_default_and_nothing_set(ds) -> None:
    matplotlib.use("Agg")
    before = dict(matplotlib.rcParams)
    _, axes = plt.subplots()
    try:
        assert plot.entropy_vs_tokens(ds) is axes
        assert plot.deficit_vs_tokens(ds) is axes
        assert plot.stabilization(ds) is axes
        assert dict(matplotlib.rcParams) == before
    finally:
        plt.close("all")


def test_paper_style_is_a_value() -> None:
    with rc_context(plot.PAPER):
        assert matplotlib.rcParams["pdf.fonttype"] == 42


@pytest.mark.parametrize(
    ("block", "words"),
    [("down_blocks.0", "down 0"), ("mid_block", "mid"), ("transformer_blocks.12", "transformer 12"), ("net", "net")],
)
def test_short_names_of_blocks(block: str, words: str) -> None:
    assert short(block) == words


# The scripts that write the figures.


@pytest.fixture
def regenerate(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FIGURES))
    yield importlib.import_module("regenerate")
    for name in ("regenerate", "figure5", "figure6"):
        sys.modules.pop(name, None)


def test_regenerating_writes_the_same_files_again(ds, regenerate, tmp_path) -> None:
    first, second = (regenerate.regenerate(ds, tmp_path / name) for name in ("a", "b"))
    assert [path.name for path in first] == [f"figure{n}.{end}" for n in (5, 6) for end in ("pdf", "png", "csv")]
    assert all(one.read_bytes() == two.read_bytes() for one, two in zip(first, second, strict=True))
    assert b"CreationDate" not in first[0].read_bytes()
    other = regenerate.regenerate(ds.assign(entropy=ds["entropy"] + 0.01), tmp_path / "c")
    assert all(one.read_bytes() != two.read_bytes() for one, two in zip(first, other, strict=True))


def test_tables_beside_the_figures(ds, regenerate, tmp_path) -> None:
    regenerate.regenerate(ds, tmp_path)
    np.testing.assert_allclose(pd.read_csv(tmp_path / "figure5.csv")["entropy"], table(ds)["entropy"], atol=1e-6)
    six = pd.read_csv(tmp_path / "figure6.csv")
    assert {"fraction_removed", "normalised_entropy", "drift"} <= set(six)
    assert set(six["size"]) == {f"{height}x{width}" for height, width in SIZES}


@pytest.mark.parametrize(("script", "files"), [("figure5", 3), ("figure6", 3), ("regenerate", 6)])
def test_scripts_draw_from_a_file(ds, regenerate, tmp_path, monkeypatch, capsys, script: str, files: int) -> None:
    entropylab.save(ds, tmp_path / "run.nc")
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", [script, "--run", str(tmp_path / "run.nc"), "--out", str(out)])
    runpy.run_path(str(FIGURES / f"{script}.py"), run_name="__main__")
    assert len(list(out.iterdir())) == files
    assert "slope" in capsys.readouterr().out


def test_scripts_measure_without_a_file(ds, regenerate, tmp_path, monkeypatch) -> None:
    asked = {}
    monkeypatch.setattr(entropylab, "load", lambda: "pipe")
    monkeypatch.setattr(entropylab, "measure", lambda pipe, **options: asked.update(pipe=pipe, **options) or ds)
    regenerate.command(regenerate.FIGURES, "", arguments=["--out", str(tmp_path), "--samples", "3", "--steps", "4"])
    assert asked == {
        "pipe": "pipe",
        "sizes": [32, 48, 64, 96, 128, (96, 64), (64, 128)],
        "samples": 3,
        "steps": 4,
        "scaling": BOTH,
    }


def test_a_file_that_is_not_there(regenerate, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        regenerate.command(regenerate.FIGURES, "", arguments=["--run", str(tmp_path / "none.nc")])
    assert "none.nc" in capsys.readouterr().err
