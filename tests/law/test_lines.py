"""Lines and their errors: against other computations, certified values, and how often intervals hold the truth."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from scipy.special import polygamma

from entropylab.law import BOUNDED, CLUSTERED, ORDINARY, UNKNOWN, fit
from entropylab.law.lines import curvature, smooth_weights, straight_line, theil_sen

from ..datasets import NOISY, SIZES, norris, own_log_tokens, own_mean, replicates, synthetic

# The line, and ordinary errors.


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
    assert result.errors == ORDINARY
    reach = stats.t.ppf(0.975, len(data) - 2) * result.slope_error
    assert result.slope_interval == pytest.approx((result.slope - reach, result.slope + reach))
    t, p = result.slope_test
    assert t == pytest.approx((result.slope - 1) / result.slope_error)
    assert p == pytest.approx(2 * stats.t.sf(abs(t), len(data) - 2))


# Samples as clusters.


def test_clustered_errors_are_those_of_the_mean_of_the_samples_own_lines() -> None:
    ds = synthetic(**NOISY)
    result = fit(ds)
    lines = [stats.linregress(own_log_tokens(ds), y) for y in own_mean(ds).T]
    assert result.errors == CLUSTERED
    assert result.slope == pytest.approx(np.mean([line.slope for line in lines]))
    assert result.slope_error == pytest.approx(stats.sem([line.slope for line in lines]))
    assert result.intercept_error == pytest.approx(stats.sem([line.intercept for line in lines]))
    at = [line.intercept + line.slope * np.log(1000) for line in lines]
    assert result.predict(1000) == pytest.approx(np.mean(at))
    assert result.predict_error(1000) == pytest.approx(stats.sem(at))
    ds = synthetic(noise=0.01, sample_level=0.1)
    torn = ds.copy(deep=True)
    for place in range(ds.sizes["size"]):
        torn["entropy"][place] = np.roll(ds["entropy"][place], place, axis=2)
    for method in ("least_squares", "theil_sen"):
        own, other = fit(ds, method=method), fit(torn, method=method)
        assert other.slope == pytest.approx(own.slope)
        assert other.slope_error > 4 * own.slope_error, "a level of each sample's own cancels in its slope only whole"


def sandwich(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (intercept, slope) and their clustered covariance, by the textbook; NaN is left out."""
    keep = np.isfinite(y)
    design = np.stack([np.ones(y.shape), np.broadcast_to(x[:, None], y.shape)], -1)
    coefficients = np.linalg.lstsq(design[keep], y[keep])[0]
    bread = np.linalg.inv(design[keep].T @ design[keep])
    left = np.where(keep, y - design @ coefficients, 0)
    scores = np.einsum("ps,psc->sc", left, design)
    number = y.shape[1]
    return coefficients, bread @ scores.T @ scores @ bread * number / (number - 1)


def test_missing_samples_against_the_textbook_sandwich() -> None:
    ds = synthetic(**NOISY)
    whole, missing = own_mean(ds), np.zeros((len(SIZES), 6), bool)
    missing[[0, 3], [0, 2]] = True
    ds["entropy"] = ds["entropy"].where(~xr.DataArray(missing, dims=("size", "sample")))
    result = fit(ds)
    coefficients, covariance = sandwich(own_log_tokens(ds), np.where(missing, np.nan, whole))
    assert (result.intercept, result.slope) == pytest.approx(tuple(coefficients))
    assert result.intercept_error == pytest.approx(covariance[0, 0] ** 0.5)
    assert result.slope_error == pytest.approx(covariance[1, 1] ** 0.5)


def test_samples_of_which_nothing_is_known_are_none() -> None:
    ds = synthetic(**NOISY)
    whole, found = fit(ds.isel(sample=slice(4))), fit(ds.assign(entropy=ds["entropy"].where(ds["sample"] < 4)))
    assert found.dataset.attrs["samples"] == 4 == whole.dataset.attrs["samples"]
    assert found.slope_error == pytest.approx(whole.slope_error) and "4 samples" in found.summary()
    one = fit(ds.assign(entropy=ds["entropy"].where(ds["sample"] < 1)))
    assert one.errors == ORDINARY and one.slope_error > 0


def held(line: dict[str, np.ndarray], truth: float = 1.0, name: str = "slope") -> float:
    """How often a 95% interval holds the truth."""
    return float(np.mean((line[f"{name}_low"] < truth) & (line[f"{name}_high"] > truth)))


