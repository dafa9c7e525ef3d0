"""What keys get and what rows give, in chunks, against whole maps in float64."""

import pytest
import torch

from entropylab import row_statistics
from entropylab.entropy import reference
from entropylab.entropy.rows import check_rows
from entropylab.entropy.weights import received, weight_on

from ..seeds import normal
from .test_gradients import Largest

QUERIES, KEYS = 63, 111
CLOSED = normal(2, 1, QUERIES, KEYS, seed=7) < 1.0
CASES = {
    "plain": {},
    "grouped heads": {"key_heads": 2},
    "padding": {"mask": (torch.arange(KEYS) < torch.tensor([[90], [111]]))[:, None, None]},
    "a mask by row": {"mask": CLOSED},
    "a row without keys": {"mask": CLOSED & (torch.arange(QUERIES) != 5)[:, None]},
    "a bias": {"mask": normal(4, QUERIES, 1, seed=3).expand(4, QUERIES, KEYS) * torch.linspace(0, 1, KEYS)},
    "causal": {"is_causal": True},
}


def question(key_heads=4, mask=None, is_causal=False, dtype=torch.float32):
    q, k = (normal(2, heads, tokens, 12, seed=heads).to(dtype) for heads, tokens in ((4, QUERIES), (key_heads, KEYS)))
    return check_rows(q, k, 0.7, mask, is_causal, ("lse",))


def whole_map(rows):
    """The map in float64, (batch, heads, queries, keys), 0 in rows without keys."""
    k = rows.own_k.double().repeat_interleave(rows.q.shape[1] // rows.own_k.shape[1], 1)
    logits = rows.q.double() @ k.mT * rows.scale
    if rows.mask is not None:
        is_bias = rows.mask.is_floating_point()
        logits = logits + rows.mask.double() if is_bias else logits.masked_fill(~rows.mask, -torch.inf)
    if rows.is_causal:
        logits = logits.masked_fill(torch.ones(QUERIES, KEYS, dtype=torch.bool).triu(1), -torch.inf)
    return logits.softmax(-1).nan_to_num()


@pytest.fixture(params=[2**19, 2**11], ids=["one chunk", "many chunks"])
def chunked(request, monkeypatch):
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", request.param)


@pytest.mark.parametrize("case", CASES)
def test_against_whole_maps(case, chunked):
    rows = question(**CASES[case])
    weights, places = whole_map(rows), torch.tensor([[0, 7, 7, 80], [3, 2, 61, 110]])
    lse = row_statistics(rows.q, rows.own_k, scale=0.7, mask=rows.mask, is_causal=rows.is_causal).lse
    full = weights.sum(-1, keepdim=True)
    wanted = weights.sum(-2) / full.sum(-2)
    for known in (None, lse):
        torch.testing.assert_close(received(rows, known).double(), wanted, atol=1e-6, rtol=0)
    given = weight_on(rows, lse, places)
    at = places[:, None, None].expand(*weights.shape[:-1], -1)
    torch.testing.assert_close(given.double().nan_to_num(), weights.gather(-1, at), atol=2e-6, rtol=0)
    assert (given.isnan().all(-1) == (full[..., 0] == 0)).all(), "rows without keys give nothing"
    assert (received(rows, lse + 0.01) - wanted).abs().max() > 1e-5, "another LSE must not pass"
    assert (given.nan_to_num().roll(1, 0) - weights.gather(-1, at)).abs().max() > 1e-2, "nor the keys of another image"


def test_rows_that_do_not_count():
    rows, counted = question(), torch.arange(QUERIES) < 9
    wanted = whole_map(rows)[..., :9, :].mean(-2)
    torch.testing.assert_close(received(rows, counted=counted).double(), wanted, atol=1e-6, rtol=0)
    assert received(rows, counted=counted & False).isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_what_is_accumulated(dtype):
    rows = question(dtype=dtype)
    found = received(rows)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), whole_map(rows).mean(-2), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]), atol=1e-5, rtol=0)


def test_uniform_attention():
    q, k = torch.zeros(1, 2, 5, 8), normal(1, 2, 40, 8)
    rows = check_rows(q, k, None, None, False, ("lse",))
    torch.testing.assert_close(received(rows), torch.full((1, 2, 40), 1 / 40))


def test_no_map_is_ever_held():
    q, k = (normal(1, 2, 4096, 8, seed=seed) for seed in (1, 2))
    rows = check_rows(q, k, None, None, False, ("lse",))
    lse = row_statistics(q, k).lse
    with Largest() as largest:
        received(rows, lse)
        weight_on(rows, lse, torch.arange(5)[None])
    assert 4096 < largest.elements <= reference.CHUNK_ELEMENTS < 2 * 4096**2 // 32
