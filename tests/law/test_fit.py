"""The fit of the law, against what was put into synthetic Datasets and against other computations."""

import subprocess
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from entropylab.errors import EntropyLabError
from entropylab.law import BOOTSTRAPPED, BOUNDED, CLUSTERED, ORDINARY, fit
from entropylab.law.averages import deficit, log_tokens
from entropylab.law.regression import straight_line, theil_sen

from ..datasets import NOISY, SIZES, norris, own_log_tokens, own_mean, synthetic
from .test_errors import replicates

SIGMA2 = (0.8, 1.4, 2.0, 1.2, 0.6)


def test_the_line_put_in_comes_out() -> None:
    result = fit(synthetic(slope=0.93))
    assert result.slope == pytest.approx(0.93, abs=1e-6)
    assert result.intercept == pytest.approx(-np.mean(SIGMA2) / 2, abs=1e-5)
    assert result.r_squared == pytest.approx(1, abs=1e-9)
    assert abs(result.residuals).max() < 1e-5


def test_every_layer_head_and_step_gets_its_own_line() -> None:
    ds = synthetic(slope=0.93, steps=2)
    by_layer = fit(ds, by="layer")
    np.testing.assert_allclose(by_layer.intercept, -np.array(SIGMA2) / 2, atol=1e-5)
    assert by_layer.slope.dims == ("layer",)
    assert by_layer.slope["block"].values.tolist()[2] == "mid_block"
    both = fit(ds, by=("layer", "head"))
    expected = ds["sigma2"].isel(size=0, scaling=0, branch=0, sample=0, step=0, layer=ds["kind"].values == "self")
    np.testing.assert_allclose(both.intercept, -expected / 2, atol=1e-5)
    assert np.isnan(both.slope.values).sum() == 8, "the four missing heads of each of two layers have no line"
    assert len(both.to_frame()) == 32
    assert fit(ds, by="step").slope.shape == (2,)
    assert fit(ds, by="head").slope.values == pytest.approx(0.93, abs=1e-5)


def test_padding_is_never_counted() -> None:
    ds = synthetic()
    padded_with_zeros = ds.assign(entropy=ds["entropy"].fillna(0))
    assert fit(padded_with_zeros).intercept != pytest.approx(fit(ds).intercept, abs=0.05)
    assert fit(ds).dataset.attrs["heads"] == 32


def test_ordinary_errors_agree_with_scipy() -> None:
    ds = synthetic(noise=0.2, average=("sample",), slope=0.9)
    result = fit(ds, errors="ordinary")
    x, y = own_log_tokens(ds), own_mean(ds.expand_dims("sample"))[:, 0]
    other = stats.linregress(x, y)
    assert result.errors == ORDINARY
    assert result.slope == pytest.approx(other.slope)
    assert result.slope_error == pytest.approx(other.stderr)
    assert result.intercept == pytest.approx(other.intercept)
    assert result.intercept_error == pytest.approx(other.intercept_stderr)
    assert result.r_squared == pytest.approx(other.rvalue**2)
    reach = stats.t.ppf(0.975, len(SIZES) - 2) * other.stderr
    assert result.slope_interval == pytest.approx((other.slope - reach, other.slope + reach))
    t, p = result.slope_test
    assert t == pytest.approx((other.slope - 1) / other.stderr)
    assert p == pytest.approx(2 * stats.t.sf(abs(t), len(SIZES) - 2))


# Weighted and robust lines.


def noisy_small() -> xr.Dataset:
    """A measurement whose smallest sizes are noisy."""
    ds = synthetic(samples=8, steps=1, average=("branch", "step", "head"))
    rng = np.random.default_rng(1)
    spread = np.where(ds["tokens"].mean("layer") < ds["tokens"].mean("layer").median(), 0.5, 0.01)
    extra = xr.DataArray(rng.standard_normal((len(SIZES), 8)) * spread[:, None], dims=("size", "sample"))
    return ds.assign(entropy=ds["entropy"] + extra)


