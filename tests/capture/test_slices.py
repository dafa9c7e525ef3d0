"""Queries in slices are one layer at any size, and keys beside a layer's own tokens do not make it cross-attention."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import entropylab
from entropylab import pipelines
from entropylab.errors import EntropyLabWarning

from ..attention import PlainAttention, in_heads, together
from ..maps import entropy_of
from ..sampling import sample
from ..seeds import normal
from .nets import HEADS, TOKENS, WIDTH, OwnAttention, agree, net_of, recorded, run
from .test_masks import BIAS

SLICE = 7  # does not divide TOKENS


RAGGED = BIAS > -1
"""Some keys are closed to some queries only."""


class Sliced(OwnAttention):
    """Attention of SLICE queries at a time, under a mask or none."""

    def __init__(self, mask=None):
        super().__init__()
        self.mask = mask

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        masks = [None] * TOKENS if self.mask is None else self.mask.split(SLICE, -2)
        parts = [
            F.scaled_dot_product_attention(each, key, value, attn_mask=mask)
            for each, mask in zip(query.split(SLICE, 2), masks, strict=False)
        ]
        return together(torch.cat(parts, 2))


class Whole(OwnAttention):
    def forward(self, tokens):
        return together(F.scaled_dot_product_attention(*self.sides(tokens)))


class Projected(OwnAttention):
    """A part of the layer runs between its slices."""

    def forward(self, tokens):
        _, key, value = self.sides(tokens)
        queries = (in_heads(self.to_q, part, HEADS) for part in tokens.split(SLICE, 1))
        return together(torch.cat([F.scaled_dot_product_attention(each, key, value) for each in queries], 2))


MASKS = {
    "none": (None, lambda logits: logits),
    "additive": (BIAS, lambda logits: logits + BIAS),
    "boolean": (RAGGED, lambda logits: logits.masked_fill(~RAGGED, -torch.inf)),
}


class Unnamed(nn.Module):
    """A module whose forward takes tokens and nothing else: nothing is known of what they stand for."""

    def __init__(self, attn):
        super().__init__()
        self.attn = attn

    def forward(self, tokens):
        return self.attn(tokens)


def unnamed_of(attn, *args):
    torch.manual_seed(0)
    return Unnamed(attn(*args)).eval()


def run_unnamed(net, tokens=TOKENS):
    with torch.no_grad():
        return net(normal(2, tokens, WIDTH))


@pytest.mark.parametrize("mask", MASKS)
def test_slices_are_one_layer_of_self_attention(mask):
    given, reference = MASKS[mask]
    rec = recorded(net := net_of(Sliced, given), strict=True)
    assert list(rec.dataset.layer.values) == ["model.attn"] and list(rec.dataset.kind.values) == ["self"]
    assert agree(rec, reference(net.attn.logits))
    assert not agree(rec, reference(net.attn.logits).flip(1))


@pytest.mark.parametrize("attn", [Sliced, Projected])
def test_slices_in_a_module_of_which_nothing_is_known_are_self_attention(attn):
    net = unnamed_of(attn)
    for _ in range(2):
        with entropylab.record(net, strict=True) as rec:
            run_unnamed(net)
            run_unnamed(net)
        assert list(rec.dataset.layer.values) == ["model.attn"] and list(rec.dataset.kind.values) == ["self"]
        assert rec.dataset.tokens.values.ravel() == [TOKENS] and agree(rec, net.attn.logits)


@pytest.mark.parametrize("make", [net_of, unnamed_of])
def test_slices_are_rescaled_as_the_whole(make):
    whole, net = make(Whole), make(Sliced)
    go = run if make is net_of else run_unnamed
    with entropylab.rescale(whole, 1.5, train_size=8):
        wanted = go(whole)
    with entropylab.rescale(net, 1.5, train_size=8) as handle, entropylab.record(net) as rec:
        assert torch.allclose(go(net), wanted, atol=1e-6)
    assert handle.multipliers == {"model.attn": 1.5}
    assert agree(rec, 1.5 * net.attn.logits)


class SlicedProcessor:
    """The processor of diffusers, 100 queries at a time."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = in_heads(attn.to_q, hidden_states, attn.heads)
        key, value = (in_heads(projection, context, attn.heads) for projection in (attn.to_k, attn.to_v))
        parts = [F.scaled_dot_product_attention(each, key, value) for each in query.split(100, 2)]
        return attn.to_out[1](attn.to_out[0](together(torch.cat(parts, 2))))


