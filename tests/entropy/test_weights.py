"""What keys get and what rows give, in chunks, against whole maps in float64."""

import pytest
import torch

from entropylab import row_statistics
from entropylab.entropy import reference
from entropylab.entropy.rows import check_rows
from entropylab.entropy.sums import received, weight_on

from ..seeds import normal
from .kernel import plain
from .test_gradients import Largest

QUERIES, KEYS = 63, 111
CLOSED = normal(2, 1, QUERIES, KEYS, seed=7) < 1.0
CASES = {
    "plain": {},
    "half precision": {"dtype": torch.bfloat16},
    "double precision": {"dtype": torch.float64},
    "grouped heads": {"key_heads": 2},
    "padding": {"mask": (torch.arange(KEYS) < torch.tensor([[90], [111]]))[:, None, None]},
    "a row without keys": {"mask": CLOSED & (torch.arange(QUERIES) != 5)[:, None]},
    "a bias": {"mask": normal(4, QUERIES, 1, seed=3).expand(4, QUERIES, KEYS) * torch.linspace(0, 1, KEYS)},
    "causal": {"is_causal": True},
}


def question(key_heads=4, mask=None, is_causal=False, dtype=torch.float32):
    q, k = (normal(2, heads, tokens, 12, seed=heads).to(dtype) for heads, tokens in ((4, QUERIES), (key_heads, KEYS)))
    return check_rows(q, k, 0.7, mask, is_causal, ("lse",))


@pytest.mark.parametrize("case", CASES)
def test_against_whole_maps(case, monkeypatch):
    rows = question(**CASES[case])
    mask = rows.mask if rows.mask is None or rows.mask.dtype == torch.bool else rows.mask.double()
    weights = plain(rows.q.double(), rows.own_k.double(), 0.7, mask, rows.is_causal)["weights"].nan_to_num()
    places, counted = torch.tensor([[0, 7, 7, 80], [3, 2, 61, 110]]), torch.arange(QUERIES) < 9
    lse = row_statistics(rows.q, rows.own_k, scale=0.7, mask=rows.mask, is_causal=rows.is_causal).lse
    full, at = weights.sum(-1), places[:, None, None].expand(*weights.shape[:-1], -1)
    wanted, on_places = weights.sum(-2) / full.sum(-1, keepdim=True), weights.gather(-1, at)
    for elements in (2**19, 2**11):  # one chunk, and many
        monkeypatch.setattr(reference, "CHUNK_ELEMENTS", elements)
        given = weight_on(rows, lse, places)
        assert given.dtype == received(rows).dtype == rows.dtype
        for known in (None, lse):
            torch.testing.assert_close(received(rows, known).double(), wanted, atol=1e-6, rtol=0)
        torch.testing.assert_close(given.double().nan_to_num(), on_places, atol=2e-6, rtol=0)
    first = weights[..., :9, :].sum(-2) / full[..., :9].sum(-1, keepdim=True)
    torch.testing.assert_close(received(rows, counted=counted).double(), first, atol=1e-6, rtol=0)
    assert received(rows, counted=counted & False).isnan().all()
    assert (given.isnan().all(-1) == (full == 0)).all(), "rows without keys give nothing"
    assert (received(rows, lse + 0.01) - wanted).abs().max() > 1e-5, "another LSE must not pass"
    assert (given.nan_to_num().roll(1, 0) - on_places).abs().max() > 1e-2, "nor the keys of another image"


def test_no_map_is_ever_held():
    q, k = (normal(1, 2, 4096, 8, seed=seed) for seed in (1, 2))
    rows = check_rows(q, k, None, None, False, ("lse",))
    lse = row_statistics(q, k).lse
    with Largest() as largest:
        received(rows, lse)
        weight_on(rows, lse, torch.arange(5)[None])
    assert 4096 < largest.elements <= reference.CHUNK_ELEMENTS < 2 * 4096**2 // 32