def test_weights_are_those_of_the_errors_over_samples() -> None:
    ds = noisy_small()
    result = fit(ds, method="weighted")
    points = own_mean(ds.expand_dims(["branch", "step", "head"]))
    weights = 1 / stats.sem(points, axis=1)
    expected = np.polyfit(own_log_tokens(ds), points.mean(1), 1, w=weights)
    assert (result.slope, result.intercept) == pytest.approx(tuple(expected), rel=1e-5)
    assert result.method == "weighted"
    assert abs(result.slope - 1) < 0.3 * abs(fit(ds).slope - 1), "noisy sizes count less"
    assert result.slope_error < fit(ds).slope_error
    assert result.dataset.attrs["errors"] == CLUSTERED


def test_weighted_slopes_are_the_means_of_the_samples_own() -> None:
    ds = noisy_small()
    points = own_mean(ds.expand_dims(["branch", "step", "head"]))
    weights = 1 / stats.sem(points, axis=1)
    own = [np.polyfit(own_log_tokens(ds), sample, 1, w=weights)[0] for sample in points.T]
    result = fit(ds, method="weighted")
    assert result.slope_error == pytest.approx(stats.sem(own), rel=1e-5)


def test_theil_sen_agrees_with_scipy_and_a_broken_size_does_not_move_it() -> None:
    ds = synthetic(**NOISY)
    result = fit(ds, method="theil_sen", resamples=299)
    other = stats.theilslopes(own_mean(ds).mean(1), own_log_tokens(ds))
    assert result.slope == pytest.approx(other.slope, rel=1e-6)
    assert result.errors == BOOTSTRAPPED
    frozen = ds.copy(deep=True)
    frozen["entropy"][4] = 0.1
    moved = abs(fit(frozen, method="theil_sen", resamples=299).slope - result.slope)
    assert moved < 0.1
    assert abs(fit(frozen).slope - fit(ds).slope) > 5 * moved


def test_medians_leave_out_what_is_missing() -> None:
    x = np.broadcast_to(np.arange(5.0)[:, None], (2, 5, 1)).copy()
    y = 2 * x + 1
    y[0, 2], y[1] = np.nan, np.nan
    found = theil_sen(x, y)
    assert (found["slope"][0], found["intercept"][0]) == (2, 1)
    assert np.isnan(found["slope"][1])


def test_nist_norris() -> None:
    """Certified values of NIST StRD, Norris: https://www.itl.nist.gov/div898/strd/lls/data/Norris.shtml."""
    data = norris()
    ds = xr.Dataset(
        {"entropy": (("size", "layer"), data[["y"]].values)},
        coords={
            "size": [str(i) for i in range(len(data))],
            "layer": ["one"],
            "kind": ("layer", ["self"]),
            "tokens": (("size", "layer"), np.exp(data[["x"]].values / 100)),
        },
    )
    result = fit(ds)
    assert result.slope / 100 == pytest.approx(1.00211681802045, rel=1e-12)
    assert result.slope_error / 100 == pytest.approx(0.429796848199937e-03, rel=1e-10)
    assert result.intercept == pytest.approx(-0.262323073774029, rel=1e-10)
    assert result.intercept_error == pytest.approx(0.232818234301152, rel=1e-10)
    assert result.r_squared == pytest.approx(0.999993745883712, rel=1e-12)


def test_deficit_and_law_from_measured_sigma2() -> None:
    ds = synthetic(cumulants=True)
    result = fit(ds)
    x, h = own_log_tokens(ds), own_mean(ds).mean(1)
    np.testing.assert_allclose(result.deficit, x - h, atol=1e-6)
    np.testing.assert_allclose(result.half_sigma2, np.full(len(SIZES), np.mean(SIGMA2) / 2), atol=1e-6)
    np.testing.assert_allclose(result.law, x - np.mean(SIGMA2) / 2, atol=1e-6)
    np.testing.assert_allclose(result["series"], h, atol=1e-5)
    assert abs(result.law - h).min() > 0.01, "without the third and fourth cumulant the law is off"
    np.testing.assert_allclose(result["freezing"], np.mean(SIGMA2) / (2 * x), atol=1e-6)
    assert result.overall("half_sigma2") == pytest.approx(0.6, abs=1e-6)
    assert deficit(ds).dims == ds["entropy"].dims
    assert log_tokens(ds).attrs["units"] == "nats"


