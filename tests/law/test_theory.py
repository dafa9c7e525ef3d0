"""Formulas against simulation, brute force and numerical derivatives, in float64."""

from itertools import combinations

import numpy as np
import pytest
from scipy.special import softmax

from entropylab.law import theory


def brute_entropy(row: np.ndarray) -> float:
    """Entropy of one row's softmax, by its definition."""
    weight = softmax(row[np.isfinite(row)])
    return float(-(weight * np.log(weight)).sum())


def drawn(sigma: float, tokens: int, rows: int, seed: int = 0) -> np.ndarray:
    return sigma * np.random.default_rng(seed).standard_normal((rows, tokens))


def mixed() -> np.ndarray:
    """Rows that are flat, steep, carried by one key, with keys left out, and with two equal keys on top."""
    rows = drawn(1.0, 9, 6) * np.array([0, 1, 4, 1, 2, 1])[:, None]
    rows[3, 2], rows[4, [0, 5]], rows[5, [1, 2]] = 60, -np.inf, 9
    return rows


def test_row_entropy_and_sensitivity_by_their_definitions() -> None:
    rows = mixed()
    np.testing.assert_allclose(theory.row_entropy(rows), [brute_entropy(row) for row in rows], atol=1e-12)
    np.testing.assert_allclose(theory.row_entropy(rows[0]), np.log(9))
    np.testing.assert_allclose(theory.row_entropy(rows + 100), theory.row_entropy(rows), atol=1e-12)
    step = 1e-5
    rise = (theory.row_entropy(rows * np.exp(step)) - theory.row_entropy(rows * np.exp(-step))) / (2 * step)
    np.testing.assert_allclose(theory.sensitivity(rows), -rise, atol=1e-7)


# The law at finite N.


