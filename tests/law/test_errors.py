"""The errors of the fit: how often intervals hold the truth, clustered and bootstrapped."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from entropylab.law import BOOTSTRAPPED, BOUNDED, CLUSTERED, ORDINARY, UNKNOWN, fit
from entropylab.law.regression import straight_line
from entropylab.law.resampling import bootstrapped, percentile_level

from ..datasets import NOISY, SIZES, own_log_tokens, own_mean, replicates, synthetic


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


def test_samples_torn_apart_give_larger_errors() -> None:
    ds = synthetic(noise=0.01, sample_level=0.1)
    torn = ds.copy(deep=True)
    for place in range(ds.sizes["size"]):
        torn["entropy"][place] = np.roll(ds["entropy"][place], place, axis=2)
    assert fit(torn).slope == pytest.approx(fit(ds).slope)
    assert fit(torn).slope_error > 5 * fit(ds).slope_error, (
        "a level of each sample's own cancels in its slope only whole"
    )


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
    means = np.where(missing, np.nan, whole)
    coefficients, covariance = sandwich(own_log_tokens(ds), means)
    assert (result.intercept, result.slope) == pytest.approx(tuple(coefficients))
    assert result.intercept_error == pytest.approx(covariance[0, 0] ** 0.5)
    assert result.slope_error == pytest.approx(covariance[1, 1] ** 0.5)


def coverage(line: dict[str, np.ndarray]) -> float:
    return float(np.mean((line["slope_low"] < 1) & (line["slope_high"] > 1)))


def test_95_percent_intervals_hold_the_truth_about_95_percent_of_the_time() -> None:
    x, y = replicates()
    assert 0.90 <= coverage(straight_line(x, y)) <= 0.99


def test_intervals_that_take_points_for_independent_do_not() -> None:
    x, y = replicates()
    y = y - y.mean(1, keepdims=True) + y.mean((1, 2), keepdims=True)
    assert 0.90 <= coverage(straight_line(x, y)) <= 0.99
    assert coverage(straight_line(x.reshape(200, -1, 1), y.reshape(200, -1, 1))) < 0.7


@pytest.mark.parametrize("samples", [3, 4, 8])
@pytest.mark.parametrize("steepness", [0.0, 1.2])
def test_weighted_intervals_hold_the_truth_as_often(samples: int, steepness: float) -> None:
    """Six sizes, equally noisy or the smaller ones more so."""
    measured = many_layers(samples, 1500, steepness)
    assert 0.91 <= held(fit(measured, by="layer", method="weighted").slope_interval) <= 0.98
    if samples < 8:
        assert held(raw(measured)) < 0.9, "a weight from each size's own variance makes errors too small"


def held(interval: tuple[np.ndarray, np.ndarray]) -> float:
    """How many intervals hold a slope of 1."""
    low, high = interval
    return float(((low < 1) & (high > 1)).mean())


def many_layers(samples: int, number: int, steepness: float) -> xr.Dataset:
    """So many measurements under the law, as layers, whose samples scatter by N^-(steepness / 2)."""
    rng = np.random.default_rng(0)
    tokens = np.geomspace(64, 4096, 6)
    scatter = 0.1 * (tokens / 512) ** (-steepness / 2)
    entropy = np.log(tokens)[:, None] - 0.5 + scatter[:, None] * rng.standard_normal((number, 6, samples))
    return xr.Dataset(
        {"entropy": (("layer", "size", "sample"), entropy)},
        coords={
            "size": [str(count) for count in range(6)],
            "layer": [str(count) for count in range(number)],
            "kind": ("layer", ["self"] * number),
            "tokens": (("size", "layer"), np.repeat(tokens[:, None], number, 1)),
        },
    )


def raw(measured: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of slopes that weigh every size by its own variance over samples."""
    y = measured["entropy"].values
    x = np.broadcast_to(np.log(measured["tokens"].values.T)[:, :, None], y.shape)
    line = straight_line(x, y, 1 / y.var(-1, ddof=1, keepdims=True))
    return line["slope_low"], line["slope_high"]


def test_samples_of_which_nothing_is_known_are_none() -> None:
    ds = synthetic(**NOISY)
    more = ds.assign(entropy=ds["entropy"].where(ds["sample"] < 4))
    whole, found = fit(ds.isel(sample=slice(4))), fit(more)
    assert found.dataset.attrs["samples"] == 4 == whole.dataset.attrs["samples"]
    assert found.slope_error == pytest.approx(whole.slope_error) and "4 samples" in found.summary()
    drawn = [fit(part, errors="bootstrap", resamples=199).slope_interval for part in (more, ds.isel(sample=slice(4)))]
    assert drawn[0] == pytest.approx(drawn[1])
    one = fit(ds.assign(entropy=ds["entropy"].where(ds["sample"] < 1)))
    assert one.errors == ORDINARY and one.slope_error > 0


# The bootstrap.


