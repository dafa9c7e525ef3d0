"""Sums over rows by the kernels, against the same sums by small operations in float64."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from entropylab.entropy import STATISTICS, native, reference, row_statistics, sdpa, sums
from entropylab.entropy import triton as backend
from entropylab.entropy.rows import BETWEEN, COUNTS, NUMBERS, KeyParts, Rows
from entropylab.entropy.sums import joined

from ..seeds import tokens
from .kernel import BASIC


def exact(rows, parts, begin, end, counted):
    """The sums over query rows ``begin`` to ``end`` that count."""
    mask = rows.mask if rows.mask is None or rows.mask.dtype == torch.bool else rows.mask.double()
    found = []
    for piece in sums.questions(replace(rows, q=rows.q.double(), own_k=rows.own_k.double(), mask=mask), parts):
        every = reference.row_statistics(piece)
        some = {name: every[name].expand(rows.q.shape[:-1])[..., begin:end] for name in every.names()}
        found.append(replace(every, **some))
    split = None if parts is None else joined(found)
    some = None if counted is None else counted.expand(rows.q.shape[:-1])[..., begin:end]
    return sums.summed(found[0] if split is None else split.whole, rows.statistics, some, split)


@pytest.fixture
def check(kernel):
    """Compares the sums of a kernel with the exact ones, and gives them; the one in C knows no ranges of rows."""

    def check(q, k, statistics, mask=None, is_causal=False, parts=None, some=None):
        rows = Rows(q, k, q.shape[-1] ** -0.5, mask, is_causal, statistics)
        some = [(0, q.shape[-2], None)] if some is None else some
        if kernel == "triton":
            found = backend.head_sums(sums.questions(rows, parts), statistics, parts is not None, some)
        else:
            every = torch.arange(q.shape[-2])
            ranges = [(every >= begin) & (every < end) for begin, end, _ in some]
            chosen = [own if where[2] is None else own & where[2] for own, where in zip(ranges, some, strict=True)]
            found = [native.head_sums(rows, None if own.all() else own, parts) for own in chosen]
        for one, where in zip(found, some, strict=True):
            wanted = exact(rows, parts, *where)
            assert one.shape == wanted.shape == (*q.shape[:2], NUMBERS) and one.dtype == torch.float64
            assert torch.equal(one[..., : len(COUNTS)], wanted[..., : len(COUNTS)])
            known = slice(BETWEEN if parts is None else NUMBERS)
            torch.testing.assert_close(one[..., known], wanted[..., known], rtol=2e-5, atol=4e-4)
        return found

    return check


def pair(queries, keys, heads=2, key_heads=2, width=8):
    return tokens(2, heads, queries, width) * 2, tokens(2, key_heads, keys, width, seed=1)


@pytest.mark.parametrize(("statistics", "needs_a_pass"), [(("mean", "variance"), False), (("entropy",), True)])
def test_sigma2_alone_needs_no_pass_over_the_keys(monkeypatch, statistics, needs_a_pass):
    made = []
    ways = ((native, "head_sums"), (native, "row_statistics"), (sdpa, "attend"), (reference, "logits_of"))
    for module, name in ways:
        way = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, way=way: made.append(way) or way(*given))
    q, k = pair(50, 70)
    sums.head_sums(Rows(q, k, 0.3, None, False, statistics))
    assert bool(made) == needs_a_pass
    row_statistics(q, k, statistics=statistics)
    assert len(made) == (2 if needs_a_pass else 0)


@pytest.mark.parametrize(
    ("statistics", "masked"),
    [
        (("entropy",), ""),
        (("variance",), "causal"),
        (BASIC, ""),
        (BASIC, "boolean"),
        (STATISTICS, "additive"),
        (STATISTICS, "both"),
    ],
)
def test_sums_over_rows(check, statistics, masked):
    q, k = pair(63, 37, key_heads=1)
    bias = tokens(2, 1, 63, 37, seed=2)
    bias[:, :, 5] = -20
    mask = {"boolean": bias > 0, "both": bias > 0, "additive": bias.masked_fill(bias < -1, -torch.inf)}.get(masked)
    found = check(q, k, statistics, mask, masked in ("causal", "both"))[0]
    assert (found[..., 1] > 0).all() == (mask is not None)


def test_rows_that_do_not_count_and_rows_of_several_places(check, monkeypatch):
    monkeypatch.setattr(backend, "ROWS_AT_ONCE", 16)
    backend.summed_for.cache_clear()
    q, k = pair(45, 21)
    counted = tokens(2, 1, 45, seed=3) > 0
    check(q, k, BASIC, some=[(0, 45, counted), (0, 7, counted), (7, 45, None), (3, 3, None)])
    backend.summed_for.cache_clear()


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("is_split", [False, True])
def test_bad_rows_are_counted_and_left_out(check, is_split):
    q, k = pair(19, 21)
    q[0, 1, 3:6, 2] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    codes = torch.arange(21).expand(2, 21) // 12
    found = check(q, k, BASIC, parts=KeyParts(codes, (0, 1)) if is_split else None)[0]
    assert found[..., 2].tolist() == [[0, 3], [0, 0]]
    assert found.isfinite().all()


TWO, THREE = (slice(0, 9), slice(9, 21)), (slice(0, 9), slice(9, 15), slice(15, 21))


@pytest.mark.parametrize("statistics", [("entropy",), ("entropy", "variance"), BASIC, STATISTICS])
def test_all_keys_in_one_part(check, statistics):
    q, k = pair(131, 37)
    check(q, k, statistics, parts=KeyParts(torch.zeros(2, 37, dtype=torch.long), (0,)))


@pytest.mark.parametrize(
    ("statistics", "masked", "spans"),
    [
        (("entropy",), "boolean", TWO),
        (("variance",), "", THREE),
        (STATISTICS, "boolean", None),
        (STATISTICS, "causal", None),
    ],
)
def test_parts_of_the_keys(check, statistics, masked, spans):
    q, k = pair(23, 21)
    codes = torch.stack([torch.arange(21) // 9, torch.arange(21) % 2])  # the second image has no key of a third part
    if spans is not None:
        codes = torch.cat([torch.full((where.stop - where.start,), index) for index, where in enumerate(spans)])
        codes = codes.expand(2, -1)
    mask = None
    if masked == "boolean":
        mask = tokens(2, 1, 23, 21, seed=2) > -0.5
        mask[:, :, 4, :9], mask[:, :, 5] = False, False  # a row without a key in the first part, one without any
    parts = KeyParts(codes, tuple(range(3 if spans is None else len(spans))), spans)
    some = [(0, 9, None), (9, 23, tokens(2, 2, 23, seed=4) > 0)]
    found = check(q, k, statistics, mask, masked == "causal", parts, some)
    assert (found[1][..., BETWEEN] > 0).all()


@pytest.mark.parametrize("column", [0, 4, BETWEEN, BETWEEN + 3])
def test_a_spoiled_sum_is_found(check, monkeypatch, column):
    def spoiled(real, *given):
        found = real(*given)
        found[..., column] *= 1.001
        return found

    monkeypatch.setattr(backend, "launch_sums", partial(spoiled, backend.launch_sums))
    monkeypatch.setattr(native, "head_sums", partial(spoiled, native.head_sums))
    with pytest.raises(AssertionError):
        check(*pair(9, 21), BASIC, parts=KeyParts(torch.arange(21).expand(2, 21) // 12, (0, 1)))
