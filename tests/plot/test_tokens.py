"""Entropy and deficit against the number of tokens, by what was drawn."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from entropylab import plot
from entropylab.law import fit

from ..datasets import BOTH, synthetic
from .artists import bars, heights, lines, starting


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
    assert min(bar.lines[0].get_zorder() for bar in bars(ax).values()) > max(line.get_zorder() for line in thin)
    bare = plot.entropy_vs_tokens(ds, Figure().subplots(), layers=False, law=False)
    assert set(lines(bare)) == {text for text in lines(ax) if text.startswith(("slope", "uniform"))}


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
