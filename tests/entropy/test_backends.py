"""Every backend against a float64 softmax; the fused kernel interpreted on a CPU."""

import math

import pytest
import torch

from entropylab.entropy import STATISTICS
from entropylab.entropy import triton as backend

from ..seeds import tokens
from .kernel import BASIC, BRAIN, HALF, SHAPES, SINGLE, check_rule, computed
from .kernel import ask as asked_of


@pytest.fixture
def ask_fused(interpreter, poisoned):
    """Statistics by the fused kernel, where the one in C is tested elsewhere or promises less."""
    return asked_of


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


MASKS = [(shape, torch.bool) for shape in ((50,), (2, 4, 1, 50), (2, 4, 70, 50), (70, 1), ())]
MASKS += [((70, 50), SINGLE), ((2, 1, 1, 50), HALF), ((70, 50), BRAIN), ((4, 1, 1), torch.float64)]


@pytest.mark.parametrize(("shape", "kind"), MASKS)
def test_masks(ask, shape, kind):
    q, k = tokens(2, 4, 70, 16, dtype=HALF) * 3, tokens(2, 2, 50, 16, seed=1, dtype=HALF)
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


def test_exact_rows(ask_fused):
    one_hot = torch.eye(100)[None] * 1e4
    found = ask_fused(torch.eye(100)[None], one_hot, scale=1.0)
    assert (found.entropy == 0).all() and (found.sensitivity == 0).all()
    for count in (1, 2, 77, 256):
        found = ask_fused(torch.zeros(2, 3, 5, 8), tokens(2, 3, count, 8))
        torch.testing.assert_close(found.entropy, torch.full((2, 3, 5), math.log(count)), atol=1e-6, rtol=0)
        assert (found.variance == 0).all() and (found.sensitivity == 0).all()
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


@pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:invalid value")
def test_a_scale_of_zero_and_nan_inputs(ask):
    q, k = tokens(1, 20, 8), tokens(1, 60, 8, seed=1)
    found = ask(q, k, scale=0.0, mask=torch.arange(60) < 30)
    torch.testing.assert_close(found.entropy, torch.full((1, 20), math.log(30)))
    q[0, 3, 2] = math.nan
    assert (ask(q, k, BASIC).entropy.isnan() == (torch.arange(20) == 3)).all()


def test_many_tiles_lose_no_digits(ask):
    q, k = tokens(1, 4, 16) * 2, tokens(1, 8192, 16, seed=1)
    check_rule(ask(q, k), q, k)


@pytest.mark.parametrize(("dtype", "width"), [(HALF, 40), (BRAIN, 64)])
def test_half_precision_rows_about_the_mean_key(ask_fused, monkeypatch, dtype, width):
    q, k = tokens(2, 4, 70, width, dtype=dtype) * 2, tokens(2, 2, 200, width, seed=1, dtype=dtype) + 1
    merged = ask_fused(q, k, BASIC)
    monkeypatch.setattr(backend, "KEYS_WORTH_A_MEAN", 100)
    found = ask_fused(q, k, BASIC)
    check_rule(found, q, k)
    assert torch.equal(found.entropy, merged.entropy)
    assert not torch.equal(found.variance, merged.variance)  # another road
    masked = {"mask": torch.arange(200) < 150}
    for options in (masked, {"is_causal": True}):
        check_rule(ask_fused(q, k, BASIC, **options), q, k, **options)


VIEWS = {
    "tokens first": lambda q, k: (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k)),
    "part of a fused projection": lambda q, k: torch.cat([q, k], -1).chunk(2, -1),
    "every other token": lambda q, k: (q[:, :, ::2], k[:, :, 1::2]),
    "last dimension strided": lambda q, k: (
        q.transpose(-1, -2).contiguous().transpose(-1, -2),
        torch.stack([k, k], -1)[..., 0],
    ),
    "keys shared by all": lambda q, k: (q, k[:1, :1].expand(2, 4, -1, -1)),
    "leading dimensions": lambda q, k: (q.transpose(0, 1)[:, :, None, None], k.transpose(0, 1)[:, :, None, None]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_strided_inputs_are_read_where_they_are(ask_fused, monkeypatch, name):
    q, k = VIEWS[name](tokens(2, 4, 50, 40), tokens(2, 4, 50, 40, seed=1))
    mask = tokens(2, 1, *q.shape[-2:-1], k.shape[-2], seed=2).expand(2, 4, -1, -1)[..., ::1] > -1
    mask = mask.transpose(0, 1)[:, :, None, None] if q.ndim > 4 else mask
    seen = []
    monkeypatch.setattr(backend, "launch", lambda *args, real=backend.launch: (seen.append(args[1:3]), real(*args)))
    found = ask_fused(q, k, mask=mask)
    assert seen and all(t.untyped_storage().data_ptr() in storages(q, k) for pair in seen for t in pair)
    spelled_out = ask_fused(q.contiguous(), k.contiguous(), mask=mask.contiguous())
    for statistic in STATISTICS:
        assert torch.equal(found[statistic], spelled_out[statistic])
        assert found[statistic].is_contiguous()
    check_rule(found, q, k, mask=mask)


def storages(*tensors: torch.Tensor) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def test_any_strides(ask):
    q, k = tokens(2, 3, 10, 8), tokens(2, 3, 12, 8, seed=1)
    for order in ((0, 2, 1, 3), (0, 1, 3, 2), (3, 1, 0, 2)):
        back = [order.index(dimension) for dimension in range(4)]
        strided = [side.permute(order).contiguous().permute(back) for side in (q, k)]
        check_rule(ask(*strided), q, k)


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