def test_slices_in_a_unet_are_the_same_layers_at_every_size(random_pipe):
    found = []
    for sliced in (False, True):
        if sliced:
            random_pipe.unet.set_attn_processor(SlicedProcessor())
        with entropylab.record(random_pipe, strict=True) as rec:
            for size in (48, 64):
                sample(random_pipe, (size, size), ["a red car"], steps=1)
        found.append(rec.dataset.drop_attrs())
    usual, sliced = found
    assert list(sliced.layer.values) == list(usual.layer.values)
    assert list(sliced.kind.values) == list(usual.kind.values)
    np.testing.assert_array_equal(sliced.tokens, usual.tokens)
    np.testing.assert_allclose(sliced.entropy, usual.entropy, atol=1e-4)


class Reused(OwnAttention):
    """Its queries' memory is used again before the layer is done."""

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        half, rest = (each.clone() for each in query.split(TOKENS // 2, 2))
        first = F.scaled_dot_product_attention(half, key, value)
        half.copy_(rest)
        return together(torch.cat([first, F.scaled_dot_product_attention(half, key, value)], 2))


def test_slices_whose_memory_is_used_again_are_named():
    net = net_of(Reused)
    with pytest.warns(EntropyLabWarning, match=r"model\.attn.*changed in place"):
        recorded(net)


class Twice(OwnAttention):
    """The same queries attend to the same keys twice: no slices."""

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        few = query[:, :, :SLICE]
        parts = [F.scaled_dot_product_attention(few, key, value) for _ in range(2)]
        return together(F.pad(parts[0] + parts[1], (0, 0, 0, TOKENS - SLICE)))


def test_the_same_queries_twice_are_two_calls():
    assert list(recorded(net_of(Twice)).dataset.layer.values) == ["model.attn", "model.attn:2"]


class WithSinks(OwnAttention):
    """Attention by SDPA or by hand, with keys that no token has."""

    def __init__(self, sinks, by_hand):
        super().__init__()
        self.extra = nn.Parameter(normal(1, HEADS, sinks, WIDTH // HEADS))
        self.by_hand = by_hand

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        key = torch.cat([key, self.extra.expand(len(key), -1, -1, -1)], 2)
        value = F.pad(value, (0, 0, 0, self.extra.shape[2]))
        logits = query @ key.mT / query.shape[-1] ** 0.5
        self.logits = logits.detach().clone()
        if self.by_hand:
            return together(logits.softmax(-1) @ value)
        return together(F.scaled_dot_product_attention(query, key, value))


@pytest.mark.parametrize(
    ("make", "sinks", "by_hand"), [(net_of, 1, False), (net_of, 4, True), (unnamed_of, 4, False), (unnamed_of, 1, True)]
)
def test_keys_beside_its_own_tokens_do_not_make_a_layer_cross(make, sinks, by_hand):
    net = make(WithSinks, sinks, by_hand)
    with entropylab.record(net, strict=True) as rec:
        (run if make is net_of else run_unnamed)(net)
    assert list(rec.dataset.kind.values) == ["self"]
    np.testing.assert_allclose(
        rec.dataset.entropy.values.ravel(), entropy_of(net.attn.logits).mean(-1).ravel(), atol=1e-5
    )


class Pooled(OwnAttention):
    """A few queries of its own ask all tokens."""

    def __init__(self):
        super().__init__()
        self.asking = nn.Parameter(normal(1, 5, WIDTH))

    def forward(self, tokens):
        query, key, value = self.sides(self.asking.expand(len(tokens), -1, -1), tokens)
        mixed = together(F.scaled_dot_product_attention(query, key, value))
        return tokens + mixed.mean(1, keepdim=True)


def test_attention_to_other_tokens_stays_cross():
    for net, given in ((unnamed_of(Pooled), []), (PlainAttention(WIDTH), [normal(2, TOKENS + 3, WIDTH)])):
        with entropylab.record(net) as rec, torch.no_grad():
            net(normal(2, TOKENS, WIDTH), *given)
        assert list(rec.dataset.kind.values) == ["cross"]


def test_sinks_do_not_count_as_tokens_that_grow():
    calls = []
    with entropylab.record(net := unnamed_of(WithSinks, 4, False)) as rec:
        tell = rec.observer.on_attention
        rec.observer.on_attention = lambda call: (calls.append(call), tell(call))
        run_unnamed(net)
    assert [pipelines.image_keys(call) for call in calls] == [TOKENS]