def test_without_sigma2_there_is_a_line_and_no_law() -> None:
    result = fit(synthetic().drop_vars("sigma2"))
    assert result.slope == pytest.approx(1, abs=1e-5)
    assert "sigma^2/2" not in result.summary().split("\n", 2)[2]
    with pytest.raises(EntropyLabError, match="'half_sigma2' is not in this fit"):
        _ = result.half_sigma2


@pytest.mark.parametrize("dims", [("branch",), ("step",), ("head",), ("sample",), ("branch", "step", "head", "sample")])
def test_averaging_beforehand_changes_no_slope(dims: tuple[str, ...]) -> None:
    whole, part = fit(synthetic(**NOISY)), fit(synthetic(**NOISY, average=dims))
    assert part.slope == pytest.approx(whole.slope, abs=1e-5)
    assert part.intercept == pytest.approx(whole.intercept, abs=1e-5)
    assert part.errors == (BOUNDED if "sample" in dims else CLUSTERED)
    assert part.dataset.attrs["samples"] == 6
    assert (part["entropy_error"] >= whole["entropy_error"] - 1e-6).all(), "of averaged samples a bound is given"
    if "sample" not in dims:
        assert part.slope_error == pytest.approx(whole.slope_error, rel=1e-3)


def test_kinds_and_scalings() -> None:
    ds = synthetic(scalings=("sqrt_log", "original"), removed={"sqrt_log": 0.25})
    assert fit(ds).slope == pytest.approx(1, abs=1e-5)
    assert fit(ds).dataset.attrs["scaling"] == "original"
    assert fit(ds, scaling="sqrt_log").slope == pytest.approx(0.75, abs=1e-5)
    assert fit(ds.sel(scaling=["sqrt_log"])).slope == pytest.approx(0.75, abs=1e-5)
    assert fit(ds.sel(scaling="sqrt_log")).dataset.attrs["scaling"] == "sqrt_log"
    mixed = fit(ds, kind=("self", "cross"))
    assert (mixed.dataset.attrs["kind"], mixed.dataset.attrs["layers"]) == ("self, cross", 10)
    assert mixed.intercept != pytest.approx(fit(ds).intercept, abs=0.1)


def test_a_head_that_comes_and_goes_is_left_out_and_told() -> None:
    ds = synthetic()
    broken = ds.copy(deep=True)
    broken["entropy"][2:, ..., 4, 0] = np.nan
    result = fit(broken)
    assert result.slope == pytest.approx(1, abs=1e-5)
    assert result.dataset.attrs["left_out"] == 1
    assert "1 heads left out" in result.summary()
    assert fit(ds).dataset.attrs["left_out"] == 0


def test_one_layer_and_two_sizes() -> None:
    ds = synthetic(**NOISY).isel(size=[0, 2])
    assert fit(ds).slope_error > 0
    bare = fit(ds.mean("sample"))
    assert np.isnan(bare.slope_error), "two points leave nothing to estimate an error from"
    assert fit(ds.isel(layer=4)).slope == pytest.approx(fit(ds, by="layer").slope.values[2])


def test_a_fit_describes_itself() -> None:
    result = fit(synthetic(**NOISY))
    text = result.summary()
    for word in (
        "slope",
        "±",
        "95%",
        "intercept",
        "R^2",
        "5 self layers and 32 heads",
        "samples as clusters",
        "128x128",
    ):
        assert word in text
    assert f"{result.slope:.4f}" in text
    assert f"{result.slope:.4f}" in result._repr_html_()
    assert f"{result.slope:.4f}" in repr(result)
    by_layer = fit(synthetic(**NOISY), by="layer")
    assert "unet.mid_block" in by_layer.summary()
    assert "unet.mid_block" in by_layer._repr_html_()
    assert "5 lines" in repr(by_layer)
    assert len(by_layer.points()) == 5 * len(SIZES)
    with pytest.raises(FrozenInstanceError):
        result.dataset = xr.Dataset()  # type: ignore[misc]


def test_tables_and_files(tmp_path: object) -> None:
    result = fit(synthetic(**NOISY), by=("layer", "head"))
    data = result.to_dataset()
    assert all(variable.attrs["long_name"] and variable.attrs["units"] for variable in data.data_vars.values())
    data.to_netcdf(f"{tmp_path}/fit.nc", engine="h5netcdf")
    xr.testing.assert_identical(xr.load_dataset(f"{tmp_path}/fit.nc", engine="h5netcdf")["slope"], data["slope"])
    data["slope"][:] = 0
    assert (result.to_frame()["slope"] > 0.5).all(), "what was handed out is a copy"
    one = fit(synthetic(**NOISY)).to_frame()
    assert one.shape[0] == 1
    assert one["slope"][0] == fit(synthetic(**NOISY)).slope


