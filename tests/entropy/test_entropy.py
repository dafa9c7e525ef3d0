"""Row statistics on special rows, in float64, their identities, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstat

from entropylab import EntropyLabError, row_statistics
from entropylab.entropy import STATISTICS, native

from ..seeds import tokens
from .kernel import BASIC, plain

BACKENDS = ("reference", "sdpa", "native") if native.compiler() else ("reference", "sdpa")


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_logits_give_log_n(backend):
    for count in (1, 2, 77, 256):
        found = row_statistics(torch.zeros(2, 3, 5, 8), tokens(2, 3, count, 8), backend=backend)
        torch.testing.assert_close(found.entropy, torch.full((2, 3, 5), math.log(count)), atol=2e-6, rtol=0)
        assert (found.variance == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_hot_rows_give_zero(backend):
    keys = torch.eye(16)[None] * 1e4
    found = row_statistics(torch.eye(16)[None], keys, scale=1.0, backend=backend)
    torch.testing.assert_close(found.entropy, torch.zeros(1, 16), atol=2e-3, rtol=0)


def test_reference_is_exact_on_one_hot_and_two_hot_rows():
    keys = torch.eye(16)[None] * 1e4
    assert (row_statistics(torch.eye(16)[None], keys, scale=1.0, backend="reference").entropy == 0).all()
    queries = (torch.eye(16) + torch.eye(16).roll(1, 0))[None]
    found = row_statistics(queries, keys, scale=1.0, backend="reference").entropy
    torch.testing.assert_close(found, torch.full((1, 16), math.log(2)))


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_float64(backend):
    q, k = tokens(2, 3, 63, 24, dtype=torch.float64) * 2, tokens(2, 1, 111, 24, seed=1, dtype=torch.float64)
    asked = STATISTICS if backend == "reference" else BASIC
    found, exact = row_statistics(q, k, statistics=asked, backend=backend), plain(q, k)
    for name in asked:
        torch.testing.assert_close(found[name], exact[name], atol=1e-12, rtol=1e-12)


def test_the_third_cumulant_is_that_of_scipy():
    q, k = tokens(2, 9, 16, dtype=torch.float64), tokens(2, 500, 16, seed=1, dtype=torch.float64) ** 3
    unbiased = torch.tensor(kstat((q @ k.mT / 4)[0, 0].numpy(), 3))
    found = row_statistics(q, k, statistics="third").third[0, 0]
    torch.testing.assert_close(found, unbiased, rtol=0.02, atol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 70), st.integers(1, 40), st.floats(0, 20), st.integers(0, 99))
def test_bounds_and_shift(queries, keys, width, sharpness, seed):
    q, k = tokens(1, queries, width, seed=seed) * sharpness, tokens(1, keys, width, seed=seed + 1)
    exact = row_statistics(q.double(), k.double()).entropy
    for backend in BACKENDS:
        found = row_statistics(q, k, backend=backend).entropy
        assert (found >= 0).all()
        assert (found <= math.log(keys) + 1e-5).all()
        shifted = row_statistics(q, k + tokens(1, 1, width, seed=7), backend=backend).entropy
        torch.testing.assert_close(shifted.double(), exact, atol=1e-4 * (1 + sharpness), rtol=0)


def test_small_chunks_give_the_same(monkeypatch):
    from entropylab.entropy import reference

    q, k, mask = tokens(2, 3, 37, 8), tokens(2, 3, 41, 8, seed=1), tokens(37, 41, seed=2) > -1
    whole = row_statistics(q, k, mask=mask, is_causal=True, statistics=STATISTICS, backend="reference")
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", 1000)
    parts = row_statistics(q, k, mask=mask, is_causal=True, statistics=STATISTICS, backend="reference")
    for name in STATISTICS:
        torch.testing.assert_close(whole[name], parts[name], atol=1e-6, rtol=1e-5, equal_nan=True)


Q, K = torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 6, 8)
BAD = [
    ((Q[0, 0], K[0, 0]), {}, "q must be a float tensor"),
    ((Q.int(), K), {}, "q must be a float tensor"),
    ((Q, "k"), {}, "k must be a float tensor"),
    ((Q, K[..., :7]), {}, "agree in leading dimensions"),
    ((Q, K.double()), {}, "agree in leading dimensions"),
    ((Q, K.to("meta")), {}, "must be on one device. Got cpu, meta"),
    ((Q, K[:, :, :0]), {}, "must not be empty"),
    ((torch.zeros(1, 3, 4, 8), K), {}, "multiple of those of k"),
    ((Q, K), {"mask": torch.ones(6, 4, dtype=torch.bool)}, r"mask must broadcast .* = \(1, 2, 4, 6\). Got \(6, 4\)"),
    ((Q, K), {"mask": torch.ones(4, 6, dtype=torch.int)}, "mask must be a boolean or float"),
    ((Q, K), {"statistics": ["entropi"]}, "statistics must be some of"),
    ((Q, K), {"statistics": []}, "statistics must be some of"),
    ((Q, K), {"backend": "cuda"}, "backend must be one of"),
    ((Q, K), {"scale": float("nan")}, "scale must be a finite"),
    ((Q, K), {"scale": "1"}, "scale must be a finite"),
    ((Q, K), {"backend": "sdpa", "statistics": ["third"]}, "backend 'sdpa' can't be used here: .*third"),
]


@pytest.mark.parametrize(("args", "options", "message"), BAD)
def test_bad_input(args, options, message):
    with pytest.raises(EntropyLabError, match=message):
        row_statistics(*args, **options)


def test_asking_for_what_was_not_computed():
    with pytest.raises(EntropyLabError, match="'third' was not computed"):
        row_statistics(Q, K)["third"]
