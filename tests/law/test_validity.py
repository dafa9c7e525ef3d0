"""Where the law holds: thresholds against simulation, the smallest N, and the law of finite N."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from entropylab import EntropyLabError, check, simulate_dataset
from entropylab.law.validity import (
    THRESHOLDS,
    TOLERANCE,
    Thresholds,
    crossing,
    finite_entropy,
    finite_term,
    gaussian_crossings,
    row_entropy,
    simulated_thresholds,
    smallest_tokens,
)

from ..datasets import SMALL, synthetic


@pytest.fixture(scope="module")
def thresholds() -> Thresholds:
    return simulated_thresholds(seed=2)


@pytest.mark.parametrize("name", ["skewed", "small_n", "near_freezing"])
def test_thresholds_come_from_simulation(thresholds: Thresholds, name: str) -> None:
    found = getattr(thresholds, name)
    assert 0.7 * found <= getattr(THRESHOLDS, name) <= found


def test_what_is_not_flagged_is_within_the_tolerance_and_what_is_off_is_flagged() -> None:
    off = {True: [], False: []}
    for distribution in ("gaussian", "skewed", "clustered", "positional", "low_rank"):
        ds = simulate_dataset((64, 512), sigma=(0.3, 0.7, 1.0, 1.5, 2.5), distribution=distribution, **SMALL)
        found = check(ds.mean("head", keep_attrs=True))
        flags = (found.flags != "").values.ravel()
        for value, flag in zip(found["law_residual"].values.ravel(), flags, strict=True):
            off[bool(flag)].append(abs(value))
    assert len(off[False]) > 10
    assert max(off[False]) <= 1.2 * TOLERANCE
    assert np.mean(np.array(off[True]) > TOLERANCE) > 0.5, "and the flags are not up everywhere"


def test_flags_in_words() -> None:
    ds = simulate_dataset((16, 4096), sigma=(0.3, 3.0), **SMALL)
    flags = check(ds.mean("head", keep_attrs=True)).flags
    assert flags.sel(layer="sigma 0.3", size="64x64").item() == ""
    assert "near freezing" in flags.sel(layer="sigma 3", size="4x4").item()
    assert not flags.sel(layer="sigma 3", size="4x4").item().startswith(",")
    assert check(ds)["near_freezing"].dtype == bool


def bent(bend: float = 4.0, offset: float = 0.0) -> xr.Dataset:
    """H = log N - sigma2/2 + offset + bend/N in every self-attention layer and head."""
    ds = synthetic(samples=2, steps=1)
    return ds.assign(entropy=ds["entropy"] + offset + bend / ds["tokens"])


def test_the_smallest_n_is_where_the_bend_says() -> None:
    rows = check(bent(4.0)).smallest(0.1)
    sizes = np.array([16, 36, 64, 144, 256, 96, 128]) * 4
    for row, shrink in zip(rows.itertuples(), (1, 2, 4, 2, 1), strict=True):
        own = np.sort(sizes / shrink**2)
        assert row.tokens_law == own[4.0 / own <= 0.1][0]
        assert row.tokens_level == own[4.0 / own - 4.0 / own[-1] <= 0.1][0]
        assert (row.tokens_min, row.tokens_max) == (own[0], own[-1])
        assert row.off_at_largest == pytest.approx(4 / own[-1], abs=1e-5)
    wider = check(bent(4.0)).smallest(0.5)
    assert (wider["tokens_law"].fillna(1e9) <= rows["tokens_law"].fillna(1e9)).all()


def test_a_law_that_is_off_at_every_n_has_no_smallest_and_its_deficit_still_has() -> None:
    rows = check(bent(0.0, offset=0.3)).smallest(0.1)
    assert rows["tokens_law"].isna().all()
    assert (rows["size_law"] == "").all()
    assert (rows["tokens_level"] == rows["tokens_min"]).all()
    steep = check(synthetic(slope=0.3)).smallest(0.05)
    assert steep["tokens_level"].isna().all(), "the largest size alone says nothing"
    with pytest.raises(EntropyLabError, match="tolerance must be a positive number .* Got 0"):
        check(bent()).smallest(0)


def test_gaussian_keys_need_as_many_as_simulation_says() -> None:
    rng = np.random.default_rng(0)
    for sigma2 in (0.5, 1.0, 1.5):
        tokens = int(smallest_tokens(sigma2, 0.03))
        draws = np.sqrt(sigma2) * rng.standard_normal((2**20 // tokens, tokens))
        off = row_entropy(draws).mean() - np.log(tokens) + sigma2 / 2
        # Past the expansion's first term entropy rises less, so that a few keys fewer would do.
        assert 0.015 < off < 0.031
        assert row_entropy(draws[:, : tokens // 4]).mean() - np.log(tokens // 4) + sigma2 / 2 > 1.5 * off


@settings(max_examples=50, deadline=None)
@given(sigma2=st.floats(0.01, 20), tolerance=st.floats(0.001, 2))
def test_smallest_tokens_is_the_finite_term_turned_round(sigma2: float, tolerance: float) -> None:
    tokens = float(smallest_tokens(sigma2, tolerance))
    assert finite_term(sigma2, tokens) <= tolerance * (1 + 1e-9)
    assert tokens <= 1 or finite_term(sigma2, tokens - 1) > tolerance * (1 - 1e-9)


@settings(max_examples=50, deadline=None)
@given(sigma2=st.floats(0, 3), tokens=st.integers(64, 10**6))
def test_the_finite_law(sigma2: float, tokens: int) -> None:
    value = float(finite_entropy(sigma2, tokens))
    law = np.log(tokens) - sigma2 / 2
    assert value >= law - sigma2 / tokens
    assert value - law == pytest.approx(float(finite_term(sigma2, tokens)), rel=0.3, abs=0.02)
    assert finite_term(0.0, tokens) == 0


def test_the_finite_law_has_an_end() -> None:
    assert np.isnan(finite_entropy(8.0, 1000))
    assert np.isnan(finite_entropy(0.0, 1))
    assert np.isinf(finite_term(1e4, 10))


def test_crossings() -> None:
    where = np.array([0.0, 1.0, 2.0])
    assert crossing(where, np.array([0.0, 0.05, 0.15])) == pytest.approx(1.5)
    assert crossing(where, np.array([0.0, 0.05, -0.15])) == pytest.approx(1.5)
    assert crossing(where, np.zeros(3)) == np.inf
    assert crossing(where, np.array([0.0, np.nan, 0.0])) == 0.0
    term, ratio = gaussian_crossings(np.random.default_rng(0), 64)
    assert 0.1 < term < 0.3
    assert 0.2 < ratio < 0.3
