"""Figures of the law, of layers and heads, and of logits, by what was drawn: the data of their artists."""

import re

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from entropylab import EntropyLabError, check, plot
from entropylab.gaussian import entropy_given_variance
from entropylab.law.averages import log_tokens
from entropylab.law.names import layer_names
from entropylab.plot.law import BINS, REACH, residuals

from ..datasets import NOISY, SIZES, synthetic
from .artists import bars, heights


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return synthetic(cumulants=True, **NOISY)


# The residual of the law.


@pytest.mark.parametrize("name", ["law", "third_order", "series", "gaussian"])
def test_residuals_of_every_layer_and_size(ds, ax, name: str) -> None:
    assert plot.law_residual(ds, ax, name=name) is ax
    found = check(ds.mean("head", keep_attrs=True))
    drawn = bars(ax)
    assert set(drawn) == set(found["size"].values)
    for size, bar in drawn.items():
        np.testing.assert_allclose(bar.lines[0].get_ydata().astype(float), found[f"{name}_residual"].sel(size=size))
        np.testing.assert_allclose(heights(bar), found[f"{name}_residual_error"].sel(size=size), atol=1e-9)
        assert set(np.round(bar.lines[0].get_xdata().astype(float))) == set(range(5))


def test_sizes_stand_side_by_side_in_order_of_their_tokens(ds, ax) -> None:
    plot.law_residual(ds, ax)
    assert list(bars(ax)) == ["32x32", "48x48", "64x64", "96x64", "64x128", "96x96", "128x128"]
    first = [float(bar.lines[0].get_xdata()[0]) for bar in bars(ax).values()]
    assert first == sorted(first)
    assert -0.5 < first[0] < first[-1] < 0.5
    assert len({bar.lines[0].get_color() + bar.lines[0].get_marker() for bar in bars(ax).values()}) >= 6
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["down 0", "down 1", "mid", "up 0", "up 1"]


def test_heads_are_dots_behind(ds, ax) -> None:
    plot.law_residual(ds, ax)
    dots = [line for line in ax.get_lines() if line.get_marker() == "."]
    assert sum(len(line.get_ydata()) for line in dots) == 32 * len(SIZES)
    mean, single = residuals(ds)
    np.testing.assert_allclose(
        np.sort(np.concatenate([line.get_ydata() for line in dots])), np.sort(single["residual"])
    )
    bare = plot.law_residual(ds, Figure().subplots(), heads=False)
    assert not [line for line in bare.get_lines() if line.get_marker() == "."]
    assert len(mean) == 5 * len(SIZES)
    assert len(bars(plot.law_residual(ds.mean("head", keep_attrs=True), Figure().subplots()))) == len(SIZES)


def test_a_frozen_layer_widens_the_scale_and_an_ordinary_one_does_not(ds, ax) -> None:
    assert plot.law_residual(ds, ax).get_yscale() == "linear"
    frozen = ds.assign(sigma2=ds["sigma2"] * xr.where(ds["block"] == "mid_block", 100, 1))
    assert plot.law_residual(frozen, Figure().subplots()).get_yscale() == "symlog"


# Against skewness and kurtosis, and the phases.


def test_residual_against_cumulants_lies_on_the_line_where_they_explain_it(ax) -> None:
    ds = synthetic(cumulants=True, sigma2=(0.2, 0.3, 0.4, 0.3, 0.2))
    assert plot.residual_vs_cumulants(ds, ax) is ax
    (points,) = [each for each in ax.collections if str(each.get_label()).startswith("other rows")]
    x, y = np.asarray(points.get_offsets()).T
    found = check(ds)
    warm = (found["entropy"].notnull() & ~found["near_freezing"]).values
    np.testing.assert_allclose(np.sort(x), np.sort(found["correction"].values[warm]))
    np.testing.assert_allclose(x, y, atol=1e-5)
    assert ax.figure.axes[1].get_ylabel() == "layer, in order"
    broken = plot.residual_vs_cumulants(ds.assign(third=-ds["third"]), Figure().subplots())
    x, y = np.asarray(broken.collections[0].get_offsets()).T
    assert abs(x - y).max() > 0.01


