"""Figures of the law where nothing is fitted, and of logits, by what was drawn."""

import re

import numpy as np
import pytest
import xarray as xr

from entropylab import check, plot
from entropylab.gaussian import entropy_given_variance
from entropylab.plot.law import BINS, REACH, residuals

from ..datasets import SIZES, synthetic
from .conftest import bars, heights, lines, new_axes, starting, x_names


@pytest.mark.parametrize("name", ["law", "series", "gaussian"])
def test_residuals_of_every_layer_and_size_with_heads_as_dots_behind(ds, ax, name: str) -> None:
    assert plot.law_residual(ds, ax, name=name) is ax
    found = check(ds.mean("head", keep_attrs=True))
    drawn = bars(ax)
    assert list(drawn) == ["32x32", "48x48", "64x64", "96x64", "64x128", "96x96", "128x128"], "by their tokens"
    for size, bar in drawn.items():
        np.testing.assert_allclose(bar.lines[0].get_ydata().astype(float), found[f"{name}_residual"].sel(size=size))
        np.testing.assert_allclose(heights(bar), found[f"{name}_residual_error"].sel(size=size), atol=1e-9)
        assert set(np.round(bar.lines[0].get_xdata().astype(float))) == set(range(5))
    first = [float(bar.lines[0].get_xdata()[0]) for bar in drawn.values()]
    assert -0.5 < first[0] < first[-1] < 0.5 and first == sorted(first)
    assert x_names(ax) == ["down 0", "down 1", "mid", "up 0", "up 1"]
    mean, single = residuals(ds, name=name)
    dots = np.concatenate([line.get_ydata() for line in ax.get_lines() if line.get_marker() == "."])
    np.testing.assert_allclose(np.sort(dots), np.sort(single["residual"]))
    assert (len(mean), len(single)) == (5 * len(SIZES), 32 * len(SIZES))


def test_a_frozen_layer_widens_the_scale_and_heads_need_not_be_drawn(ds, ax) -> None:
    assert plot.law_residual(ds, ax, heads=False).get_yscale() == "linear"
    assert not [line for line in ax.get_lines() if line.get_marker() == "." and len(line.get_xdata())]
    frozen = ds.assign(sigma2=ds["sigma2"] * xr.where(ds["block"] == "mid_block", 100, 1))
    headless = plot.law_residual(frozen.mean("head", keep_attrs=True), new_axes())
    assert headless.get_yscale() == "symlog" and len(bars(headless)) == len(SIZES)


def test_residual_against_cumulants_lies_on_the_line_where_they_explain_it(ax) -> None:
    ds = synthetic(cumulants=True, sigma2=(0.2, 0.3, 0.4, 0.3, 0.2))
    assert plot.residual_vs_cumulants(ds, ax) is ax
    (points,) = [each for each in ax.collections if str(each.get_label()).startswith("other rows")]
    x, y = np.asarray(points.get_offsets()).T
    rows = check(ds).to_frame()
    np.testing.assert_allclose(x, rows["correction"][~rows["near_freezing"].astype(bool)])
    np.testing.assert_allclose(x, y, atol=1e-5)
    assert ax.figure.axes[1].get_ylabel() == "layer, in order"
    broken = plot.residual_vs_cumulants(ds.assign(third=-ds["third"]), new_axes())
    x, y = np.asarray(broken.collections[0].get_offsets()).T
    assert abs(x - y).max() > 0.01


def test_rows_near_freezing_are_told_apart_and_in_the_frame(ds, ax) -> None:
    mixed = ds.assign({name: ds[name] * xr.where(ds["block"] == "mid_block", 50, 0.2) for name in ("sigma2", "third")})
    plot.residual_vs_cumulants(mixed, ax)
    found = check(mixed).to_frame()
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert f"near freezing ({int(found['near_freezing'].sum())})" in texts
    assert abs(found["law_residual"]).max() < ax.get_ylim()[1]


def test_phases_and_the_line_of_freezing(ds, ax) -> None:
    assert plot.phase(ds, ax) is ax
    np.testing.assert_allclose(ax.collections[0].get_offsets(), check(ds).to_frame()[["log_tokens", "sigma2"]])
    line, near = starting(ax, "freezing"), starting(ax, "near")
    np.testing.assert_allclose(line.get_ydata(), 2 * line.get_xdata())
    tokens, sigma2 = np.exp(near.get_xdata()), near.get_ydata()
    off = entropy_given_variance(sigma2, tokens) - np.log(tokens) + sigma2 / 2
    np.testing.assert_allclose(off, 0.1, atol=0.01)
    assert len(set(ax.collections[0].get_array())) == 5, "a colour for each layer"
    assert ax.get_yscale() == "log"


def test_deficit_beside_sigma2(ax) -> None:
    ds = synthetic(sigma2=(0.2, 1.4, 6.0, 1.2, 0.6), noise=1e-3)
    plot.deficit_vs_sigma2(ds, ax)
    rows = check(ds).to_frame()
    free = rows[rows["flags"] == ""]
    assert 0 < len(free) < len(rows)
    np.testing.assert_allclose(lines(ax)[f"no flag ({len(free)})"].get_xydata(), free[["half_sigma2", "deficit"]])
    assert ax.get_xscale() == ax.get_yscale() == "log"
    uniform = plot.deficit_vs_sigma2(synthetic(sigma2=(0,) * 5), new_axes())
    assert any("not above 0" in text.get_text() for text in uniform.get_legend().get_texts())


def test_densities_of_standardised_logits(ax) -> None:
    rng = np.random.default_rng(0)
    normal, skewed = 3 + 2 * rng.standard_normal((64, 1024)), rng.gamma(4, size=(2, 32, 512))
    assert plot.logit_distribution({"normal": normal, "skewed": [skewed[0], skewed[1]]}, ax) is ax
    drawn = {line.get_label().split(":")[0]: line for line in ax.get_lines()}
    gaussian = np.interp(drawn["normal"].get_xdata(), *drawn["Gaussian"].get_data())
    middle = gaussian > 0.03
    np.testing.assert_allclose(drawn["normal"].get_ydata()[middle], gaussian[middle], rtol=0.1)
    assert np.nanmax(abs(drawn["skewed"].get_ydata()[middle] / gaussian[middle] - 1)) > 0.3
    for name, skewness, kurtosis in (("normal", 0, 0), ("skewed", 1, 1.5)):  # of a Gamma variable 2/sqrt(4) and 6/4
        assert np.nansum(drawn[name].get_ydata()) * 2 * REACH / BINS == pytest.approx(1, abs=0.002)
        told = [float(number) for number in re.findall(r"-?\d+\.\d+", drawn[name].get_label())]
        assert told == pytest.approx([skewness, kurtosis], abs=0.1)


def test_keys_left_out_and_rows_without_spread_do_not_count(ax) -> None:
    rows = np.random.default_rng(0).standard_normal((8, 64))
    rows[:, 40:] = np.nan
    rows[0] = 1.0
    plot.logit_distribution({"some": rows}, ax)
    own = rows[1:, :40]
    shape = ((own - own.mean(-1, keepdims=True)) / own.std(-1, keepdims=True)) ** 3
    assert f"skewness {shape.mean():.2f}".replace("-", "−") in ax.get_lines()[0].get_label()
