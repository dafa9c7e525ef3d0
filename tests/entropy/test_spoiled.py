"""NaN and infinity in q or k spoil the rows whose logits they are in, and no others, whatever computes statistics."""

import math

import pytest
import torch

from entropylab import row_statistics
from entropylab.entropy import BEYOND, sums
from entropylab.entropy.rows import KeyParts, Rows

from ..seeds import tokens
from .kernel import BASIC, computed

QUERIES, KEYS, BAD = 12, 20, 7
BY_ROW = torch.arange(KEYS) != torch.where(torch.arange(QUERIES) % 3 == 0, BAD, KEYS)[:, None]
"""Every third row leaves the bad key out."""

ALL = torch.ones_like(BY_ROW)
MASKS = {
    "none": (None, False),
    "left out for all": (torch.arange(KEYS) != BAD, False),
    "left out for all, additive": (torch.where(torch.arange(KEYS) == BAD, -torch.inf, 0.0)[None, None, None], False),
    "left out by some rows": (BY_ROW, False),
    "left out by some rows of one image": (torch.stack([BY_ROW, ALL])[:, None], False),
    "left out by some rows of some heads": (
        torch.stack([BY_ROW, ALL, BY_ROW, ~torch.eye(QUERIES, KEYS).bool()]),
        False,
    ),
    "one for all keys": (torch.ones(QUERIES, 1).bool(), False),
    "causal": (None, True),
}


def sides(is_bad=True):
    """q and k; a key of three heads is NaN, infinity and its negative, and so are queries of another head."""
    q, k = tokens(2, 4, QUERIES, 8), tokens(2, 4, KEYS, 8, seed=1)
    k[0, 3, :, 1] = -k[0, 3, :, 1].abs()
    if is_bad:
        k[1, 2, BAD, 3], k[1, 0, BAD, 3], k[0, 1, BAD, 3] = math.nan, math.inf, -math.inf
        q[0, 3, 5:8, 1] = torch.tensor([math.nan, math.inf, -math.inf])  # logits of all -inf in one row, +inf in one
    return q, k


def spoiled_by(mask, is_causal):
    """Which rows are: (batch, heads, queries)."""
    left = torch.ones(2, 4, QUERIES, KEYS).bool()
    if mask is not None:
        left = left & (mask if mask.dtype == torch.bool else mask > -9999)
    left = left.tril() if is_causal else left
    spoiled = torch.zeros(2, 4, QUERIES).bool()
    for image, head in ((1, 2), (1, 0), (0, 1)):
        spoiled[image, head] = left[image, head, :, BAD]
    spoiled[0, 3, 5:8] = True
    return spoiled


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:All-NaN slice", "ignore:divide by zero")
@pytest.mark.parametrize("case", MASKS)
def test_rows_whose_logits_are_not_finite(ask, case):
    mask, is_causal = MASKS[case]
    options, spoiled = {"mask": mask, "is_causal": is_causal}, spoiled_by(mask, is_causal)
    for statistics in (BASIC, ("lse",)) if case == "none" else (BASIC,):
        found, clean = ask(*sides(), statistics, **options), ask(*sides(is_bad=False), statistics, **options)
        for name in computed(found):
            assert torch.equal(found[name].isnan(), spoiled), name
            torch.testing.assert_close(found[name][~spoiled], clean[name][~spoiled], atol=2e-6, rtol=1e-5)
        assert torch.equal(found.keys, clean.keys)
    every = row_statistics(*sides(), statistics=BEYOND, **options)
    for name in ("gaussian", "slope"):
        assert (every[name][spoiled].isnan().all() and every[name][~spoiled].isfinite().all()) or is_causal


@pytest.fixture(params=["as it is", "by rows"])
def road(request, monkeypatch):
    """The sums as they come on this machine, and by way of statistics of each row."""
    if request.param == "by rows":
        monkeypatch.setattr(sums.native, "why_not_tensors", lambda q, k: "not here")


@pytest.mark.parametrize("case", MASKS)
def test_sums_count_them_and_leave_them_out(case, road):
    mask, is_causal = MASKS[case]
    for own in (None, KeyParts((torch.arange(KEYS) >= 10).long().expand(2, -1), (0, 1))):
        for is_bad in (True, False):
            rows = Rows(*sides(is_bad), 8**-0.5, mask, is_causal, ("entropy",))
            found = sums.head_sums(rows, None, own)
            assert torch.equal(found[..., 2], (spoiled_by(mask, is_causal) * is_bad).sum(-1).double())
            assert found.isfinite().all()


def test_heads_that_share_keys_leave_out_what_none_attends_to(road):
    q, k = tokens(1, 4, QUERIES, 8), tokens(1, 2, KEYS, 8, seed=1)
    k[0, 1, BAD] = math.nan
    mask = torch.ones(1, 4, QUERIES, KEYS).bool()
    mask[:, 2:, :, BAD] = False
    mask[:, 3, 0, BAD] = True
    found = sums.head_sums(Rows(q, k, 8**-0.5, mask, False, ("entropy",)))
    assert found[0, :, 2].tolist() == [0, 0, 0, 1]
