"""Entropy and deficit against the number of tokens, and what is predicted of them, by what was drawn."""

import numpy as np
import pytest
import xarray as xr

from entropylab import plot, simulate_dataset
from entropylab.law import fit

from ..datasets import BOTH, synthetic
from .conftest import bars, heights, lines, new_axes, starting


def test_entropy_with_its_line_the_law_and_single_layers_thin_behind(ds, ax) -> None:
    assert plot.entropy_vs_tokens(ds, ax) is ax
    result = fit(ds)
    points = result.points().sort_values("log_tokens")
    line = starting(ax, "slope")
    np.testing.assert_allclose(line.get_xdata(), points["log_tokens"])
    np.testing.assert_allclose(line.get_ydata(), result.intercept + result.slope * line.get_xdata())
    assert f"slope {result.slope:.3f} ± {result.slope_error:.3f}" in line.get_label()
    np.testing.assert_allclose(starting(ax, "law").get_ydata(), points["log_tokens"] - points["half_sigma2"])
    np.testing.assert_allclose(lines(ax)["uniform attention"].get_ydata(), points["log_tokens"])
    thin = [line for line in ax.get_lines() if line.get_linewidth() == 0.6]
    expected = fit(ds, by="layer")["entropy"].values.T
    np.testing.assert_allclose([line.get_ydata() for line in thin], np.sort(expected, axis=1))
    assert min(bar.lines[0].get_zorder() for bar in bars(ax).values()) > max(line.get_zorder() for line in thin)
    assert ax.get_ylabel() == "attention entropy of a row [nats]"
    assert ax.get_xlabel() == "log N [nats]  (N, mean number of keys of a row)"
    bare = plot.entropy_vs_tokens(ds, new_axes(), layers=False, law=False)
    assert set(lines(bare)) == {text for text in lines(ax) if text.startswith(("slope", "uniform"))}
    renamed = ds.assign(entropy=ds["entropy"].assign_attrs(long_name="surprise", units="bits"))
    other = plot.entropy_vs_tokens(renamed, new_axes(), scaling="sqrt_log")
    assert other.get_ylabel() == "surprise [bits]"
    assert not np.allclose(starting(other, "slope").get_ydata(), line.get_ydata(), atol=0.05), "of another rule"


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


def test_deficit_beside_half_of_sigma2(ds, ax) -> None:
    assert plot.deficit_vs_tokens(ds, ax) is ax
    result = fit(ds)
    points = result.points().sort_values("log_tokens")
    np.testing.assert_allclose(starting(ax, "law").get_ydata(), points["half_sigma2"])
    line = starting(ax, "slope")
    assert f"slope {1 - result.slope:.3f} ± {result.slope_error:.3f}" in line.get_label()
    np.testing.assert_allclose(np.diff(line.get_ydata()) / np.diff(line.get_xdata()), 1 - result.slope)
    drawn = bars(ax)["mean of layers and heads"].lines[0].get_ydata()
    square = points["height"] == points["width"]
    np.testing.assert_allclose(drawn.astype(float), points["deficit"][square])
    assert "[nats]" in ax.get_ylabel()


def test_averaged_datasets_can_be_drawn(ax) -> None:
    average = ("branch", "sample", "step", "head")
    part = synthetic(average=average, scalings=BOTH, removed={"sqrt_log": 0.3}).drop_vars("sigma2")
    plot.entropy_vs_tokens(part, ax)
    assert not [text for text in lines(ax) if text.startswith("law")]
    assert plot.deficit_vs_tokens(part, new_axes()).get_lines()
    assert len(lines(plot.stabilization(part, new_axes()))) == 5


# Predictions without a fitted number.


@pytest.fixture(scope="module")
def rows_known() -> xr.Dataset:
    """Two layers, of 64 and of 16 training tokens, whose rows are Gaussian with sigma 1 and 2."""
    statistics = ("entropy", "sigma2", "rarefied", "slope")
    options = {"statistics": statistics, "samples": 4, "heads": 2, "queries": 128, "d": 32}
    ds = simulate_dataset((16, 64, 256), sigma=(1.0, 2.0), **options)
    return ds.assign_coords(train_tokens=("layer", [64.0, 16.0]))


def test_a_row_for_each_training_size_and_number_of_tokens(rows_known) -> None:
    rows, measured = plot.predictions(rows_known), rows_known.isel(layer=0).mean(["scaling", "sample", "head"])
    assert rows["train_tokens"].drop_duplicates().tolist() == [64, 16]
    wide = rows[rows["train_tokens"] == 64]
    wide = wide.set_index(wide["log_tokens"].round(6))
    entropy = measured["entropy"].values
    np.testing.assert_allclose(wide["entropy"].dropna(), entropy, rtol=1e-6)
    np.testing.assert_allclose(wide["law"].dropna(), np.log([16, 64, 256]) - measured["sigma2"] / 2, rtol=1e-6)
    below, at, above = (wide.loc[np.round(np.log(number), 6), "from_training"].max() for number in (16, 64, 256))
    assert (below, at) == pytest.approx((float(measured["rarefied_quarter"][1]), entropy[1]))
    assert above == pytest.approx(entropy[1] + np.log(4) * float(measured["slope"][1]))
    assert below == pytest.approx(entropy[0], abs=0.03), "rows thinned to 16 keys are rows of 16"
    assert abs(wide["law"].min() - wide["entropy"].min()) > 0.005, "which the law is not"


def test_joint_layers_are_thinned_in_the_keys_of_the_image(rows_known) -> None:
    keys = rows_known["entropy"] * 0 + rows_known["tokens"] - 8.0
    joint = rows_known.assign(keys_image=keys).assign_coords(kind=("layer", ["joint", "joint"]))
    rows = plot.predictions(joint)
    thinned = rows[rows["size"].isna() & (rows["train_tokens"] == 64)]["log_tokens"]
    np.testing.assert_allclose(np.exp(thinned), [8 + 56 / 16, 8 + 56 / 8, 8 + 56 / 4, 8 + 56 / 2])


@pytest.mark.parametrize("deficit", [False, True])
def test_what_is_drawn_is_what_the_table_says(rows_known, ax, deficit: bool) -> None:
    rows = plot.predictions(rows_known)
    part = rows[rows["train_tokens"] == 16].dropna(subset="from_training")
    plot.entropy_predicted(rows_known, ax, trained=16, deficit=deficit)
    wanted = part["log_tokens"] - part["from_training"] if deficit else part["from_training"]
    np.testing.assert_allclose(lines(ax)["from the rows at T alone"].get_ydata(), wanted)
    single = plot.entropy_predicted(rows_known.isel(size=[0]), new_axes(), trained=16, deficit=deficit)
    assert lines(single)["law, log N − σ²/2"].get_marker() == "_", "one point is no line"
