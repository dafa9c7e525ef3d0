"""Attention whose softmax is taken by hand: measured, or named where it is surely no map."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import entropylab
from entropylab.errors import EntropyLabError, EntropyLabWarning

from ..attention import together
from .nets import HEADS, WIDTH, Exponential, Method, OwnAttention, agree, net_of, recorded, run


class ByName(OwnAttention):
    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        return together(torch.softmax(input=logits, dim=-1) @ value)


class ByModule(OwnAttention):
    def __init__(self):
        super().__init__()
        self.normalise = nn.Softmax(dim=-1)

    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        return together(self.normalise(logits) @ value)


class ByPart(OwnAttention):
    """A part with no parameters takes the softmax, as in guided diffusion."""

    class Core(nn.Module):
        def forward(self, logits, value):
            return torch.softmax(logits, dim=-1) @ value

    def __init__(self):
        super().__init__()
        self.core = self.Core()

    def forward(self, tokens):
        return together(self.core(*self.by_hand(tokens)))


class HeadsInBatch(OwnAttention):
    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        return together(logits.flatten(0, 1).softmax(-1).unflatten(0, (-1, HEADS)) @ value)


class HeadsThird(OwnAttention):
    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        return together(logits.transpose(1, 2).softmax(-1).transpose(1, 2) @ value)


class AttnBlock(nn.Module):
    """As the first diffusion U-Nets have it: one head, and a name that says attn in front."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, tokens):
        logits = torch.bmm(self.q(tokens), self.k(tokens).transpose(1, 2)) / 4
        self.logits = logits.detach().clone()[:, None]
        return torch.bmm(F.softmax(logits, dim=2), self.v(tokens))


@pytest.mark.parametrize("attn", [Method, ByName, ByModule, ByPart, HeadsInBatch, HeadsThird, AttnBlock])
def test_a_softmax_by_hand_is_measured_in_every_forward(attn):
    rec = recorded(net := net_of(attn), strict=True)
    assert rec.dataset.sizes["step"] == 3
    assert agree(rec, net.attn.logits)
    assert not agree(rec, net.attn.logits * 1.01)


def test_a_layer_by_hand_that_runs_twice_in_a_forward_is_two():
    with entropylab.record(net := net_of(Method, times=2)) as rec, entropylab.record(net) as inner:
        run(net)
    assert rec.dataset.equals(inner.dataset)
    assert list(rec.dataset.layer.values) == ["model.attn", "model.attn:2"]
    assert agree(rec, net.attn.logits, layer=1)
    assert not agree(rec, net.attn.logits, layer=0)


class Gated(OwnAttention):
    """Its second softmax mixes three gates."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, 3)

    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        mixed = together(logits.softmax(-1) @ value)
        return mixed * self.gate(mixed).softmax(-1)[..., :1]


class Efficient(OwnAttention):
    """Linear attention that says so nowhere: its softmaxes are over channels and over tokens."""

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        return together(query.softmax(-1) @ (key.transpose(-1, -2).softmax(-1) @ value))


class LinearAttention(OwnAttention):
    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        return together(query @ (key.transpose(-1, -2).softmax(-1) @ value))


class Overwritten(OwnAttention):
    """The logits are gone when the layer is done."""

    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        weights = logits.softmax(-1)
        logits.zero_()
        return together(weights @ value)


UNREADABLE = [
    (Gated, "2 softmaxes by hand"),
    (Efficient, "2 softmaxes by hand"),
    (LinearAttention, "linear attention has no softmax"),
    (Overwritten, "1 softmaxes by hand"),
    (Exponential, "without an attention call that can be seen"),
]


@pytest.mark.parametrize(("attn", "reason"), UNREADABLE)
def test_what_is_surely_no_map_is_named_and_not_measured(attn, reason):
    net = net_of(attn)
    with pytest.warns(EntropyLabWarning, match=rf"model\.attn.*{reason}"):
        rec = recorded(net)
    assert reason in rec.unmeasured["model.attn"]
    with pytest.raises(EntropyLabError, match="nothing was measured"):
        _ = rec.dataset


class Routed(nn.Module):
    """A mixture of experts behind attention: its softmax is over experts."""

    class AttentionRouter(nn.Module):
        def __init__(self):
            super().__init__()
            self.choose = nn.Linear(WIDTH, 4)

        def forward(self, tokens):
            return tokens * self.choose(tokens).softmax(-1).amax(-1, keepdim=True)

    def __init__(self):
        super().__init__()
        self.attn, self.router = OwnAttention(), self.AttentionRouter()

    def forward(self, tokens):
        return self.router(self.attn(tokens))


def test_a_router_is_no_attention():
    rec = recorded(net := net_of(Routed))
    assert list(rec.dataset.layer.values) == ["model.attn.attn"]
    assert agree(rec, net.attn.attn.logits)
    assert rec.unmeasured == {}
