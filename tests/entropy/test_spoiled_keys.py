"""A key that is NaN spoils the rows that may attend to it, and no others, whatever computes their statistics."""

import math

import pytest
import torch

from entropylab import row_statistics
from entropylab.entropy import native, sums
from entropylab.entropy.parts import joined, needed
from entropylab.entropy.rows import Rows
from entropylab.measuring.reduce import Reduction

from ..seeds import tokens

QUERIES, KEYS, BAD = 12, 20, 7
BY_ROW = torch.arange(KEYS) != torch.where(torch.arange(QUERIES) % 3 == 0, BAD, KEYS)[:, None]
"""Every third row leaves the bad key out."""

MASKS = {
    "left out for all": (torch.arange(KEYS) != BAD, False),
    "left out for all, additive": (torch.where(torch.arange(KEYS) == BAD, -torch.inf, 0.0)[None, None, None], False),
    "left out by some rows": (BY_ROW, False),
    "left out by some rows of one image": (torch.stack([BY_ROW, torch.ones_like(BY_ROW)])[:, None], False),
    "left out by some rows of one head": (
        torch.stack([BY_ROW, torch.ones_like(BY_ROW), BY_ROW, ~torch.eye(QUERIES, KEYS).bool()]),
        False,
    ),
    "one for all keys": (torch.ones(QUERIES, 1).bool(), False),
    "causal": (None, True),
}


def sides(bad=math.nan):
    """q and k of which one key of one head is bad."""
    q, k = tokens(2, 4, QUERIES, 8), tokens(2, 4, KEYS, 8, seed=1)
    k[1, 2, BAD, 3] = bad
    return q, k


def left_by(mask, is_causal):
    """Which keys every row has: (batch, heads, queries, keys)."""
    left = torch.ones(2, 4, QUERIES, KEYS).bool()
    if mask is not None:
        left = left & (mask if mask.dtype == torch.bool else mask > -9999)
    return left.tril() if is_causal else left


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("backend", ["sdpa", "reference", "native", "triton"])
@pytest.mark.parametrize(
    ("case", "bad"), [*((case, math.nan) for case in MASKS), ("left out by some rows", math.inf), ("causal", math.inf)]
)
def test_only_rows_that_have_the_key(request, backend, case, bad):
    if backend == "native" and native.compiler() is None:
        pytest.skip("no C compiler on this machine")
    if backend == "triton":
        pytest.importorskip("triton")
        request.getfixturevalue("interpreter")
    mask, is_causal = MASKS[case]
    options = {"mask": mask, "is_causal": is_causal, "backend": backend, "statistics": ("entropy", "lse")}
    spoiled = torch.zeros(2, 4, QUERIES).bool()
    spoiled[1, 2] = left_by(mask, is_causal)[1, 2, :, BAD]
    assert "some" in case or "causal" in case or spoiled.any() == ("all keys" in case)
    found, clean = row_statistics(*sides(bad), **options), row_statistics(*sides(0.5), **options)
    for name in ("entropy", "lse"):
        if math.isnan(bad):
            assert found[name][spoiled].isnan().all()
        torch.testing.assert_close(found[name][~spoiled], clean[name][~spoiled], atol=2e-6, rtol=1e-5)
    assert torch.equal(found.keys, clean.keys)


def test_mean_and_variance_of_rows_that_leave_it_out():
    options = {"mask": torch.arange(KEYS) != BAD, "statistics": ("mean", "variance")}
    found, wanted = (row_statistics(*sides(), backend=backend, **options) for backend in ("sdpa", "reference"))
    for name in ("mean", "variance"):
        torch.testing.assert_close(found[name], wanted[name])


def test_parts_are_nan_where_they_should_be():
    q, k = sides()
    statistics = needed(("entropy", "variance"))
    found = joined([
        row_statistics(q, k[..., where, :], mask=BY_ROW[:, where], statistics=statistics)
        for where in (slice(0, 10), slice(10, KEYS))
    ])  # fmt: skip
    spoiled = torch.zeros(2, 4, QUERIES).bool()
    spoiled[1, 2] = BY_ROW[:, BAD]
    for values in (found.whole.entropy, found.whole.lse, found.between, found.mass[0], found.mass[1], found.within[0]):
        assert torch.equal(values.isnan(), spoiled)


@pytest.fixture(params=["as it is", "by rows"])
def road(request, monkeypatch):
    """The sums as they come on this machine, and by way of statistics of each row."""
    if request.param == "by rows":
        monkeypatch.setattr(sums.native, "why_not_tensors", lambda q, k: "not here")


@pytest.mark.parametrize("case", MASKS)
def test_what_is_measured_counts_the_rows_that_have_it(case, road):
    mask, is_causal = MASKS[case]
    spoiled = left_by(mask, is_causal)[1, 2, :, BAD].sum().item()
    counts = []
    for bad in (math.nan, 0.5):
        q, k = sides(bad)
        reduction = Reduction(("entropy",))
        (left,) = reduction(call(q, k, mask, is_causal)).values()
        entries = reduction.entries(left.sums.flatten(0, 1), left.parts, left.fraction)
        found, names = entries.unflatten(1, (2, 4)).float(), reduction.names
        counts.append(found[names.index("rows_bad")])
        assert found[names.index("entropy")].isfinite().all() or spoiled == QUERIES
    expected = torch.zeros(2, 4)
    expected[1, 2] = spoiled
    assert torch.equal(counts[0], expected) and not counts[1].any()


def call(q, k, mask, is_causal):
    from entropylab.capture import AttentionCall

    return AttentionCall("attn", torch.nn.Identity(), q, k, mask, 8**-0.5, is_causal)


def test_heads_that_share_keys_leave_out_what_none_attends_to(road):
    q, k = tokens(1, 4, QUERIES, 8), tokens(1, 2, KEYS, 8, seed=1)
    k[0, 1, BAD] = math.nan
    mask = torch.ones(1, 4, QUERIES, KEYS).bool()
    mask[:, 2:, :, BAD] = False
    found = sums.head_sums(Rows(q, k, 8**-0.5, mask, False, ("entropy",)))
    assert found[0, :, 2].tolist() == [0, 0, 0, 0]
    mask[:, 3, 0, BAD] = True
    found = sums.head_sums(Rows(q, k, 8**-0.5, mask, False, ("entropy",)))
    assert found[0, :, 2].tolist() == [0, 0, 0, 1]
