"""Sums over rows by the fused kernels, interpreted, against the same sums by small operations in float64."""

import pytest
import torch

from entropylab.entropy import STATISTICS, reference, sums
from entropylab.entropy import triton as backend
from entropylab.entropy.parts import joined
from entropylab.entropy.rows import Rows
from entropylab.entropy.sums import BETWEEN, NUMBERS, KeyParts

from ..seeds import tokens
from .kernel import BASIC

pytestmark = pytest.mark.usefixtures("interpreter", "poisoned")


def exact(pieces, statistics, is_split, begin, end, counted):
    rows = []
    for piece in pieces:
        mask = piece.mask if piece.mask is None or piece.mask.dtype == torch.bool else piece.mask.double()
        wide = type(piece)(piece.q.double(), piece.own_k.double(), piece.scale, mask, piece.is_causal, piece.statistics)
        found = reference.row_statistics(wide)
        names = found.names()
        keys = found.keys.expand(piece.q.shape[:-1])[..., begin:end]
        rows.append(type(found)(keys=keys, **{n: found[n][..., begin:end] for n in names if n != "keys"}))
    split = joined(rows) if is_split else None
    some = None if counted is None else counted.expand(pieces[0].q.shape[:-1])[..., begin:end]
    return sums.summed(rows[0] if split is None else split.whole, statistics, some, split)


def check(q, k, statistics, mask=None, is_causal=False, parts=None, some=None):
    pieces = sums.questions(Rows(q, k, q.shape[-1] ** -0.5, mask, is_causal, statistics), parts)
    some = [(0, q.shape[-2], None)] if some is None else some
    found = backend.head_sums(pieces, statistics, parts is not None, some)
    for one, where in zip(found, some, strict=True):
        wanted = exact(pieces, statistics, parts is not None, *where)
        assert one.shape == wanted.shape == (*q.shape[:2], NUMBERS) and one.dtype == torch.float64
        assert torch.equal(one[..., :4], wanted[..., :4])
        assert torch.allclose(one, wanted, rtol=2e-5, atol=2e-4), (one - wanted).abs().max()
    return found


def pair(queries, keys, heads=2, key_heads=2, width=8):
    return tokens(2, heads, queries, width) * 2, tokens(2, key_heads, keys, width, seed=1)


@pytest.mark.parametrize("statistics", [("entropy",), ("variance",), BASIC, STATISTICS], ids=len)
@pytest.mark.parametrize("masked", ["", "boolean", "additive", "causal", "both"])
def test_sums_over_rows(statistics, masked):
    q, k = pair(63, 37, key_heads=1)
    bias = tokens(2, 1, 63, 37, seed=2)
    bias[:, :, 5] = -20
    mask = {"boolean": bias > 0, "both": bias > 0, "additive": bias.masked_fill(bias < -1, -torch.inf)}.get(masked)
    found = check(q, k, statistics, mask, masked in ("causal", "both"))[0]
    assert (found[..., 1] > 0).all() == (mask is not None)


def test_rows_that_do_not_count_and_rows_of_several_places(monkeypatch):
    monkeypatch.setattr(backend, "ROWS_AT_ONCE", 16)
    backend.summed_for.cache_clear()
    q, k = pair(45, 21)
    counted = tokens(2, 1, 45, seed=3) > 0
    check(q, k, BASIC, some=[(0, 45, counted), (0, 7, counted), (7, 45, None), (3, 3, None)])
    backend.summed_for.cache_clear()


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("is_split", [False, True])
def test_bad_rows_are_counted_and_left_out(value, is_split):
    q, k = pair(19, 21)
    q[0, 1, 3:5, 2] = value
    codes = torch.arange(21).expand(2, 21) // 12
    found = check(q, k, BASIC, parts=KeyParts(codes, (0, 1)) if is_split else None)[0]
    assert found[..., 2].tolist() == [[0, 2], [0, 0]]
    assert found.isfinite().all()


TWO, THREE = (slice(0, 9), slice(9, 21)), (slice(0, 9), slice(9, 15), slice(15, 21))


@pytest.mark.parametrize(
    ("statistics", "masked", "spans"),
    [
        (("entropy",), True, TWO),
        (("entropy",), False, None),
        (("variance",), False, THREE),
        (("variance",), True, None),
        (STATISTICS, False, TWO),
        (STATISTICS, True, None),
    ],
)
def test_parts_of_the_keys(statistics, masked, spans):
    q, k = pair(23, 21)
    codes = torch.stack([torch.arange(21) // 9, torch.arange(21) % 3])
    mask = None
    if masked:
        mask = tokens(2, 1, 23, 21, seed=2) > -0.5
        mask[:, :, 4, :9], mask[:, :, 5] = False, False  # a row without a key in the first part, one without any
    parts = KeyParts(codes, (0, 1, 2) if spans is None else tuple(range(len(spans))), spans)
    found = check(q, k, statistics, mask, parts=parts, some=[(0, 9, None), (9, 23, tokens(2, 2, 23, seed=4) > 0)])
    assert (found[0][..., BETWEEN] > 0).all()


def test_a_spoiled_sum_is_found(monkeypatch):
    q, k = pair(9, 21)
    launch = backend.launch_sums
    monkeypatch.setattr(backend, "launch_sums", lambda *given: launch(*given) * 1.001)
    with pytest.raises(AssertionError):
        check(q, k, BASIC)
