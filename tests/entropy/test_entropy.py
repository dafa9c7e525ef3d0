"""Row statistics against float64 softmax, their exact values on special rows, and their identities."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entropylab import EntropyLabError, row_statistics
from entropylab.entropy import STATISTICS, native

from ..maps import entropy_of
from ..seeds import tokens

BACKENDS = ("reference", "sdpa", "native") if native.compiler() else ("reference", "sdpa")
BASIC = ("entropy", "lse", "mean", "variance")


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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("queries", "keys", "width"), [(63, 111, 24), (1, 7, 8), (256, 256, 40), (5, 300, 160)])
def test_against_float64_softmax(backend, dtype, queries, keys, width):
    if backend == "native" and dtype == torch.float64:
        pytest.skip("float64 is the reference's")
    q, k = tokens(2, 3, queries, width, dtype=dtype) * 2, tokens(2, 3, keys, width, seed=1, dtype=dtype)
    logits = q.double() @ k.double().transpose(-1, -2) / width**0.5
    found = row_statistics(q, k, backend=backend)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    assert found.entropy.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for value, expected in (
        (found.entropy, entropy_of(logits)),
        (found.lse, logits.logsumexp(-1)),
        (found.mean, logits.mean(-1)),
        (found.variance, logits.var(-1, unbiased=False)),
    ):
        torch.testing.assert_close(value.double(), expected, atol=tolerance, rtol=tolerance)


def test_tolerance_would_notice_a_wrong_scale():
    q, k = tokens(1, 2, 32, 16) * 2, tokens(1, 2, 64, 16, seed=1)
    right, wrong = row_statistics(q, k).entropy, row_statistics(q, k, scale=1.01 * 16**-0.5).entropy
    assert (right - wrong).abs().max() > 1e-3


def test_cumulants_and_sensitivity_against_scipy():
    from scipy.stats import kstat

    q, k = tokens(2, 9, 16, dtype=torch.float64), tokens(2, 500, 16, seed=1, dtype=torch.float64) ** 3
    found = row_statistics(q, k, statistics=STATISTICS)
    logits = q @ k.transpose(-1, -2) / 4
    centred = logits - logits.mean(-1, keepdim=True)
    fourth = (centred**4).mean(-1) - 3 * (centred**2).mean(-1) ** 2
    torch.testing.assert_close(found.third, (centred**3).mean(-1))
    torch.testing.assert_close(found.fourth, fourth)
    unbiased = torch.tensor(kstat(logits[0, 0].numpy(), 3))
    torch.testing.assert_close(found.third[0, 0], unbiased, rtol=0.02, atol=0)
    weights = logits.softmax(-1)
    expected = (weights * logits**2).sum(-1) - (weights * logits).sum(-1) ** 2
    torch.testing.assert_close(found.sensitivity, expected)


def test_sensitivity_is_the_slope_of_entropy_in_log_scale():
    q, k = tokens(2, 9, 16, dtype=torch.float64), tokens(2, 50, 16, seed=1, dtype=torch.float64)
    step = 1e-5
    up, down = (row_statistics(q, k, scale=0.25 * math.exp(sign * step)).entropy for sign in (1, -1))
    found = row_statistics(q, k, scale=0.25, statistics=["sensitivity"]).sensitivity
    torch.testing.assert_close((up - down) / (2 * step), -found, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(50,), (1, 50), (2, 1, 1, 50), (2, 3, 1, 50), (20, 50), (2, 3, 20, 50)])
def test_masked_keys_do_not_count(backend, shape):
    q, k = tokens(2, 3, 20, 16) * 3, tokens(2, 3, 50, 16, seed=1)
    allowed = tokens(*shape, seed=2) > 0
    additive = torch.zeros(shape).masked_fill(~allowed, -torch.inf)
    logits = q.double() @ k.double().transpose(-1, -2) / 4 + additive
    for mask in (allowed, additive, additive.clamp(min=-10000), additive.clamp(min=torch.finfo(torch.float32).min)):
        found = row_statistics(q, k, mask=mask, statistics=["entropy", "lse"], backend=backend)
        torch.testing.assert_close(found.entropy.double(), entropy_of(logits), atol=2e-5, rtol=0)
        assert (found.keys == allowed.expand(2, 3, 20, 50).sum(-1)).all()
    found = row_statistics(q, k, mask=allowed, statistics=["mean", "variance"])
    counted = allowed.expand(2, 3, 20, 50)
    mean = (logits.masked_fill(~counted, 0)).sum(-1) / counted.sum(-1)
    torch.testing.assert_close(found.mean.double(), mean, atol=2e-5, rtol=0)
    second = ((logits - mean[..., None]).masked_fill(~counted, 0) ** 2).sum(-1) / counted.sum(-1)
    torch.testing.assert_close(found.variance.double(), second, atol=5e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_without_keys_are_nan_and_others_are_not(backend):
    q, k = tokens(2, 3, 4, 8), tokens(2, 3, 6, 8, seed=1)
    mask = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    mask[0] = False
    found = row_statistics(q, k, mask=mask, backend=backend)
    for name in BASIC:
        assert found[name][0].isnan().all()
        assert found[name][1].isfinite().all()
    assert (found.keys[0] == 0).all()


def test_additive_bias_is_part_of_the_logits():
    q, k, bias = tokens(2, 3, 20, 16), tokens(2, 3, 50, 16, seed=1), tokens(3, 20, 50, seed=2)
    logits = q.double() @ k.double().transpose(-1, -2) / 4 + bias
    found = row_statistics(q, k, mask=bias)
    torch.testing.assert_close(found.entropy.double(), entropy_of(logits), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.variance.double(), logits.var(-1, unbiased=False), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("keys", [30, 20, 40])
def test_causal(backend, keys):
    q, k = tokens(2, 3, 30, 16) * 2, tokens(2, 3, keys, 16, seed=1)
    logits = q.double() @ k.double().transpose(-1, -2) / 4
    logits = logits.masked_fill(torch.ones(30, keys).triu(1).bool(), -torch.inf)
    found = row_statistics(q, k, is_causal=True, statistics=["entropy", "lse"], backend=backend)
    torch.testing.assert_close(found.entropy.double(), entropy_of(logits), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.lse.double(), logits.logsumexp(-1), atol=1e-5, rtol=0)


def test_fewer_key_heads_than_query_heads():
    q, k = tokens(2, 6, 10, 8), tokens(2, 2, 12, 8, seed=1)
    shared = row_statistics(q, k).entropy
    spelled_out = row_statistics(q, k[:, [0, 0, 0, 1, 1, 1]]).entropy
    assert torch.equal(shared, spelled_out)
    assert not torch.equal(shared, row_statistics(q, k[:, [0, 1, 0, 1, 0, 1]]).entropy)


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides(backend):
    q, k = tokens(2, 3, 10, 8), tokens(2, 3, 12, 8, seed=1)
    expected = row_statistics(q, k, backend=backend).entropy
    for order in ((0, 2, 1, 3), (0, 1, 3, 2), (3, 1, 0, 2)):
        back = [order.index(dimension) for dimension in range(4)]
        strided = (t.permute(order).contiguous().permute(back) for t in (q, k))
        found = row_statistics(*strided, backend=backend).entropy
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


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
