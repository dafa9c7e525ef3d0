"""Every backend against a float64 softmax, the fused kernel interpreted on a CPU; and what is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entropylab import EntropyLabError, row_statistics
from entropylab.entropy import STATISTICS, native, reference
from entropylab.entropy import triton as backend

from ..seeds import tokens
from .kernel import BASIC, BRAIN, HALF, SHAPES, SINGLE, check_rule, computed, plain


@pytest.fixture
def ask_fused(interpreter, poisoned):
    """Statistics by the fused kernel, where the one in C is tested elsewhere or promises less."""

    def ask(q, k, statistics=STATISTICS, **options):
        return row_statistics(q, k, statistics=statistics, backend="triton", **options)

    return ask


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_statistic_keeps_the_rule(ask, shape):
    dtype, queries, keys, width, heads, key_heads = shape
    q, k = tokens(2, heads, queries, width, dtype=dtype) * 2, tokens(2, key_heads, keys, width, seed=1, dtype=dtype)
    for statistics in (STATISTICS, BASIC):
        check_rule(ask(q, k, statistics), q, k)
    check_rule(ask(q[:, :, :70], k, is_causal=True), q[:, :, :70], k, is_causal=True)


@pytest.mark.parametrize("broken", ["scale", "last key", "group", "causal", "mask"])
def test_the_rule_notices(ask, broken):
    q, k = tokens(1, 4, 40, 40, dtype=HALF) * 2, tokens(1, 2, 111, 40, seed=1, dtype=HALF)
    mask = torch.arange(111) != 5
    options = {"mask": mask, "is_causal": broken == "causal"}
    asked = {
        "scale": lambda: ask(q, k, scale=1.0005 * 40**-0.5, **options),
        "last key": lambda: ask(q, k[:, :, :-1], mask=mask[:-1]),
        "group": lambda: ask(q[:, [0, 2, 1, 3]], k, **options),
        "causal": lambda: ask(q, k, mask=mask & (torch.arange(111) < torch.arange(40)[:, None])),
        "mask": lambda: ask(q, k, mask=mask.roll(1)),
    }[broken]
    check_rule(ask(q, k, **options), q, k, **options)
    with pytest.raises(AssertionError):
        check_rule(asked(), q, k, **options)


MASKS = [(shape, torch.bool) for shape in ((50,), (2, 2, 1, 50), (2, 2, 70, 50), (70, 1), ())]
MASKS += [((70, 50), SINGLE), ((2, 1, 1, 50), HALF), ((70, 50), BRAIN), ((2, 1, 1), torch.float64)]


@pytest.mark.parametrize(("shape", "kind"), MASKS)
def test_masks(ask, shape, kind):
    q, k = tokens(2, 2, 70, 16, dtype=HALF) * 3, tokens(2, 1, 50, 16, seed=1, dtype=HALF)
    allowed = tokens(*shape, seed=2) > -0.5
    mask = allowed
    if kind != torch.bool:
        out = torch.tensor([-torch.inf, -10000.0, -20000.0, max(torch.finfo(kind).min, -3e38)], dtype=kind)
        bias = tokens(*shape, seed=3, dtype=kind) * (kind != HALF)  # of zeros alone sdpa takes it too
        out = out[torch.arange(bias.numel()).reshape(shape) % 4]
        mask = torch.where(allowed, bias, out)
    for is_causal in (False, True):
        check_rule(ask(q, k, mask=mask, is_causal=is_causal), q, k, mask=mask, is_causal=is_causal)


def test_a_mask_of_minus_10000_in_bfloat16_leaves_out(ask):
    q, k = torch.zeros(1, 4, 8), tokens(1, 10, 8)
    mask = torch.full((10,), -10000.0, dtype=BRAIN).masked_fill(torch.arange(10) < 5, 0)
    assert (mask[9] == -9984) & (ask(q, k, mask=mask).keys == 5).all()
    kept = mask.float().masked_fill(mask < 0, -9984)
    assert (ask(q, k, mask=kept).keys == 10).all()


@pytest.mark.parametrize("keys", [torch.eye(100) * 1e4, -torch.eye(100) * 1e4, torch.ones(100, 100) * 1e4])
def test_adversarial_logits(ask_fused, keys):
    two_hot = torch.eye(100) + torch.eye(100).roll(1, 0)
    for q in (torch.eye(100)[None], two_hot[None]):
        found = ask_fused(q, keys[None], scale=1.0)
        check_rule(found, q, keys[None], scale=1.0)
        assert (found.entropy >= 0).all()


def test_exact_rows(ask, request):
    """One-hot rows give 0, two-hot ones log 2, equal logits log N; the identity of "sdpa" within rounding."""
    one_hot, two_hot = torch.eye(16)[None], (torch.eye(16) + torch.eye(16).roll(1, 0))[None]
    off = {"sdpa": 2e-3, "native": 1e-6}.get(request.node.callspec.params["ask"], 0)
    assert (ask(one_hot, one_hot * 1e4, scale=1.0).entropy <= off).all()
    torch.testing.assert_close(
        ask(two_hot, one_hot * 1e4, scale=1.0).entropy, torch.full((1, 16), math.log(2)), rtol=0, atol=off + 1e-6
    )
    for count in (1, 77, 256):
        found = ask(torch.zeros(1, 2, 5, 8), tokens(1, 2, count, 8))
        torch.testing.assert_close(found.entropy, torch.full((1, 2, 5), math.log(count)), atol=2e-6, rtol=0)
        assert (found.variance == 0).all() and (found.sensitivity is None or (found.sensitivity == 0).all())


def test_very_sharp_rows(ask_fused):
    sharp = tokens(1, 2, 40, 16) * 100, tokens(1, 2, 111, 16, seed=1) * 300
    check_rule(ask_fused(*sharp), *sharp)


def test_rows_without_keys_are_nan(ask):
    q, k = tokens(2, 3, 40, 8), tokens(2, 3, 60, 8, seed=1)
    mask = torch.ones(2, 1, 40, 60, dtype=torch.bool)
    mask[0, :, ::3] = False
    mask[1, :, :, :50] = False  # a first tile with no key
    found = ask(q, k, mask=mask)
    check_rule(found, q, k, mask=mask)
    assert found.entropy[0, :, ::3].isnan().all() and (found.keys[0, :, ::3] == 0).all()
    assert found.entropy[1].isfinite().all()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_scale_of_zero(ask):
    found = ask(tokens(1, 20, 8), tokens(1, 60, 8, seed=1), scale=np.float32(0), mask=torch.arange(60) < 30)
    torch.testing.assert_close(found.entropy, torch.full((1, 20), math.log(30)))


def test_many_tiles_lose_no_digits(ask):
    q, k = tokens(1, 4, 16) * 2, tokens(1, 8192, 16, seed=1)
    check_rule(ask(q, k), q, k)


def test_half_precision_rows_about_the_mean_key(ask_fused, monkeypatch):
    q, k = tokens(2, 2, 70, 40, dtype=HALF) * 2, tokens(2, 1, 200, 40, seed=1, dtype=HALF) + 1
    merged = ask_fused(q, k, BASIC)
    monkeypatch.setattr(backend, "KEYS_WORTH_A_MEAN", 100)
    found = ask_fused(q, k, BASIC)
    check_rule(found, q, k)
    assert torch.equal(found.entropy, merged.entropy)
    assert not torch.equal(found.variance, merged.variance)  # another road
    for options in ({"mask": torch.arange(200) < 150}, {"is_causal": True}):
        check_rule(ask_fused(q, k, BASIC, **options), q, k, **options)


def permuted(*order):
    back = [order.index(dimension) for dimension in range(4)]
    return lambda q, k: (side.permute(order).contiguous().permute(back) for side in (q, k))


VIEWS = {
    "tokens first": permuted(0, 2, 1, 3),
    "dimensions first": permuted(3, 1, 0, 2),
    "part of a fused projection": lambda q, k: torch.cat([q, k], -1).chunk(2, -1),
    "every other token": lambda q, k: (q[:, :, ::2], k[:, :, 1::2]),
    "keys shared by all": lambda q, k: (q, k[:1, :1].expand(2, 2, -1, -1)),
    "leading dimensions": lambda q, k: (q.transpose(0, 1)[:, :, None, None], k.transpose(0, 1)[:, :, None, None]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_strided_inputs(ask, monkeypatch, name):
    """Read where they are by the fused kernel, but for more leading dimensions than it knows."""
    q, k = VIEWS[name](tokens(2, 2, 30, 24), tokens(2, 2, 30, 24, seed=1))
    mask = tokens(2, 1, *q.shape[-2:-1], k.shape[-2], seed=2).expand(2, 2, -1, -1)[..., ::1] > -1
    mask = mask.transpose(0, 1)[:, :, None, None] if q.ndim > 4 else mask
    seen = []
    monkeypatch.setattr(backend, "launch", lambda *args, real=backend.launch: (seen.append(args[0]), real(*args)))
    found = ask(q, k, mask=mask)
    for rows in seen if q.ndim == 4 else ():
        assert (rows.q.data_ptr(), rows.own_k.data_ptr()) == (q.data_ptr(), k.data_ptr())
    assert all(found[statistic].is_contiguous() for statistic in computed(found))
    check_rule(found, q, k, mask=mask)


def test_offsets_beyond_32_bits(ask_fused, monkeypatch):
    from triton.runtime.interpreter import GridExecutor

    monkeypatch.setattr(GridExecutor, "_restore_args_dev", lambda *args: None)  # it copies host memory onto itself
    far = torch.empty(2**32 + 2**16, dtype=torch.uint8)  # virtual memory: only what is touched exists
    q, k = tokens(1, 20, 16), tokens(1, 60, 16, seed=1)
    for stride in (2**32 // 19, 2**32 // 64):
        by_row = stride > 2**27
        mask = far.as_strided((20, 60), (stride, 1) if by_row else (1, stride)).view(torch.bool)
        mask.copy_(tokens(20, 60, seed=2) > 0)
        check_rule(ask_fused(q, k, BASIC, mask=mask), q, k, mask=mask.clone())


@pytest.mark.parametrize("statistics", [("entropy",), ("fourth",), ("sensitivity", "mean")])
def test_any_choice_of_statistics_gives_the_same(ask_fused, statistics):
    q, k = tokens(1, 2, 40, 24), tokens(1, 2, 90, 24, seed=1)
    found, every = ask_fused(q, k, statistics), ask_fused(q, k)
    assert set(computed(found)) == set(statistics)
    for name in statistics:
        assert torch.equal(found[name], every[name])


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_float64(backend):
    q, k = tokens(2, 3, 63, 24, dtype=torch.float64) * 2, tokens(2, 1, 111, 24, seed=1, dtype=torch.float64)
    asked = STATISTICS if backend == "reference" else BASIC
    found, exact = row_statistics(q, k, statistics=asked, backend=backend), plain(q, k)
    for name in asked:
        torch.testing.assert_close(found[name], exact[name], atol=1e-12, rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 70), st.integers(1, 40), st.floats(0, 20), st.integers(0, 99))
def test_bounds_and_shift(queries, keys, width, sharpness, seed):
    q, k = tokens(1, queries, width, seed=seed) * sharpness, tokens(1, keys, width, seed=seed + 1)
    exact = row_statistics(q.double(), k.double()).entropy
    for name in ("reference", "sdpa", *(["native"] if native.compiler() else [])):
        found = row_statistics(q, k, backend=name).entropy
        assert (found >= 0).all()
        assert (found <= math.log(keys) + 1e-5).all()
        shifted = row_statistics(q, k + tokens(1, 1, width, seed=7), backend=name).entropy
        torch.testing.assert_close(shifted.double(), exact, atol=1e-4 * (1 + sharpness), rtol=0)


def test_small_chunks_give_the_same(monkeypatch):
    q, k, mask = tokens(2, 3, 37, 8), tokens(2, 3, 41, 8, seed=1), tokens(37, 41, seed=2) > -1
    options = {"mask": mask, "is_causal": True, "statistics": STATISTICS, "backend": "reference"}
    whole = row_statistics(q, k, **options)
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", 1000)
    parts = row_statistics(q, k, **options)
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
