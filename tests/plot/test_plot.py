"""Figures, by what was drawn: the data of their artists."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from entropylab import plot
from entropylab.errors import EntropyLabError
from entropylab.law import fit
from entropylab.law.drift import MEAN, drift
from entropylab.law.naming import short
from entropylab.plot.sweep import table as sweep_table
from entropylab.plot.tokens import table

from ..datasets import SIZES, own_mean, synthetic

BOTH = ("original", "sqrt_log")


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
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


# The sweep of the multiplier.

RULES = ("original", "sqrt_log", "invariant", "calibrated", "0.5", "2", "mine")
REMOVED = {"sqrt_log": 0.15, "invariant": 0.5, "calibrated": 1.0, "0.5": -0.6, "2": 0.8, "mine": 0.3}
FACTORS = {"original": 1.0, "sqrt_log": 1.12, "invariant": 1.5, "calibrated": 2.2, "0.5": 0.5, "2": 2.0, "mine": 1.2}


@pytest.fixture(scope="module")
def swept() -> xr.Dataset:
    """Two sizes under numbers and rules, the training size as the model is; multipliers differ between layers."""
    ds = synthetic(sizes=((64, 64), (32, 32), (128, 128)), scalings=RULES, removed=REMOVED, noise=0.02, samples=3)
    layers = np.where(ds["kind"] == "self", np.linspace(-0.2, 0.2, ds.sizes["layer"]), 0)
    factors = np.array(list(FACTORS.values()))[None, :, None]
    spread = np.isin(RULES, RULES[1:4])[None, :, None] * layers
    ds = ds.assign_coords(multiplier=(("size", "scaling", "layer"), np.repeat(factors + spread, 3, axis=0)))
    away = (ds["size"] != "64x64") | (ds["scaling"] == "original")
    return ds.assign(entropy=ds["entropy"].where(away)).assign_attrs(ds.attrs)


def test_the_sweep_has_numbers_as_a_curve_and_rules_as_points(swept, ax) -> None:
    assert plot.sweep(swept, ax, size=128) is ax
    rows = drift(swept)
    mean = rows[(rows["layer"] == MEAN) & (rows["size"] == "128x128")].set_index("scaling")["entropy"]
    curve = lines(ax)["128x128, one multiplier everywhere"]
    np.testing.assert_allclose(curve.get_xdata(), [0.5, 1.0, 2.0])
    np.testing.assert_allclose(curve.get_ydata(), mean[["0.5", "original", "2"]])
    points = {text.split(" ")[0]: bar.lines[0] for text, bar in bars(ax).items()}
    assert list(points) == ["original", "sqrt_log", "invariant", "calibrated", "mine"]
    for name, point in points.items():
        own = swept["multiplier"].sel(size="128x128", scaling=name)[swept["kind"].values == "self"]
        np.testing.assert_allclose(point.get_xdata().astype(float), own.mean())
        np.testing.assert_allclose(point.get_ydata().astype(float), mean[name])
    assert len({point.get_marker() for point in points.values()}) == 5


def test_the_sweep_refers_to_the_training_size(swept, ax) -> None:
    plot.sweep(swept, ax, size=(32, 32))
    home = own_mean(swept.sel(size=["64x64"], scaling=["original"])).mean()
    np.testing.assert_allclose(lines(ax)["64x64, training size"].get_ydata(), home, atol=1e-6)
    (right,) = ax.child_axes
    assert right.get_ylabel() == "drift from the training size [nats]"
    ax.figure.draw_without_rendering()
    np.testing.assert_allclose(right.get_ylim(), np.array(ax.get_ylim()) - home, atol=1e-6)
    assert "calibrated (100% of the drift removed)" in bars(ax)
    assert "[nats]" in ax.get_ylabel()
    assert "multiplier" in ax.get_xlabel()


def test_the_table_of_the_sweep(swept) -> None:
    rows = sweep_table(swept, size="32x32")
    assert len(rows) == 6 * len(RULES)
    assert set(rows["size"]) == {"32x32"}
    assert all(layer["multiplier"].is_monotonic_increasing for _, layer in rows.groupby("layer"))
    assert set(rows[rows["curve"]]["scaling"]) == {"original", "0.5", "2"}
    mean = rows[rows["layer"] == MEAN].set_index("scaling")
    np.testing.assert_allclose(mean["fraction_removed"][list(REMOVED)], list(REMOVED.values()), atol=0.02)
    one = swept.sel(size=["64x64", "128x128"])
    pd.testing.assert_frame_equal(sweep_table(one), sweep_table(swept, size=128))
    assert not np.allclose(sweep_table(one)["entropy"], rows["entropy"], atol=0.1)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda ds: ds, {}, r"size must be named: one of \['64x64', '32x32', '128x128'\]"),
        (lambda ds: ds, {"size": 48}, "size must be one of those measured.* Got 48"),
        (lambda ds: ds.drop_vars("multiplier"), {"size": 32}, "must have a coordinate multiplier"),
        (lambda ds: ds.isel(size=[1, 2]), {"size": 32}, "train_size must be named"),
    ],
)
def test_what_is_no_sweep(swept, ax, change, options: dict, message: str) -> None:
    with pytest.raises(EntropyLabError, match=message):
        plot.sweep(change(swept), ax, **options)
    assert not ax.get_lines()


# Pictures side by side.


def test_pictures_stand_in_a_grid(ax) -> None:
    rng = np.random.default_rng(0)
    small, tall = rng.random((2, 4, 4, 3)), rng.integers(0, 256, (2, 12, 8, 3), dtype=np.uint8)
    assert plot.samples([small, tall], ax, rows=["small", "tall"], columns=["a cat", "a very long prompt"]) is ax
    shown = ax.images
    np.testing.assert_allclose(shown[1].get_array(), small[1])
    np.testing.assert_array_equal(shown[2].get_array(), tall[0])
    assert {image.get_interpolation() for image in shown} == {"nearest"}
    left, right, bottom, top = np.transpose([image.get_extent() for image in shown])
    np.testing.assert_allclose(right - left, 1)
    np.testing.assert_allclose(bottom - top, [1, 1, 1.5, 1.5])
    assert bool((top[2:] > bottom[:2]).all()), "rows do not overlap"
    assert left[1] > right[0], "columns do not overlap"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["small", "tall"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a cat", "a very long\nprompt"]
    assert ax.get_ylim() == (pytest.approx(bottom[-1]), 0)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([], {}, "rows of equally many pictures"),
        ([[]], {}, "rows of equally many pictures"),
        ([[np.zeros((2, 2))], []], {}, r"equally many pictures. Got \[1, 0\]"),
        ([[np.zeros((2, 2, 5))]], {}, r"Got shape \(2, 2, 5\) of float64"),
        ([[np.zeros((2, 2), int)]], {}, "of int64"),
        ([[np.zeros((2, 2))]], {"rows": ["a", "b"]}, "rows must be a label for each of 1. Got 2"),
        ([[np.zeros((2, 2))]], {"columns": []}, "columns must be a label for each of 1. Got 0"),
    ],
)
def test_what_is_no_grid_of_pictures(ax, images, options: dict, message: str) -> None:
    with pytest.raises(EntropyLabError, match=message):
        plot.samples(images, ax, **options)
    assert not ax.images
