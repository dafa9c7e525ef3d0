"""The entropy of Gaussian rows, the local slope and rarefaction, against float64 brute force."""

import math

import numpy as np
import pytest
import torch

from entropylab import EntropyLabError, gaussian, row_statistics
from entropylab.entropy import BEYOND, native
from entropylab.entropy.beyond import beyond, gaussian_entropy
from entropylab.entropy.choice import answer
from entropylab.entropy.rows import Rows
from entropylab.law import theory

from ..maps import entropy_of
from ..seeds import tokens
from .kernel import plain

WITH_COMPILER = pytest.mark.skipif(native.compiler() is None, reason="no C compiler on this machine")


def closed_to(queries: int, keys: int) -> dict[str, torch.Tensor]:
    """Masks of every sort: what all rows lack, what each lacks, added, and none left to one row."""
    generator = torch.Generator().manual_seed(0)
    own = torch.rand(2, 3, queries, keys, generator=generator) < 0.6
    own[..., :5] = True
    added = torch.randn(queries, keys, generator=generator)
    added[:, 3] = -1e4
    empty = own.clone()
    empty[0, 0, 4] = False
    return {"padding": own[0, 0, 0], "rows": own, "added": added, "empty": empty}


def logits_of(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None, is_causal: bool = False) -> np.ndarray:
    wide = mask if mask is None or mask.dtype == torch.bool else mask.double()
    return plain(q.double(), k.double(), mask=wide, is_causal=is_causal)["logits"].numpy()


def brute_slope(row: np.ndarray, grows: np.ndarray | None = None) -> float:
    """The sum over keys of H less H without the key."""
    open_ = np.flatnonzero(np.isfinite(row))
    if len(open_) < 2:
        return np.nan
    some = [key for key in open_ if grows is None or grows[key]]
    without = [float(theory.row_entropy(row[open_[open_ != key]])) for key in some]
    fallen = float(theory.row_entropy(row[open_])) - np.array(without)
    return fallen.sum() * (1 if grows is None else len(open_) / len(some))


@pytest.mark.parametrize("mask", [None, "padding", "rows", "added", "empty", "causal"])
def test_slope_is_what_leaving_out_each_key_says(mask):
    q, k = tokens(2, 3, 40, 16), tokens(2, 3, 40, 16, seed=1)
    q[:, 1:] *= 6
    own, causal = closed_to(40, 40).get(mask), mask == "causal"
    found = row_statistics(q, k, mask=own, is_causal=causal, statistics=["slope"]).slope
    logits = logits_of(q, k, own, causal)
    exact = np.apply_along_axis(brute_slope, -1, logits)
    np.testing.assert_allclose(found, exact, atol=2e-5)
    assert np.isnan(exact).sum() == {"causal": 6, "empty": 1}.get(mask, 0)
    if mask == "rows":
        whole = row_statistics(q, k, statistics=["slope"]).slope
        assert (whole - torch.from_numpy(exact)).abs().max() > 0.05, "the mask matters"


def test_slope_of_rows_that_one_key_carries():
    others = torch.linspace(-2, 0, 63)
    for top in (8.0, 20.0, 60.0):  # weights of 1 - 1e-2, 1 - 1e-7, and 1 within float64
        row = torch.cat([torch.tensor([top]), others])
        found = row_statistics(torch.ones(1, 1, 1), row.reshape(1, 64, 1), scale=1.0, statistics=["slope"]).slope
        assert found.item() == pytest.approx(brute_slope(row.double().numpy()), abs=2e-5)
    assert found.item() < -3.9, "without its one key, the row would be wide"
    uniform = row_statistics(torch.zeros(1, 3, 8), tokens(1, 4096, 8), statistics=["slope"]).slope
    np.testing.assert_allclose(uniform, 4096 * (math.log(4096) - math.log(4095)), atol=1e-4)