@pytest.mark.parametrize("line", [straight_line, theil_sen])
@pytest.mark.parametrize("clusters", [3, 8])
def test_intervals_hold_the_truth_as_often_as_they_say(line, clusters: int) -> None:
    x, y = replicates(clusters, 1000)
    found = line(x, y)
    assert 0.93 <= held(found) <= 0.98
    assert 0.93 <= held(found, -0.5, "intercept") <= 0.98
    assert np.mean(found["slope_p"] < 0.05) == pytest.approx(1 - held(found), abs=1e-9)
    assert abs(found["slope"].mean() - 1) < 3 * found["slope"].std() / 1000**0.5, "no bias"
    if clusters == 8:
        assert np.mean(line(x, y + 0.1 * x)["slope_p"] < 0.05) > 0.9, "and a slope of 1.1 is told from 1"


def test_intervals_that_take_points_for_independent_do_not() -> None:
    x, y = replicates()
    y = y - y.mean(1, keepdims=True) + y.mean((1, 2), keepdims=True)
    assert 0.90 <= held(straight_line(x, y)) <= 0.99
    assert held(straight_line(x.reshape(200, -1, 1), y.reshape(200, -1, 1))) < 0.7


# Averaged samples.


def test_errors_of_samples_that_were_averaged_are_the_largest_that_they_can_be() -> None:
    whole, averaged = synthetic(**NOISY), synthetic(**NOISY, average=("sample",))
    for by in (None, "layer"):
        kept, bound = fit(whole, by=by), fit(averaged, by=by)
        assert bound.errors == BOUNDED
        assert np.all(bound["slope_error"] >= kept["slope_error"])
        tokens = [100, 1000, 10000]
        assert (bound.predict_error(tokens) >= kept.predict_error(tokens)).all()
        assert np.all(bound["intercept_error"] >= kept["intercept_error"])
        np.testing.assert_allclose(bound["curvature"], kept["curvature"], atol=1e-5)
        assert np.all(bound["curvature_error"] >= kept["curvature_error"])
    assert bound["degrees_of_freedom"].values.tolist() == [5.0] * 5
    assert fit(averaged, errors="ordinary").errors == ORDINARY
    assert fit(whole.isel(sample=[0]), method="theil_sen").errors == UNKNOWN


# Weights.


def test_weights_are_those_of_smooth_variances_over_samples() -> None:
    """Log variance on a straight line, its slope shrunk as James and Stein do."""
    ds = synthetic(samples=8, steps=1)
    x, number = own_log_tokens(ds), len(SIZES)
    extra = np.where(x < np.median(x), 0.5, 0.01)[:, None] * np.random.default_rng(1).standard_normal((number, 8))
    ds = ds.assign(entropy=ds["entropy"] + xr.DataArray(extra, dims=("size", "sample")))
    points = own_mean(ds)
    line = stats.linregress(x, np.log(points.var(1, ddof=1)))
    noise = polygamma(1, 7 / 2) / ((x - x.mean()) ** 2).sum()
    weights = np.exp(-max(0, 1 - 2 * noise / line.slope**2) * line.slope * x / 2)
    own = [np.polyfit(x, sample, 1, w=weights)[0] for sample in points.T]
    result = fit(ds, method="weighted")
    assert (result.slope, result.intercept) == pytest.approx(np.polyfit(x, points.mean(1), 1, w=weights), rel=1e-5)
    assert result.slope_error == pytest.approx(stats.sem(own), rel=1e-5)
    assert (result.method, result.errors) == ("weighted", CLUSTERED)
    assert abs(result.slope - 1) < 0.3 * abs(fit(ds).slope - 1), "noisy sizes count less"
    assert result.slope_error < fit(ds).slope_error


def test_ordinary_errors_of_points_with_weights_are_those_of_least_squares() -> None:
    x, y = (values[0, :, :1] for values in replicates(number=1))
    weights = np.linspace(1, 5, len(x))[:, None]
    (slope, _), covariance = np.polyfit(x[:, 0], y[:, 0], 1, w=weights[:, 0] ** 0.5, cov=True)
    found = straight_line(x, y, weights)
    assert found["slope"] == pytest.approx(slope)
    assert (found["slope_error"], found["intercept_error"]) == pytest.approx(np.diag(covariance) ** 0.5)
    assert straight_line(x, y)["slope_error"] != pytest.approx(found["slope_error"], rel=1e-3)


