"""Lines through points, weighted and robust ones too, against other computations and certified values."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import polygamma

from entropylab.law import BOOTSTRAPPED, CLUSTERED, ORDINARY, fit
from entropylab.law.regression import straight_line, theil_sen

from ..datasets import NOISY, SIZES, norris, own_log_tokens, own_mean, replicates, synthetic


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


def noisy_small() -> xr.Dataset:
    """A measurement whose smallest sizes are noisy."""
    ds = synthetic(samples=8, steps=1, average=("branch", "step", "head"))
    rng = np.random.default_rng(1)
    spread = np.where(ds["tokens"].mean("layer") < ds["tokens"].mean("layer").median(), 0.5, 0.01)
    extra = xr.DataArray(rng.standard_normal((len(SIZES), 8)) * spread[:, None], dims=("size", "sample"))
    return ds.assign(entropy=ds["entropy"] + extra)


def smooth_variances(x: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Variances over samples on a straight line in log variance, its slope shrunk as James and Stein do."""
    line = stats.linregress(x, np.log(points.var(1, ddof=1)))
    noise = polygamma(1, (points.shape[1] - 1) / 2) / ((x - x.mean()) ** 2).sum()
    return np.exp(max(0, 1 - 2 * noise / line.slope**2) * line.slope * x)


def test_weights_are_those_of_smooth_variances_over_samples() -> None:
    ds = noisy_small()
    result = fit(ds, method="weighted")
    x, points = own_log_tokens(ds), own_mean(ds.expand_dims(["branch", "step", "head"]))
    weights = smooth_variances(x, points) ** -0.5
    expected = np.polyfit(x, points.mean(1), 1, w=weights)
    assert (result.slope, result.intercept) == pytest.approx(tuple(expected), rel=1e-5)
    assert result.method == "weighted"
    assert abs(result.slope - 1) < 0.3 * abs(fit(ds).slope - 1), "noisy sizes count less"
    assert result.slope_error < fit(ds).slope_error
    assert result.dataset.attrs["errors"] == CLUSTERED


def test_weighted_slopes_are_the_means_of_the_samples_own() -> None:
    ds = noisy_small()
    x, points = own_log_tokens(ds), own_mean(ds.expand_dims(["branch", "step", "head"]))
    weights = smooth_variances(x, points) ** -0.5
    own = [np.polyfit(x, sample, 1, w=weights)[0] for sample in points.T]
    result = fit(ds, method="weighted")
    assert result.slope_error == pytest.approx(stats.sem(own), rel=1e-5)


def test_a_size_with_more_samples_weighs_more() -> None:
    ds = synthetic(**NOISY, average=("branch", "step", "head"))
    few = ds.assign(entropy=ds["entropy"].where((ds["sample"] < 2) | (ds["size"] != ds["size"][0])))
    broken = xr.where(few["size"] == few["size"][0], 0.2, 0.0)
    moved = [abs(fit(part.assign(entropy=part["entropy"] + broken), method="weighted").slope - 1) for part in (few, ds)]
    assert moved[0] < moved[1]


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


@settings(max_examples=25, deadline=None)
@given(shift=st.floats(-2, 2), stretch=st.floats(0.1, 3))
def test_shift_and_stretch_of_entropy(shift: float, stretch: float) -> None:
    x, y = replicates(number=1)
    one, other = straight_line(x, y), straight_line(x, stretch * y + shift)
    np.testing.assert_allclose(other["slope"], stretch * one["slope"], rtol=1e-9)
    np.testing.assert_allclose(other["intercept"], stretch * one["intercept"] + shift, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(other["slope_error"], stretch * one["slope_error"], rtol=1e-9)