def test_prediction() -> None:
    result = fit(synthetic())
    assert result.predict(1) == pytest.approx(result.intercept)
    assert result.predict([100, 200]).dims == ("tokens",)
    assert fit(synthetic(), by="layer").predict([100, 200]).dims == ("layer", "tokens")
    with pytest.raises(EntropyLabError, match="tokens must be a positive number"):
        result.predict(0)


@settings(max_examples=25, deadline=None)
@given(shift=st.floats(-2, 2), stretch=st.floats(0.1, 3))
def test_shift_and_stretch_of_entropy(shift: float, stretch: float) -> None:
    x, y = replicates(number=1)
    one, other = straight_line(x, y), straight_line(x, stretch * y + shift)
    np.testing.assert_allclose(other["slope"], stretch * one["slope"], rtol=1e-9)
    np.testing.assert_allclose(other["intercept"], stretch * one["intercept"] + shift, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(other["slope_error"], stretch * one["slope_error"], rtol=1e-9)


DS = synthetic(steps=2, samples=2)


@pytest.mark.parametrize(
    ("ds", "options", "message"),
    [
        ([1, 2], {}, "must be an xarray.Dataset.* Got list"),
        (xr.Dataset({"a": 1}), {}, "missing entropy, tokens, layer, kind, size"),
        (DS.drop_vars("entropy"), {}, "missing entropy"),
        (DS.drop_vars("tokens"), {}, "missing tokens"),
        (DS.mean("layer"), {}, "missing tokens, layer, kind"),
        (DS.isel(size=0), {}, "at least two sizes with different N.* Got 32x32"),
        (DS.isel(size=[0]), {}, "at least two sizes with different N.* Got 32x32"),
        (DS, {"kind": "cross"}, "at least two sizes with different N"),
        (DS, {"kind": "joint"}, "kind='joint': .* It has: cross, self"),
        (DS, {"scaling": "sqrt_log"}, "scaling must be one of those measured: original. Got 'sqrt_log'"),
        (DS, {"method": "lasso"}, "method must be one of least_squares, weighted, theil_sen. Got 'lasso'"),
        (DS, {"errors": "none"}, r"one of \['clustered', 'bootstrap', 'ordinary'\]. Got 'none'"),
        (DS, {"errors": "bounded"}, "of 2 samples apart .* Got 'bounded'"),
        (DS.isel(sample=[0]), {"errors": "bootstrap"}, r"of 1 samples not apart.*one of \['ordinary'\]"),
        (DS, {"errors": "clustered", "method": "theil_sen"}, r"one of \['bootstrap'\]"),
        (DS.isel(sample=[0]), {"method": "weighted"}, "standard errors over samples that weights can be had from"),
        (DS, {"by": "size"}, r"by must be .* Got \['size'\]"),
        (DS, {"by": ("layer", "layer")}, "by must be"),
        (DS.mean("step", keep_attrs=True), {"by": "step"}, r"\['layer', 'head', 'branch'\]. Got \['step'\]"),
        (DS.assign(entropy=DS["entropy"] * np.nan), {}, "must be finite"),
        (DS.assign_coords(tokens=DS["tokens"] * 0), {}, "ds.tokens must be positive"),
    ],
)
def test_what_can_not_be_fitted(ds: xr.Dataset, options: dict, message: str) -> None:
    with pytest.raises(EntropyLabError, match=message):
        fit(ds, **options)


def test_no_torch_and_no_matplotlib_is_needed() -> None:
    names = "entropylab.law, entropylab.law.checks, entropylab.law.drift"
    blocked = f"import sys; sys.modules.update(torch=None, matplotlib=None); import {names}"
    subprocess.run([sys.executable, "-c", blocked], check=True)


def test_figures_need_no_torch() -> None:
    blocked = "import sys; sys.modules.update(torch=None); import entropylab.plot"
    subprocess.run([sys.executable, "-c", blocked], check=True)
