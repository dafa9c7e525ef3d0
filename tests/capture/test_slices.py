"""Queries in slices are one layer at any size, and keys beside a layer's own tokens do not make it cross-attention."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import entropylab
from entropylab.errors import EntropyLabWarning

from ..attention import PlainAttention, in_heads, together
from ..seeds import normal
from .nets import HEADS, TOKENS, WIDTH, Net, OwnAttention, Unnamed, agree, by_hand, check, net_of, recorded, run, usual

SLICE = 7  # does not divide TOKENS
BIAS = torch.linspace(-3, 3, TOKENS * TOKENS).reshape(TOKENS, TOKENS)
RAGGED = BIAS > -1
"""Some keys are closed to some queries only."""


def sliced(mask=None):
    """Attention of SLICE queries at a time, under a mask or none."""

    def way(query, key, value):
        masks = [None] * TOKENS if mask is None else mask.split(SLICE, -2)
        parts = zip(query.split(SLICE, 2), masks, strict=False)
        return torch.cat([F.scaled_dot_product_attention(part, key, value, attn_mask=m) for part, m in parts], 2)

    return way


class Projected(OwnAttention):
    """A part of the layer runs between its slices."""

    def forward(self, tokens):
        _, key, value = self.sides(tokens)
        queries = (in_heads(self.to_q, part, HEADS) for part in tokens.split(SLICE, 1))
        return together(torch.cat([F.scaled_dot_product_attention(each, key, value) for each in queries], 2))


def with_sinks(count, attend):
    """Attention with further keys that no token has."""
    return lambda query, *sides: attend(query, *(F.pad(side, (0, 0, 0, count)) for side in sides))


CASES = [
    (sliced(), 0, Net),
    (sliced(BIAS), BIAS, Net),
    (sliced(RAGGED), torch.where(RAGGED, 0, -torch.inf), Net),
    (sliced(), 0, Unnamed),
    (Projected, 0, Unnamed),
]
SINKS = [(1, usual, Net), (4, by_hand, Net), (4, usual, Unnamed), (1, by_hand, Unnamed)]


@pytest.mark.parametrize(("way", "mask", "kind"), CASES)
def test_slices_are_one_layer_of_self_attention(way, mask, kind):
    net = net_of(way, kind=kind)
    for _ in range(2):
        rec = check(net, lambda logits: logits + mask)
        assert list(rec.dataset.kind.values) == ["self"]
        assert torch.is_tensor(mask) or rec.dataset.tokens.values.ravel() == [TOKENS]
    assert not agree(rec, (net.attn.logits + mask).flip(1)), "heads that are exchanged would be noticed"


@pytest.mark.parametrize(("count", "attend", "kind"), SINKS)
def test_keys_beside_its_own_tokens_do_not_make_a_layer_cross(count, attend, kind):
    rec = check(net_of(with_sinks(count, attend), kind=kind), lambda logits: F.pad(logits, (0, count)))
    assert list(rec.dataset.kind.values) == ["self"]


@pytest.mark.parametrize("kind", [Net, Unnamed])
def test_slices_are_rescaled_as_the_whole(kind):
    whole, net = net_of(usual, kind=kind), net_of(sliced(), kind=kind)
    with entropylab.rescale(whole, 1.5, train_size=8):
        wanted = run(whole)
    with entropylab.rescale(net, 1.5, train_size=8) as handle, entropylab.record(net) as rec:
        assert torch.allclose(run(net), wanted, atol=1e-6)
    assert handle.multipliers == {"model.attn": 1.5}
    assert agree(rec, 1.5 * net.attn.logits)


@torch.no_grad()
def test_slices_are_the_same_layer_at_every_size():
    net, sizes = net_of(sliced()), (5, 20, 41)
    with entropylab.record(net, strict=True) as rec:
        for tokens in sizes:
            net(normal(2, tokens, WIDTH), torch.tensor(2.0))
    assert list(rec.dataset.layer.values) == ["model.attn"] and list(rec.dataset.kind.values) == ["self"]
    assert sorted(rec.dataset.tokens.values.ravel()) == list(sizes)


def reused(query, key, value):
    """Its queries' memory is used again before the layer is done."""
    half, rest = (each.clone() for each in query.split(TOKENS // 2, 2))
    first = F.scaled_dot_product_attention(half, key, value)
    half.copy_(rest)
    return torch.cat([first, F.scaled_dot_product_attention(half, key, value)], 2)


def test_slices_whose_memory_is_used_again_are_named():
    with pytest.warns(EntropyLabWarning, match=r"model\.attn.*changed in place"):
        recorded(net_of(reused))


def twice(query, key, value):
    """The same queries attend to the same keys twice: no slices."""
    parts = [F.scaled_dot_product_attention(query[:, :, :SLICE], key, value) for _ in range(2)]
    return F.pad(parts[0] + parts[1], (0, 0, 0, TOKENS - SLICE))


def test_the_same_queries_twice_are_two_calls():
    assert list(recorded(net_of(twice)).dataset.layer.values) == ["model.attn", "model.attn:2"]


class Pooled(OwnAttention):
    """A few queries of its own ask all tokens."""

    def __init__(self):
        super().__init__()
        self.asking = nn.Parameter(normal(1, 5, WIDTH))

    def forward(self, tokens):
        mixed = self.way(*self.sides(self.asking.expand(len(tokens), -1, -1), tokens))
        return tokens + together(mixed).mean(1, keepdim=True)


def test_attention_to_other_tokens_stays_cross():
    for net, given in ((net_of(Pooled, kind=Unnamed), []), (PlainAttention(WIDTH), [normal(2, TOKENS + 3, WIDTH)])):
        with entropylab.record(net) as rec, torch.no_grad():
            net(normal(2, TOKENS, WIDTH), *given)
        assert list(rec.dataset.kind.values) == ["cross"]