@pytest.mark.parametrize("samples", [3, 8])
@pytest.mark.parametrize("steepness", [0.0, 1.2])
def test_weighted_intervals_hold_the_truth_as_often(samples: int, steepness: float) -> None:
    """Six sizes, equally noisy or the smaller ones more so, measured 1500 times."""
    tokens = np.geomspace(64, 4096, 6)[:, None]
    x = np.broadcast_to(np.log(tokens), (1500, 6, samples))
    y = x + 0.1 * (tokens / 512) ** (-steepness / 2) * np.random.default_rng(0).standard_normal(x.shape)
    error = y.std(-1, ddof=1, keepdims=True) / samples**0.5
    weights = smooth_weights(x[..., :1], error, np.full(error.shape, samples))
    assert 0.91 <= held(straight_line(x, y, weights)) <= 0.98
    if samples < 8:
        raw = straight_line(x, y, 1 / error**2)
        assert held(raw) < 0.9, "a weight from each size's own variance makes errors too small"


# The robust line.


def test_theil_sen_agrees_with_scipy_and_a_broken_size_does_not_move_it() -> None:
    ds = synthetic(**NOISY)
    result = fit(ds, method="theil_sen")
    x, points = own_log_tokens(ds), own_mean(ds)
    other = stats.theilslopes(points.mean(1), x, method="joint")
    assert (result.slope, result.intercept) == pytest.approx((other.slope, other.intercept), rel=1e-6)
    left = [stats.theilslopes(np.delete(points, i, 1).mean(1), x, method="joint") for i in range(6)]
    slopes, intercepts = (np.array([getattr(line, name) for line in left]) for name in ("slope", "intercept"))
    jackknife = [(5 * np.var(values)) ** 0.5 for values in (slopes, intercepts, intercepts + slopes * np.log(1000))]
    found = (result.slope_error, result.intercept_error, result.predict_error(1000))
    assert found == pytest.approx(jackknife, rel=1e-4)
    assert (result.method, result.errors) == ("theil_sen", CLUSTERED)
    frozen = ds.copy(deep=True)
    frozen["entropy"][4] = 0.1
    moved = abs(fit(frozen, method="theil_sen").slope - result.slope)
    assert moved < 0.1
    assert abs(fit(frozen).slope - fit(ds).slope) > 5 * moved
    gone = ds.assign(entropy=ds["entropy"].where((ds["sample"] < 5) | (ds["size"] == "32x32")))
    assert fit(gone, method="theil_sen").slope_error > 0


def test_medians_leave_out_what_is_missing() -> None:
    x = np.broadcast_to(np.arange(5.0)[:, None], (2, 5, 1))
    y = 2 * x + 1
    y[0, 2], y[1] = np.nan, np.nan
    found = theil_sen(x, y)
    assert (found["slope"][0], found["intercept"][0]) == (2, 1)
    assert np.isnan(found["slope"][1]) and np.isnan(found["slope_error"]).all()


# Is it straight?


def test_curvature_of_a_parabola_and_of_a_line() -> None:
    x = np.log([16, 64, 256, 1024.0])[:, None]
    bent = curvature(x, 0.3 + 0.5 * x + 0.02 * x**2)
    assert bent["curvature"] == pytest.approx(0.04)
    assert curvature(x, 0.3 + 0.5 * x)["curvature"] == pytest.approx(0, abs=1e-9)
    assert np.isnan(curvature(x[:2], x[:2])["curvature"]), "two points are always on a line"
    three = curvature(x[:3], x[:3] ** 2)
    assert np.isnan(three["curvature_p"]) and three["curvature"] == pytest.approx(2)


def test_ordinary_errors_of_curvature_are_those_of_least_squares() -> None:
    x = np.log([16, 40, 64, 256, 512, 1024.0])
    y = x + 0.1 * np.random.default_rng(0).standard_normal(6)
    (bend, *_), covariance = np.polyfit(x, y, 2, cov=True)
    found = curvature(x[:, None], y[:, None])
    assert (found["curvature"], found["curvature_error"]) == pytest.approx((2 * bend, 2 * covariance[0, 0] ** 0.5))
    assert found["curvature_p"] == pytest.approx(2 * stats.t.sf(abs(bend) / covariance[0, 0] ** 0.5, 3))


def test_a_straight_line_is_said_to_be_bent_as_rarely_as_p_says() -> None:
    x, y = replicates(clusters=4, number=2000)
    p = curvature(x, y)["curvature_p"]
    assert 0.03 < (p < 0.05).mean() < 0.07
    own = np.array([np.polyfit(x[0, :, 0], y[0, :, sample], 2)[0] for sample in range(4)])
    assert curvature(x, y)["curvature"][0] == pytest.approx(2 * own.mean())
    assert curvature(x, y)["curvature_error"][0] == pytest.approx(2 * stats.sem(own))
    assert (curvature(x, y + 0.05 * x**2)["curvature_p"] < 0.05).mean() > 0.8, "and a bent one is found"
