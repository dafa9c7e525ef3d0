"""Attention by hand in modules of any name: a softmax whose result multiplies values; other softmaxes are let be."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import einsum, nn

import entropylab
from entropylab.errors import EntropyLabError, EntropyLabWarning

from ..attention import together
from ..seeds import normal
from .nets import HEADS, TOKENS, WIDTH, Method, OwnAttention, agree, net_of, recorded, run


class Block(nn.Module):
    """Has what attention has, under names that say nothing."""

    def __init__(self):
        super().__init__()
        self.num_heads = HEADS
        self.f, self.g, self.h = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        with torch.no_grad():
            self.f.weight.mul_(4)
            self.g.weight.mul_(4)

    def sides(self, tokens):
        query, key, value = (
            part(tokens).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.f, self.g, self.h)
        )
        self.logits = (query @ key.mT / 8**0.5).detach().clone()
        return query / 8**0.5, key, value


class Operators(Block):
    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        return together((query @ key.mT).softmax(-1) @ value)


class Einsums(Block):
    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        weights = F.softmax(torch.einsum("b h i d, b h j d -> b h i j", query, key), dim=-1)
        return together(torch.einsum("...ij,...jd->...id", weights, value))


class ImportedEinsum(Block):
    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        return together(einsum("bhij,bhjd->bhid", einsum("bhid,bhjd->bhij", query, key).softmax(-1), value))


class Batched(Block):
    """Heads in the batch, and a map in another dtype, as in guided diffusion."""

    def forward(self, tokens):
        query, key, value = (side.flatten(0, 1) for side in self.sides(tokens))
        weights = torch.baddbmm(torch.zeros(1, TOKENS, TOKENS), query, key.mT).double().softmax(-1).float()
        return together(torch.bmm(weights, value).unflatten(0, (-1, HEADS)))


class Turned(Block):
    """Values times the turned map, as in the first diffusion U-Nets."""

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        weights = torch.matmul(query, key.mT).softmax(3)
        return together(torch.matmul(value.mT, weights.transpose(-1, -2)).mT)


class Dropped(Block):
    """The map goes through dropout, and what is multiplied is a copy."""

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        return together(F.dropout((query @ key.mT).softmax(-1), 0.0, training=True) @ value)


class Function(Block):
    """The map is made in a function of autograd, as in EDM."""

    class Weights(torch.autograd.Function):
        @staticmethod
        def forward(ctx, query, key):
            return torch.einsum("bhid,bhjd->bhij", query, key).softmax(dim=3)

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        return together(self.Weights.apply(query, key) @ value)


class InParts(Block):
    """Modules without parameters multiply, and take the softmax."""

    class Multiply(nn.Module):
        def forward(self, one, other):
            return one @ other

    def __init__(self):
        super().__init__()
        self.first, self.normalise, self.second = self.Multiply(), nn.Softmax(dim=-1), self.Multiply()

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        return together(self.second(self.normalise(self.first(query, key.mT)), value))


@pytest.mark.parametrize("block", [Operators, Einsums, ImportedEinsum, Batched, Turned, Dropped, Function, InParts])
def test_attention_by_hand_is_measured_whatever_its_name(block):
    rec = recorded(net := net_of(block), strict=True)
    assert list(rec.dataset.layer.values) == ["model.attn"] and list(rec.dataset.kind.values) == ["self"]
    assert rec.dataset.sizes["step"] == 3
    assert agree(rec, net.attn.logits)
    assert not agree(rec, net.attn.logits * 1.01)
    assert not agree(rec, net.attn.logits.flip(1))


def test_beside_attention_that_is_seen_otherwise():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.usual, self.other = OwnAttention(), Operators()

        def forward(self, tokens):
            return self.other(self.usual(tokens))

    rec = recorded(net := net_of(Both), strict=True)
    assert list(rec.dataset.layer.values) == ["model.attn.usual", "model.attn.other"]
    assert agree(rec, net.attn.usual.logits, layer=0) and agree(rec, net.attn.other.logits, layer=1)


class Twice(Block):
    """Two maps in one module: both multiply values."""

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        once = (query @ key.mT).softmax(-1) @ value
        return together((key @ query.mT).softmax(-1) @ once)


def test_two_maps_of_a_module_are_two_calls():
    with entropylab.record(net := net_of(Twice), strict=True) as rec, entropylab.record(net.attn) as inner:
        run(net)
    assert list(rec.dataset.layer.values) == ["model.attn", "model.attn:2"]
    assert agree(rec, net.attn.logits, layer=0) and agree(rec, net.attn.logits.mT, layer=1)
    np.testing.assert_array_equal(rec.dataset.entropy.values.ravel(), inner.dataset.entropy.values.ravel())


class Sinks(Block):
    """A key that no token has, dropped before the values."""

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        scores = query @ key.mT
        self.logits = torch.cat([scores, scores.new_ones(*scores.shape[:-1], 1)], -1)
        return together(self.logits.softmax(-1)[..., :-1] @ value)


def test_sinks_do_not_hide_a_map():
    rec = recorded(net := net_of(Sinks), strict=True)
    assert list(rec.dataset.kind.values) == ["self"]
    assert agree(rec, net.attn.logits)


class Efficient(Block):
    """Linear attention that says so nowhere."""

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        return together(query.softmax(-1) @ (key.mT.softmax(-1) @ value))


class Additive(Block):
    """Scores from no product: a small network looks at every pair."""

    def forward(self, tokens):
        query, key, value = (part(tokens)[:, None] for part in (self.f, self.g, self.h))
        return together((query[:, :, :, None] + key[:, :, None]).tanh().sum(-1).softmax(-1) @ value)


class Summed(Block):
    """Values are multiplied one by one, and summed."""

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        weights = (query @ key.mT).softmax(-1)
        return together((weights[..., None] * value[:, :, None]).sum(-2))


class Overwritten(Block):
    """The logits are gone when the values are multiplied."""

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        logits = query @ key.mT
        weights = logits.softmax(-1)
        logits.zero_()
        return together(weights @ value)


class Memory(Block):
    """Keys and values are learned, the same for every image."""

    def forward(self, tokens):
        return torch.matmul((tokens @ self.f.weight.expand(len(tokens), -1, -1)).softmax(-1), self.g.weight)


@pytest.mark.parametrize("block", [Efficient, Additive, Summed, Overwritten, Memory])
def test_what_may_be_attention_and_can_not_be_told_is_named(block):
    net = net_of(block)
    with pytest.warns(EntropyLabWarning, match=r"model\.attn \(takes a softmax"):
        rec = recorded(net)
    assert list(rec.unmeasured) == ["model.attn"]
    with pytest.raises(EntropyLabError, match="takes a softmax"), entropylab.record(net, strict=True):
        run(net)


class Harmless(nn.Module):
    """Softmaxes that are no attention, behind attention that is."""

    def __init__(self, use):
        super().__init__()
        self.attn = OwnAttention()
        self.choose, self.experts = nn.Linear(WIDTH, 4), nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.codes = nn.Parameter(normal(4, WIDTH))
        self.use = use

    def forward(self, tokens):
        return self.use(self, self.attn(tokens))


def mixture_of_experts(net, tokens):
    gates = net.choose(tokens).softmax(-1)
    found = torch.stack([expert(tokens) for expert in net.experts], -2)
    return (gates[..., None, :] @ found)[..., 0, :]


def pooled(net, tokens):
    weights = net.choose(tokens)[..., :1].softmax(1)
    return tokens + weights.mT @ tokens


def classes(net, tokens):
    chosen = net.choose(tokens.mean(1)).softmax(-1)
    return tokens + (chosen @ net.codes)[:, None]


def nearest_code(net, tokens):
    return F.softmax(net.choose(tokens), dim=-1) @ net.codes


def matrix_of_classes(net, tokens):
    return tokens + (tokens @ net.codes.mT).softmax(-1).amax(-1, keepdim=True)


HARMLESS = [mixture_of_experts, pooled, classes, nearest_code, matrix_of_classes]


@pytest.mark.parametrize("use", HARMLESS)
def test_harmless_softmaxes_are_neither_measured_nor_named(use):
    rec = recorded(net := net_of(Harmless, use), strict=True)
    assert list(rec.dataset.layer.values) == ["model.attn.attn"] and rec.unmeasured == {}
    assert agree(rec, net.attn.attn.logits)


@pytest.mark.parametrize("attn", [Method, Operators])
def test_it_can_not_be_rescaled_and_says_so(attn):
    net = net_of(attn)
    plain = run(net)
    with pytest.warns(EntropyLabWarning, match="rescale"), entropylab.rescale(net, 1.5, train_size=8):
        assert torch.equal(run(net), plain)


@pytest.mark.parametrize("attn", [Method, Operators])
def test_in_training_gradients_are_the_same(attn):
    net, grads = net_of(attn).train(), []
    for watch in (nullcontext, lambda: entropylab.record(net)):
        net.zero_grad()
        with watch():
            net(normal(2, TOKENS, WIDTH), torch.tensor(2.0)).square().sum().backward()
        grads.append([part.grad.clone() for part in net.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))