@pytest.mark.parametrize("left", [(64,), (44, 64)])
def test_rarefied_is_the_mean_over_random_subsets(left):
    """Of rows that have all 64 keys, and of rows of which each lacks others."""
    q, k = tokens(2, 3, 200, 8) * 2, tokens(2, 3, 64, 8, seed=1)
    number = torch.tensor(left).repeat(200 // len(left))[:, None]
    mask = torch.rand(2, 3, 200, 64, generator=torch.Generator().manual_seed(0)).argsort(-1) < number
    found = row_statistics(q, k, mask=mask if len(left) > 1 else None, statistics=["rarefied"]).rarefied.double()
    logits = logits_of(q, k, mask)
    for place, parts in enumerate((2, 4, 8, 16)):
        for index, size in enumerate(left):
            rows, (low, rest) = logits[:, :, index :: len(left)], divmod(size, parts)
            exact = theory.rarefied_entropy(rows, low) * (parts - rest) / parts
            exact += theory.rarefied_entropy(rows, low + 1) * rest / parts
            off = found[:, :, index :: len(left), place].numpy() - exact
            assert abs(off.mean()) < 0.02, (parts, size)
            assert abs((theory.row_entropy(rows) - exact).mean()) > 0.2, "fewer keys matter"


def test_rarefied_where_it_is_known_exactly():
    uniform = row_statistics(torch.zeros(1, 2, 8), tokens(1, 20, 8), statistics=["rarefied"]).rarefied
    expected = [math.log(10), math.log(5), math.log(6) / 2, math.log(2) / 4]  # 20/8 is 2 or 3 keys, 20/16 is 1 or 2
    np.testing.assert_allclose(uniform[0, 0], expected, atol=1e-6)
    row = torch.zeros(64)
    row[7] = 60
    carried = row_statistics(torch.ones(1, 1, 1), row.reshape(1, 64, 1), scale=1.0, statistics=["rarefied"]).rarefied
    exact = [(1 - 1 / parts) * math.log(64 / parts) for parts in (2, 4, 8, 16)]
    np.testing.assert_allclose(carried[0, 0], exact, atol=1e-6)
    few = row_statistics(torch.zeros(1, 1, 8), tokens(1, 5, 8), statistics=["rarefied"]).rarefied
    assert few.isnan().tolist() == [[[False, False, True, True]]]


def test_gaussian_is_the_entropy_of_gaussian_rows_of_that_variance():
    generator = np.random.default_rng(0)
    for number, sigma in [(3, 1.0), (4, 2.0), (16, 9.0), (256, 3.0), (1000, 0.5)]:
        draws = generator.standard_normal((2**20 // number, number))
        draws = (draws - draws.mean(-1, keepdims=True)) / draws.std(-1, keepdims=True)
        simulated = theory.row_entropy(sigma * draws)
        found, spread = map(float, gaussian_entropy(torch.tensor([sigma**2]), torch.tensor([number])))
        assert abs(found - simulated.mean()) < 0.004 + 4 * simulated.std() / len(simulated) ** 0.5, (number, sigma)
        assert found == pytest.approx(float(gaussian.entropy_given_variance(sigma**2, number)), abs=1e-5)
        assert spread == pytest.approx(simulated.std(), rel=0.06), (number, sigma)
        assert spread == pytest.approx(float(gaussian.spread_given_variance(sigma**2, number)), rel=1e-4)
    for number, sigma in [(300, 2.0), (4096, 3.3), (70_000, 5.0), (10**6, 12.0)]:
        found = float(gaussian.entropy_given_variance(sigma**2, number))
        drawn = float(theory.gaussian_entropy(sigma, number))
        assert found == pytest.approx(drawn, abs=0.01 if number == 300 else 0.002), (number, sigma)
    variances, numbers = [0.0, 0.0, 1e8, 3.0, np.nan], [7, 1, 16, 1, 9]
    ends, spreads = gaussian_entropy(torch.tensor(variances), torch.tensor(numbers))
    np.testing.assert_allclose(ends, [math.log(7), 0, 0, 0, np.nan], atol=1e-3)
    np.testing.assert_allclose(spreads, [0, 0, 0.0110, 0, np.nan], atol=1e-3)
    for numpys, torchs in ((gaussian.entropy_given_variance, ends), (gaussian.spread_given_variance, spreads)):
        np.testing.assert_allclose(numpys(variances, numbers), torchs, atol=1e-5)
    assert all(each.isnan() for each in gaussian_entropy(torch.tensor([1.0]), torch.tensor([0])))
    assert np.isnan(gaussian.spread_given_variance(1.0, 0))


def rows_of_logits(logits: np.ndarray) -> dict[str, torch.Tensor]:
    """Queries and keys whose logits are these (rows, keys), each row a head of its own."""
    return {"q": torch.ones(len(logits), 1, 1), "k": torch.from_numpy(logits).float()[..., None], "scale": 1.0}


def share_unexplained(logits: np.ndarray, **options) -> float:
    return float(row_statistics(**rows_of_logits(logits), statistics=["gaussian"], **options).unexplained.mean())


@pytest.mark.parametrize("number", [6, 64, 1000])
def test_about_one_in_twenty_gaussian_rows_is_unexplained_and_nearly_all_bimodal_ones_are(number):
    generator = np.random.default_rng(1)
    normal = generator.standard_normal((2000, number))
    for sigma in (0.5, 1.0, 2.0):  # at larger sigma entropies are no longer normal, and fewer or more are so far away
        assert 0.015 < share_unexplained(sigma * normal) < 0.065, sigma
    for sigma in (5.0, 20.0, 200.0):
        assert share_unexplained(sigma * normal) < 0.1, sigma
    two = generator.choice([-1, 1], (2000, number)) + 0.1 * normal
    assert number == 6 or share_unexplained(4 * two) > 0.95, "of six logits little can be told"
    assert share_unexplained(1e-4 * two) == 0, "of nearly uniform rows no difference counts"


@pytest.mark.parametrize("backend", [pytest.param("native", marks=WITH_COMPILER), "sdpa", "reference"])
def test_gaussian_and_unexplained_are_of_each_rows_own_variance_and_keys(backend, monkeypatch):
    """By their definition in float64; a few rows lie so near to two spreads that rounding decides."""
    q, k = tokens(2, 3, 200, 16) * 2, tokens(2, 3, 40, 16, seed=1) + torch.tensor([[3.0], [-3.0]]).repeat(20, 1)
    monkeypatch.setitem(beyond.__globals__, "answer", lambda rows: answer(rows, backend))
    masks = {None: None, **closed_to(200, 40)}
    for name in [None, "padding"] if backend == "sdpa" else masks:
        found = row_statistics(q, k, mask=masks[name], statistics=["gaussian"])
        logits = logits_of(q, k, masks[name])
        empty = ~np.isfinite(logits).any(-1)
        assert (found.unexplained.isnan().numpy() == empty).all() and empty.sum() == (name == "empty")
        logits, unexplained, expected = (each[~empty] for each in (logits, found.unexplained, found.gaussian))
        given = np.nanvar(np.where(np.isfinite(logits), logits, np.nan), -1), np.isfinite(logits).sum(-1)
        exact = gaussian.entropy_given_variance(*given)
        np.testing.assert_allclose(expected, exact, atol=1e-4)
        assert abs(gaussian.entropy_given_variance(given[0].mean(), 40) - exact).max() > 0.1
        far = abs(theory.row_entropy(logits) - exact) > 2 * gaussian.spread_given_variance(*given)
        assert (unexplained.numpy() != far).mean() < 0.005 and 0.1 < far.mean() < 0.9, name


def test_rows_that_have_but_one_entropy_are_explained():
    """Of one key, of two, of equal ones, and of one that carries all."""
    generator, sharp = np.random.default_rng(0), np.zeros((5, 64))
    for logits in (generator.standard_normal((50, 1)), 3 * generator.standard_normal((500, 2)), sharp):
        assert share_unexplained(logits) == 0
    sharp[:, 3] = 1000.0
    assert share_unexplained(sharp) == 0, "the largest of Gaussian logits of such a variance has all weight as well"
    sharp[:, 3] = 5.0
    assert share_unexplained(sharp) == 1


def test_where_only_the_image_grows():
    """The other keys stay: none of them is left out, and each part of the image has all of them beside it."""
    q, k = tokens(1, 1, 30, 8) * 3, tokens(1, 1, 24, 8, seed=1)
    grows = torch.arange(24)[None] < 16
    rows = Rows(q, k, 8**-0.5, None, False, ())
    found, free = beyond(rows, BEYOND, grows), beyond(rows, BEYOND)
    logits = logits_of(q, k, None)
    exact = [brute_slope(row, grows[0].numpy()) for row in logits[0, 0]]
    np.testing.assert_allclose(found["slope"][0, 0], exact, atol=1e-5)
    assert (found["slope"] - free["slope"]).abs().max() > 0.1
    single = [entropy_of(torch.from_numpy(logits[..., [key, *range(16, 24)]])) for key in range(16)]
    np.testing.assert_allclose(found["rarefied"][..., 3], sum(single) / 16, atol=1e-5)
    torch.testing.assert_close(found["gaussian"], free["gaussian"])


def test_they_stand_beside_the_others():
    q, k = tokens(2, 50, 8), tokens(2, 50, 8, seed=1)
    found = row_statistics(q, k, statistics=["entropy", *BEYOND])
    assert found.names() == ("keys", "entropy", "gaussian", "unexplained", "slope", "rarefied")
    assert found.rarefied.shape == (2, 50, 4)
    torch.testing.assert_close(found.entropy, row_statistics(q, k).entropy)
    single = row_statistics(q, k[:, :1], statistics=BEYOND)
    assert (single.gaussian == 0).all() and (single.unexplained == 0).all()
    assert single.slope.isnan().all() and single.rarefied.isnan().all()
    with pytest.raises(EntropyLabError, match="gaussian, slope, rarefied"):
        row_statistics(q, k, statistics=["rarefaction"])