def test_rows_near_freezing_are_told_apart_and_in_the_frame(ds, ax) -> None:
    mixed = ds.assign(
        **{name: ds[name] * xr.where(ds["block"] == "mid_block", 50, 0.2) for name in ("sigma2", "third")}
    )
    plot.residual_vs_cumulants(mixed, ax)
    found = check(mixed).to_frame()
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert f"near freezing ({int(found['near_freezing'].sum())})" in texts
    assert abs(found["law_residual"]).max() < ax.get_ylim()[1]


def test_phases_and_the_line_of_freezing(ds, ax) -> None:
    assert plot.phase(ds, ax) is ax
    rows = check(ds).to_frame()
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(points, rows[["log_tokens", "sigma2"]])
    (line,) = [line for line in ax.get_lines() if line.get_label().startswith("freezing")]
    np.testing.assert_allclose(line.get_ydata(), 2 * line.get_xdata())
    (near,) = [line for line in ax.get_lines() if line.get_label().startswith("near")]
    tokens = np.exp(near.get_xdata())
    off = entropy_given_variance(near.get_ydata(), tokens) - np.log(tokens) + near.get_ydata() / 2
    np.testing.assert_allclose(off, 0.1, atol=0.01)
    assert len(set(ax.collections[0].get_array())) == 5, "a colour for each layer"
    assert ax.get_yscale() == "log"


# Steps and heads.


def test_entropy_through_the_steps(ds, ax) -> None:
    assert plot.entropy_vs_step(ds, ax) is ax
    part = ds.isel(scaling=0, layer=ds["kind"].values == "self").sel(size="64x64")
    expected = part["entropy"].mean(["branch", "sample", "head"])
    assert len(ax.get_lines()) == 5
    for place, line in enumerate(ax.get_lines()):
        np.testing.assert_allclose(line.get_ydata(), expected.isel(layer=place), rtol=1e-5)
        assert line.get_xdata().tolist() == [1, 2, 3]
    half = ax.collections[0].get_paths()[0].vertices
    own = part["entropy"].isel(layer=0, step=0).mean(["branch", "head"])
    np.testing.assert_allclose(np.ptp(half[np.isclose(half[:, 0], 1), 1]), 2 * own.std(ddof=1) / 6**0.5, rtol=1e-4)
    assert "at 64x64" in ax.get_ylabel()
    other = plot.entropy_vs_step(ds, Figure().subplots(), size=32, normalised=True)
    assert all((line.get_ydata() > 0).all() and (line.get_ydata() < 1.01).all() for line in other.get_lines())


def test_heads_on_a_map(ds, ax) -> None:
    assert plot.heads(ds, ax, size=(48, 48)) is ax
    part = ds.isel(scaling=0, layer=ds["kind"].values == "self").sel(size="48x48")
    expected = part["entropy"].mean(["branch", "sample", "step"]) / log_tokens(part)
    (cells,) = ax.collections
    drawn = np.ma.filled(cells.get_array().astype(float), np.nan)
    np.testing.assert_allclose(drawn, expected, rtol=1e-5)
    assert np.isnan(drawn).sum() == 8, "heads that are not there stay blank"
    assert cells.get_clim() == (0, 1)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["down 0", "down 1", "mid", "up 0", "up 1"]
    tall = plot.heads(ds, Figure(figsize=(5, 9)).subplots())
    assert {tick.get_rotation() for tick in tall.get_yticklabels()} == {0}, "names lie, whatever room they have"
    assert "at 48x48" in ax.figure.axes[1].get_ylabel()