def test_gaussian_keys_need_as_many_as_the_finite_term_says() -> None:
    for sigma2 in (0.5, 1.0, 1.5):
        tokens = int(np.ceil(theory.finite_term(sigma2, 1.0) / 0.03))
        draws = drawn(sigma2**0.5, tokens, 2**20 // tokens)
        off = theory.row_entropy(draws).mean() - np.log(tokens) + sigma2 / 2
        # Past the expansion's first term entropy rises less, so that a few keys fewer would do.
        assert 0.015 < off < 0.031
        fewer = theory.row_entropy(draws[:, : tokens // 4]).mean() - np.log(tokens // 4) + sigma2 / 2
        assert fewer > 1.5 * off
    assert theory.finite_term(0.0, 7) == 0 and np.isinf(theory.finite_term(1e4, 10))


@pytest.mark.parametrize("tokens", [16, 4096])
def test_up_to_the_largest_sigma2_gaussian_rows_are_on_the_law(tokens: int) -> None:
    limit = float(theory.largest_sigma2(tokens))
    draws = drawn(1.0, tokens, 2**21 // tokens)
    draws = (draws - draws.mean(-1, keepdims=True)) / draws.std(-1, keepdims=True)
    law = np.log(tokens) - limit / 2
    assert theory.row_entropy(limit**0.5 * draws).mean() - law == pytest.approx(0.1, abs=0.02)
    np.testing.assert_allclose(theory.largest_sigma2([tokens] * 2), limit)
    assert float(theory.largest_sigma2(tokens, 0.01)) < 0.8 * limit


# Gaussian rows at any sigma and N.


@pytest.mark.parametrize(("tokens", "sigma"), [(2, 2.0), (64, 0.5), (1024, 6.0)])
def test_gaussian_entropy_is_that_of_simulated_rows(tokens: int, sigma: float) -> None:
    found = theory.row_entropy(drawn(sigma, tokens, 2**19 // tokens))
    error = found.std() / len(found) ** 0.5
    assert abs(theory.gaussian_entropy(sigma, tokens) - found.mean()) < 4 * error
    if tokens == 1024 and sigma == 6:
        assert np.log(tokens) - sigma**2 / 2 < found.mean() - 100 * error, "where the law itself is far below"


def test_gaussian_entropy_at_its_ends() -> None:
    np.testing.assert_allclose(theory.gaussian_entropy(0.0, [1, 7, 4096]), np.log([1, 7, 4096]), atol=1e-10)
    assert theory.gaussian_entropy(3.0, 1) == pytest.approx(0, abs=1e-10), "one key has no entropy"
    assert theory.gaussian_entropy(2.0, 4) == pytest.approx(0.771, abs=5e-4)
    large = theory.gaussian_entropy(0.7, 10**6)
    law = np.log(10**6) - 0.245
    assert large == pytest.approx(law + theory.finite_term(0.49, 10**6), abs=1e-7), "and the law is its limit"
    assert np.isnan(theory.gaussian_entropy([-1.0, np.nan], 4)).all() and np.isnan(theory.gaussian_entropy(1.0, 0))


def test_many_sigmas_are_interpolated() -> None:
    sigma = np.linspace(0, 4, 110)
    found = theory.gaussian_entropy(sigma[:, None], [16, 256])
    assert found.shape == (110, 2)
    np.testing.assert_allclose(found[7::40], theory.gaussian_entropy(sigma[7::40, None], [16, 256]), atol=1e-6)


# Any rows.


def test_rarefaction_is_the_mean_over_all_subsets() -> None:
    rows = mixed()[[1, 2, 3, 5]]
    exact = [np.mean([brute_entropy(row[list(some)]) for some in combinations(range(9), 4)]) for row in rows]
    np.testing.assert_allclose(theory.rarefied_entropy(rows, 4, draws=4000), exact, atol=0.03)
    np.testing.assert_allclose(theory.rarefied_entropy(rows, 9, draws=1), theory.row_entropy(rows))
    assert theory.rarefied_entropy(rows, 5)[2] != pytest.approx(exact[2], abs=0.03)
    masked = np.array([0.0, 0.0, 0.0, -np.inf, -np.inf])
    assert theory.rarefied_entropy(masked, 2) == pytest.approx(np.log(2)), "a key that is left out is never drawn"
    assert np.isnan(theory.rarefied_entropy(masked, 4)), "it has three keys"


def test_the_local_slope_leaves_each_key_out() -> None:
    rows = mixed()

    def slope(row: np.ndarray) -> float:
        row = row[np.isfinite(row)]
        return sum(brute_entropy(row) - brute_entropy(np.delete(row, place)) for place in range(len(row)))

    np.testing.assert_allclose(theory.local_slope(rows), [slope(row) for row in rows], atol=1e-10)
    assert theory.local_slope(drawn(0.0, 4096, 1)) == pytest.approx(1, abs=1e-3), "uniform attention"
    with np.errstate(invalid="ignore"):
        assert np.isnan(theory.local_slope([[0.0, -np.inf], [-np.inf, -np.inf]])).all(), "one key, and none"


def test_the_joint_slope_is_that_of_image_keys_that_multiply() -> None:
    image, text = drawn(1.0, 50, 1)[0], 2 + drawn(1.0, 10, 1, seed=1)[0]
    weight = softmax(np.r_[image, text])
    p = weight[:50].sum()
    means = (weight[:50] @ image / p, weight[50:] @ text / (1 - p))
    step = 1e-5  # image keys that count e^step times: log of their number is added to their logits

    def entropy(more: float) -> float:
        w = softmax(np.r_[image + more, text])
        return float(-(w * np.log(w)).sum() + w[:50].sum() * more)

    rise = (entropy(step) - entropy(-step)) / (2 * step)
    assert theory.joint_slope(p, *means) == pytest.approx(rise, abs=1e-8)
    assert theory.joint_slope(p, *means[::-1]) != pytest.approx(rise, abs=0.1)
    assert theory.joint_slope(1.0, 0.3, 0.0) == 1, "without text every key is the image's"


def test_what_the_papers_factor_removes_near_the_training_size() -> None:
    trained = 256
    rows = drawn(1.5, trained, 200)
    slope, step = 0.8, 1e-4  # of log N
    m = (1 + step / np.log(trained)) ** 0.5
    removed = theory.row_entropy(rows).mean() - theory.row_entropy(m * rows).mean()
    found = theory.fraction_removed(theory.sensitivity(rows).mean(), trained, slope)
    assert found == pytest.approx(removed / (slope * step), rel=1e-3)


@pytest.mark.parametrize("ratio", [0.25, 0.9, 4.0])
def test_the_multiplier_of_one_size_keeps_the_entropy(ratio: float) -> None:
    rows = drawn(2.0, 64, 60).reshape(3, 20, 64)
    m = theory.one_size_multiplier(rows, ratio)
    assert m.shape == (3,) and np.all((m < 1) == (ratio < 1))
    entropy = theory.row_entropy(rows * m[:, None, None]).mean(-1)
    slope = theory.local_slope(rows).mean(-1)
    np.testing.assert_allclose(entropy, theory.row_entropy(rows).mean(-1) - slope * np.log(ratio), atol=1e-9)
    if ratio == 4:
        assert np.all(theory.one_size_multiplier(rows, ratio, slope=0.1) < m), "a smaller slope needs less"
        assert np.isnan([theory.one_size_multiplier(rows, far) for far in (1e9, 1e-9)]).all(), "there is none"


# Which power of log N.


def power_of(rows: np.ndarray) -> float:
    means = [of(rows).mean() for of in (theory.row_entropy, theory.local_slope, theory.sensitivity)]
    return float(theory.log_power(*means, rows.shape[-1]))


def test_gaussian_rows_under_the_law_ask_for_the_papers_power() -> None:
    for sigma in (0.3, 1.0, 1.5):
        assert power_of(sigma * drawn(1.0, 4096, 200)) == pytest.approx(0.5, abs=0.03), sigma
    assert power_of(drawn(6.0, 256, 2000)) < 0.2, "frozen rows are past the law"


def test_the_power_keeps_entropy_over_log_n_when_keys_are_left_out() -> None:
    """Against brute force, of skewed rows: fewer keys, and the multiplier that then gives H / log N back."""
    rows = 0.8 * np.random.default_rng(0).gamma(2.0, size=(400, 256))
    fewer = np.concatenate([np.delete(rows, np.arange(first, 256, 16), -1) for first in range(16)])
    share = theory.row_entropy(rows).mean() / np.log(256)
    few = float(theory.multiplier_for(fewer, np.array(share * np.log(240))))
    brute = -np.log(few) / np.log(np.log(256) / np.log(240))
    assert power_of(rows) == pytest.approx(brute, abs=0.03)
    assert abs(brute - 0.5) > 0.1, "and it is not the paper's"
    few = float(theory.multiplier_for(fewer, np.array(theory.row_entropy(rows).mean())))
    level = theory.log_power(0.0, theory.local_slope(rows).mean(), theory.sensitivity(rows).mean(), 256)
    assert level == pytest.approx(-np.log(few) / np.log(np.log(256) / np.log(240)), rel=0.05)
    removed = theory.fraction_removed(theory.sensitivity(rows).mean(), 256, theory.local_slope(rows).mean())
    assert level == pytest.approx(0.5 / removed), "what the paper's power of 1/2 removes is half of its inverse"


def test_the_critical_power_tells_tails_apart() -> None:
    rng = np.random.default_rng(0)
    normal, exponential = rng.standard_normal((2, 1000, 256)), rng.exponential(size=(2, 1000, 256))
    np.testing.assert_allclose(theory.critical_power(normal), 0.8, atol=0.1)
    np.testing.assert_allclose(theory.critical_power(9 * normal - 4), theory.critical_power(normal), atol=1e-6)
    np.testing.assert_allclose(theory.critical_power(exponential), 0, atol=0.12)
    assert theory.critical_power(rng.uniform(size=(1000, 256))) > 3
    assert theory.critical_power(rng.standard_t(3, (1000, 256))) < -0.5