def test_bootstrapped_errors_are_near_the_clustered_ones_and_the_same_again() -> None:
    ds = synthetic(**NOISY, samples=12)
    drawn, again = (fit(ds, errors="bootstrap", resamples=999) for _ in range(2))
    clustered = fit(ds)
    assert drawn.errors == BOOTSTRAPPED
    assert (drawn.slope, drawn.intercept) == (clustered.slope, clustered.intercept)
    assert drawn.slope_error == pytest.approx(clustered.slope_error, rel=0.1)
    assert drawn.intercept_error == pytest.approx(clustered.intercept_error, rel=0.1)
    assert drawn.predict_error(1000) == pytest.approx(clustered.predict_error(1000), rel=0.1)
    assert drawn.slope_interval == again.slope_interval
    assert fit(ds, errors="bootstrap", resamples=999, seed=1).slope_interval != drawn.slope_interval
    for ours, theirs in zip(drawn.slope_interval, clustered.slope_interval, strict=True):
        assert ours == pytest.approx(theirs, abs=clustered.slope_error)
    assert drawn.slope_test[1] == pytest.approx(clustered.slope_test[1], abs=0.05)


def test_the_bootstrap_draws_samples_whole() -> None:
    ds = synthetic(noise=0.01, sample_level=0.1, samples=8)
    torn = ds.copy(deep=True)
    for place in range(ds.sizes["size"]):
        torn["entropy"][place] = np.roll(ds["entropy"][place], place, axis=2)
    own, other = (fit(d, errors="bootstrap", resamples=499) for d in (ds, torn))
    assert other.slope_error > 5 * own.slope_error


@pytest.mark.parametrize(("clusters", "least"), [(4, 0.84), (8, 0.90), (16, 0.90)])
def test_how_often_bootstrapped_intervals_hold_the_truth(clusters: int, least: float) -> None:
    held = coverage(bootstrapped(*replicates(clusters), straight_line, 499, 0))
    assert least <= held <= 0.99
    if clusters == 4:
        assert held < coverage(straight_line(*replicates(clusters))), "with few samples the clustered ones are better"


def test_percentiles_are_taken_as_far_out_as_t() -> None:
    assert percentile_level(1000) == pytest.approx(0.95, abs=0.001)
    assert percentile_level(5) == pytest.approx(2 * stats.norm.cdf(stats.t.ppf(0.975, 4) * (5 / 4) ** 0.5) - 1)
    x, y = replicates(6)
    own = bootstrapped(x, y, straight_line, 999, 0)
    plain = np.quantile(np.random.default_rng(0).choice(straight_slopes(x, y), (999, 6)).mean(-1), [0.025, 0.975])
    assert own["slope_high"][0] - own["slope_low"][0] > 1.2 * (plain[1] - plain[0])


def straight_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The own slope of every sample of the first replicate."""
    return np.array([stats.linregress(x[0, :, i], y[0, :, i]).slope for i in range(x.shape[-1])])


@pytest.mark.parametrize("errors", ["clustered", "bootstrap"])
def test_measurements_done_again_hold_the_truth_in_their_intervals(errors: str) -> None:
    """The whole of ``fit``, on 200 measurements as so many layers."""
    x, y = replicates(8)
    names = [str(number) for number in range(200)]
    ds = xr.Dataset(
        {"entropy": (("layer", "size", "sample"), y)},
        coords={
            "size": [str(number) for number in range(6)],
            "layer": names,
            "kind": ("layer", ["self"] * 200),
            "tokens": (("size", "layer"), np.exp(x[:, :, 0].T)),
        },
    )
    result = fit(ds, by="layer", errors=errors, resamples=499)
    low, high = result.slope_interval
    assert 0.89 <= float(((low < 1) & (high > 1)).mean()) <= 0.99
    low, high = result.intercept_interval
    assert 0.89 <= float(((low < -0.5) & (high > -0.5)).mean()) <= 0.99
    assert abs(float(result.slope.mean()) - 1) < 3 * float(result.slope.std()) / 200**0.5, "no bias"
    assert float((result.slope_test[1] < 0.05).mean()) < 0.11
    shifted = fit(
        ds.assign(entropy=ds["entropy"] + 0.1 * np.log(ds["tokens"])), by="layer", errors=errors, resamples=499
    )
    assert float((shifted.slope_test[1] < 0.05).mean()) > 0.9, "and a slope of 1.1 is told from 1"


def test_errors_of_samples_that_were_averaged_are_the_largest_that_they_can_be() -> None:
    whole, averaged = synthetic(**NOISY), synthetic(**NOISY, average=("sample",))
    for by in (None, "layer"):
        kept, bound = fit(whole, by=by), fit(averaged, by=by)
        assert bound.errors == BOUNDED
        assert (bound.slope_error >= kept.slope_error).all() if by else bound.slope_error >= kept.slope_error
        tokens = [100, 1000, 10000]
        assert (bound.predict_error(tokens) >= kept.predict_error(tokens)).all()
        assert np.all(bound["intercept_error"] >= kept["intercept_error"])
    alone = synthetic(**NOISY, average=("branch", "step", "head")).isel(layer=[0])
    level = fit(alone["entropy"].to_dataset().assign_attrs(alone.attrs)).slope_error
    assert level > 0
    assert bound["degrees_of_freedom"].values.tolist() == [5.0] * 5


def test_one_sample_has_ordinary_errors() -> None:
    assert fit(synthetic(samples=1, noise=0.1)).errors == ORDINARY
    assert fit(synthetic(samples=1, noise=0.1), method="theil_sen").errors == UNKNOWN
