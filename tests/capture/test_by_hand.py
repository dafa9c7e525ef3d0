"""Attention by hand in modules of any name: measured if softmax of q k^T multiplies values, else named or let be."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import einsum, nn

import entropylab
from entropylab.errors import EntropyLabError, EntropyLabWarning

from ..attention import in_heads, together
from ..seeds import normal
from .nets import HEADS, TOKENS, WIDTH, Multihead, Net, OwnAttention, agree, check, exponential, net_of, recorded, run


class ByHand(OwnAttention):
    """Mixes values in its own way (query, key, value), where the query has the scale in it already."""

    def __init__(self, way):
        super().__init__(way)

    def sides(self, tokens):
        query, key, value = super().sides(tokens)
        return query / query.shape[-1] ** 0.5, key, value


class Block(nn.Module):
    """The same under names that say nothing."""

    heads_of_it = HEADS

    def __init__(self, way):
        super().__init__()
        self.way, self.num_heads = way, self.heads_of_it
        self.f, self.g, self.h = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        with torch.no_grad():
            self.f.weight.mul_(4)
            self.g.weight.mul_(4)

    def forward(self, tokens):
        query, key, value = (in_heads(part, tokens, self.heads_of_it) for part in (self.f, self.g, self.h))
        query = query / query.shape[-1] ** 0.5
        self.logits = (query @ key.mT).detach().clone()
        return together(self.way(query, key, value))


class AttnBlock(Block):
    """As the first diffusion U-Nets have it: one head, of which nothing is said, and a name that says attn in front."""

    heads_of_it = 1

    def __init__(self, way):
        super().__init__(way)
        del self.num_heads


def operators(query, key, value):
    return (query @ key.mT).softmax(-1) @ value


def einsums(query, key, value):
    weights = F.softmax(torch.einsum("b h i d, b h j d -> b h i j", query, key), dim=-1)
    return torch.einsum("...ij,...jd->...id", weights, value)


def batched(query, key, value):
    """Heads in the batch, and a map in another dtype, as in guided diffusion."""
    query, key, value = (side.flatten(0, 1) for side in (query, key, value))
    weights = torch.baddbmm(torch.zeros(1, TOKENS, TOKENS), query, key.mT).double().softmax(-1).float()
    return torch.bmm(weights, value).unflatten(0, (-1, HEADS))


class Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key):
        return torch.einsum("bhid,bhjd->bhij", query, key).softmax(dim=3)


class InParts(nn.Module):
    """Modules without parameters multiply, and take the softmax."""

    class Multiply(nn.Module):
        def forward(self, one, other):
            return one @ other

    def __init__(self):
        super().__init__()
        self.first, self.normalise, self.second = self.Multiply(), nn.Softmax(dim=-1), self.Multiply()

    def forward(self, query, key, value):
        return self.second(self.normalise(self.first(query, key.mT)), value)


ANYWHERE = [
    operators,
    einsums,
    batched,
    lambda q, k, v: torch.softmax(input=q @ k.mT, dim=-1) @ v,
    lambda q, k, v: einsum("bhij,bhjd->bhid", einsum("bhid,bhjd->bhij", q, k).softmax(-1), v),
    lambda q, k, v: (v.mT @ (q @ k.mT).softmax(3).transpose(-1, -2)).mT,  # turned, as in the first diffusion U-Nets
    lambda q, k, v: F.dropout((q @ k.mT).softmax(-1), 0.0, training=True) @ v,  # what is multiplied is a copy
    lambda q, k, v: Weights.apply(q, k) @ v,  # the map is made in a function of autograd, as in EDM
    InParts(),
]
IN_LAYERS = [
    operators,
    batched,
    lambda q, k, v: (q @ k.mT).transpose(1, 2).softmax(-1).transpose(1, 2) @ v,  # heads third
    lambda q, k, v: (mixed := operators(q, k, v)) * mixed[..., :3].softmax(-1)[..., :1],  # gates, by a second softmax
    InParts(),
]
WAYS = [*((Block, way) for way in ANYWHERE), *((ByHand, way) for way in IN_LAYERS)]
WAYS += [(AttnBlock, lambda q, k, v: torch.bmm(F.softmax(torch.bmm(q[:, 0], k[:, 0].mT), dim=2), v[:, 0])[:, None])]


@pytest.mark.parametrize(("attn", "way"), WAYS)
def test_attention_by_hand_is_measured_whatever_its_name_in_every_forward(attn, way):
    own = ".way" if attn is Block and isinstance(way, nn.Module) else ""
    rec = check(net := net_of(attn, way), layers=[f"model.attn{own}"])
    assert list(rec.dataset.kind.values) == ["self"] and rec.dataset.sizes["step"] == 2
    assert attn is AttnBlock or not agree(rec, net.attn.logits.flip(1)), "heads that are exchanged would be noticed"


def test_beside_attention_that_is_seen_otherwise():
    class Both(nn.Sequential):
        def __init__(self):
            super().__init__(OwnAttention(), Block(operators))

    rec = recorded(net := net_of(Both), strict=True)
    assert list(rec.dataset.layer.values) == ["model.attn.0", "model.attn.1"]
    assert all(agree(rec, net.attn[layer].logits, layer) for layer in (0, 1))


def test_a_layer_by_hand_that_runs_twice_in_a_forward_is_two():
    with (
        entropylab.record(net := net_of(ByHand, operators, kind=partial(Net, times=2))) as rec,
        entropylab.record(net) as inner,
    ):
        run(net)
    assert rec.dataset.equals(inner.dataset)
    assert list(rec.dataset.layer.values) == ["model.attn", "model.attn:2"]
    assert agree(rec, net.attn.logits, layer=1) and not agree(rec, net.attn.logits, layer=0)


def twice(query, key, value):
    """Two maps in one module: both multiply values."""
    return operators(key, query, operators(query, key, value))


@pytest.mark.parametrize("attn", [Block, ByHand])
def test_two_maps_of_a_module_are_two_calls(attn):
    with entropylab.record(net := net_of(attn, twice), strict=True) as rec, entropylab.record(net.attn) as inner:
        run(net)
    assert list(rec.dataset.layer.values) == ["model.attn", "model.attn:2"]
    assert agree(rec, net.attn.logits, layer=0) and agree(rec, net.attn.logits.mT, layer=1)
    np.testing.assert_array_equal(rec.dataset.entropy.values.ravel(), inner.dataset.entropy.values.ravel())


def test_sinks_do_not_hide_a_map():
    """A key that no token has, dropped before the values."""

    def with_sink(logits):
        return F.pad(logits, (0, 1))

    def mixed(query, key, value):
        return with_sink(query @ key.mT).softmax(-1)[..., :-1] @ value

    rec = check(net_of(Block, mixed), with_sink)
    assert list(rec.dataset.kind.values) == ["self"]


def overwritten(query, key, value):
    """The logits are gone when the values are multiplied."""
    logits = query @ key.mT
    weights = logits.softmax(-1)
    logits.zero_()
    return weights @ value


def learned(query, key, value):
    """Keys and values are learned, the same for every image."""
    keys, values = normal(8, TOKENS), normal(TOKENS, 8, seed=1)
    return torch.matmul((query @ keys.expand(*query.shape[:2], -1, -1)).softmax(-1), values)


def differential(query, key, value):
    """Both maps are gone in the one that multiplies values."""
    return ((query @ key.mT).softmax(-1) - 0.5 * (key @ query.mT).softmax(-1)) @ value


def head_by_head(query, key, value):
    """Two heads of two images: a batch of two may be either."""
    sides = zip(*(side.unbind(1) for side in (query, key, value)), strict=True)
    return torch.stack([(queries @ keys.mT).softmax(-1) @ values for queries, keys, values in sides], 1)


class LinearAttention(ByHand):
    pass


UNREADABLE = [
    overwritten,
    learned,
    lambda q, k, v: q.softmax(-1) @ (k.mT.softmax(-1) @ v),  # linear attention that says so nowhere
    lambda q, k, v: ((q @ k.mT).softmax(-1)[..., None] * v[:, :, None]).sum(-2),  # values one by one, and summed
    differential,
    head_by_head,
]


@pytest.mark.parametrize(
    ("attn", "way", "reason"),
    [
        *((attn, way, "takes a softmax") for attn in (Block, ByHand) for way in UNREADABLE),
        (LinearAttention, lambda q, k, v: q @ (k.mT.softmax(-1) @ v), "linear attention has no softmax"),
        (ByHand, exponential, "without an attention call that can be seen"),
    ],
)
def test_what_may_be_attention_and_can_not_be_told_is_named_and_not_measured(attn, way, reason):
    net = net_of(attn, way)
    with pytest.warns(EntropyLabWarning, match=rf"model\.attn \(.*{reason}"):
        rec = recorded(net)
    assert list(rec.unmeasured) == ["model.attn"]
    with pytest.raises(EntropyLabError, match=reason), entropylab.record(net, strict=True):
        run(net)
    with pytest.raises(EntropyLabError, match="nothing was measured"):
        _ = rec.dataset


class Harmless(nn.Module):
    """Softmaxes that are no attention, behind attention that is."""

    def __init__(self, use):
        super().__init__()
        self.attn = ByHand(operators)
        self.choose, self.experts = nn.Linear(WIDTH, 4), nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.codes = nn.Parameter(normal(4, WIDTH))
        self.use = use

    def forward(self, tokens):
        return self.use(self, self.attn(tokens))


def mixture_of_experts(net, tokens):
    gates = net.choose(tokens).softmax(-1)
    found = torch.stack([expert(tokens) for expert in net.experts], -2)
    return (gates[..., None, :] @ found)[..., 0, :]


HARMLESS = {
    "experts": mixture_of_experts,
    "router": lambda net, tokens: tokens * net.choose(tokens).softmax(-1).amax(-1, keepdim=True),
    "pooled": lambda net, tokens: tokens + net.choose(tokens)[..., :1].softmax(1).mT @ tokens,
    "classes": lambda net, tokens: tokens + (net.choose(tokens.mean(1)).softmax(-1) @ net.codes)[:, None],
    "nearest code": lambda net, tokens: F.softmax(net.choose(tokens), dim=-1) @ net.codes,
    "code of each": lambda net, tokens: tokens + (tokens @ net.codes.mT).softmax(-1).amax(-1, keepdim=True),
}


@pytest.mark.parametrize("use", HARMLESS.values(), ids=HARMLESS)
def test_harmless_softmaxes_are_neither_measured_nor_named(use):
    rec = recorded(net := net_of(Harmless, use), strict=True)
    assert list(rec.dataset.layer.values) == ["model.attn.attn"] and rec.unmeasured == {}
    assert agree(rec, net.attn.attn.logits)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "attn", [(ByHand, operators), (Block, operators), (Multihead,)], ids=lambda attn: attn[0].__name__
)
def test_it_can_not_be_rescaled_and_says_so_and_gradients_are_the_same(attn, training):
    net, tokens, grads = net_of(*attn), normal(2, TOKENS, WIDTH).requires_grad_(), []
    plain = run(net)
    with pytest.warns(EntropyLabWarning, match="rescaled nothing"):
        with entropylab.rescale(net, 1.5, train_size=8), entropylab.record(net) as rec:
            assert torch.equal(run(net), plain)
    assert agree(rec, net.attn.logits)
    for watch in (nullcontext(), entropylab.record(net.train(training))):
        net.zero_grad()
        with watch as rec:
            net(tokens, torch.tensor(2.0)).square().sum().backward()
        grads.append([part.grad.clone() for part in net.parameters()])
    assert agree(rec, net.attn.logits)
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))