def test_another_variable_on_the_map(ds, ax) -> None:
    plot.heads(ds, ax, name="deficit")
    found = check(ds)["deficit"].sel(size="64x64").transpose("layer", "head")
    np.testing.assert_allclose(np.ma.filled(ax.collections[0].get_array().astype(float), np.nan), found)
    signed = plot.heads(synthetic(noise=0.3), Figure().subplots(), name="law_residual")
    low, high = signed.collections[0].get_clim()
    assert low == -high
    assert "[nats]" in signed.figure.axes[1].get_ylabel()


def test_names_of_layers(ds) -> None:
    twice = xr.Dataset(
        coords={"layer": ["a", "b", "c"], "block": ("layer", ["mid_block", "up_blocks.1", "up_blocks.1"])}
    )
    assert layer_names(twice) == ["mid", "up 1, 0", "up 1, 1"]
    parts = twice.assign_coords(part=("layer", ["all", "image", "text"]))
    assert layer_names(parts) == ["mid", "up 1 image", "up 1 text"]
    assert layer_names(twice.drop_vars("block")) == ["a", "b", "c"]


# Logits.


def test_densities_of_standardised_logits(ax) -> None:
    rng = np.random.default_rng(0)
    normal, skewed = 3 + 2 * rng.standard_normal((64, 1024)), rng.gamma(4, size=(2, 32, 512))
    assert plot.logit_distribution({"normal": normal, "skewed": [skewed[0], skewed[1]]}, ax) is ax
    drawn = {line.get_label().split(":")[0]: line for line in ax.get_lines()}
    width = 2 * REACH / BINS
    for line in (drawn["normal"], drawn["skewed"]):
        assert np.nansum(line.get_ydata()) * width == pytest.approx(1, abs=0.002)
    gaussian = np.interp(drawn["normal"].get_xdata(), *drawn["Gaussian"].get_data())
    middle = gaussian > 0.03
    np.testing.assert_allclose(drawn["normal"].get_ydata()[middle], gaussian[middle], rtol=0.1)
    assert np.nanmax(abs(drawn["skewed"].get_ydata()[middle] / gaussian[middle] - 1)) > 0.3
    for name, skewness, kurtosis in (("normal", 0, 0), ("skewed", 1, 1.5)):  # of a Gamma variable 2/sqrt(4) and 6/4
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


@pytest.mark.parametrize("logits", [{}, [1, 2], {"flat": np.ones((3, 4))}, {"none": np.full((2, 3), np.nan)}])
def test_what_are_no_logits(ax, logits) -> None:
    with pytest.raises(EntropyLabError, match="logits"):
        plot.logit_distribution(logits, ax)
    assert not ax.get_lines()


@pytest.mark.parametrize(
    ("function", "options", "change", "message"),
    [
        (
            "law_residual",
            {"name": "fourth"},
            None,
            "name must be one of law, third_order, series, gaussian, rarefied. Got 'fourth'",
        ),
        ("law_residual", {"name": "series"}, "fourth", "'series_residual?' is not in this check|'series' is not"),
        ("residual_vs_cumulants", {}, "third", "'series' is not in this check"),
        ("phase", {}, "sigma2", "ds must hold sigma2"),
        ("entropy_vs_step", {"size": 50}, None, "size must be one of those measured"),
        ("entropy_vs_step", {}, "step", "ds must have a dim step"),
        ("heads", {}, "head", "ds must have a dim head"),
        ("heads", {"name": "colour"}, None, "'colour' is not in this check"),
        ("heads", {"kind": "joint"}, None, "kind='joint'"),
    ],
)
def test_what_can_not_be_drawn(ds, ax, function: str, options: dict, change: str | None, message: str) -> None:
    part = ds.drop_vars(change) if change in ds.data_vars else ds.mean(change, keep_attrs=True) if change else ds
    with pytest.raises(EntropyLabError, match=message):
        getattr(plot, function)(part, ax, **options)
    assert not ax.get_lines()
    assert not ax.collections
