"""Small denoisers whose attention keeps its logits, run watched and unwatched."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import flex_attention as flex

import entropylab

from ..attention import PlainAttention, together
from ..maps import entropy_of, logits_of
from ..seeds import normal

WIDTH, HEADS, TOKENS, TEXT = 16, 2, 20, 7
LATER = torch.ones(TOKENS, TOKENS).triu(1).bool()


def usual(query, key, value):
    return F.scaled_dot_product_attention(query, key, value)


def by_hand(query, key, value):
    return (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value


def exponential(query, key, value):
    """Attention that nobody can see."""
    weights = (query @ key.mT / query.shape[-1] ** 0.5).exp()
    return weights / weights.sum(-1, keepdim=True) @ value


def flexible(query, key, value):
    return flex.flex_attention(query, key, value)


class OwnAttention(PlainAttention):
    """Attention by ``way`` (query, key, value), that keeps its logits (batch, heads, queries, keys), as they were."""

    def __init__(self, way=usual):
        super().__init__(WIDTH, HEADS)
        self.way = way
        with torch.no_grad():
            self.to_q.weight.mul_(4)
            self.to_k.weight.mul_(4)

    def sides(self, tokens, context=None):
        query, key, value = super().sides(tokens, context)
        self.logits = (query @ key.mT / query.shape[-1] ** 0.5).detach().clone()
        return query, key, value

    def forward(self, tokens):
        return together(self.way(*self.sides(tokens)))


class Multihead(nn.Module):
    """``nn.MultiheadAttention`` with whatever arguments; keeps what its logits should be by its own weights."""

    def __init__(self, masks=None, context=None, needs=False, batch_first=True, **settings):
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first, **settings)
        with torch.no_grad():
            for name, weight in self.inner.named_parameters():
                if "proj_weight" in name:
                    weight.mul_(1.5)
        self.masks, self.context, self.needs = masks or {}, context, needs

    def forward(self, tokens):
        context = tokens if self.context is None else self.context.to(tokens.dtype)
        if not self.inner.in_proj_bias.is_meta:
            self.logits = multihead_logits(self.inner, tokens, context)
        if not self.inner.batch_first:
            same, tokens = context is tokens, tokens.transpose(0, 1)
            context = tokens if same else context.transpose(0, 1)
        found = self.inner(tokens, context, context, need_weights=self.needs, **self.masks)[0]
        return found if self.inner.batch_first else found.transpose(0, 1)


@torch.no_grad()
def multihead_logits(module, query, key):
    """Logits of a MultiheadAttention without masks, in float64, of tokens that have the batch first."""
    packed = module.in_proj_weight
    weights = packed.chunk(3) if packed is not None else (module.q_proj_weight, module.k_proj_weight)
    query, key = (
        F.linear(side.double(), weight.double(), bias.double()).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for side, weight, bias in zip((query, key), weights, module.in_proj_bias.chunk(3), strict=False)
    )
    if module.bias_k is not None:
        more = module.bias_k.double().unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        key = torch.cat([key, more.expand(len(key), -1, -1, -1)], 2)
    return logits_of(query, F.pad(key, (0, 0, 0, 1)) if module.add_zero_attn else key)


EVERY = [usual, by_hand, Multihead, flexible]
"""The ways in which attention is seen, each by other code."""


class Net(nn.Module):
    """A denoiser with one attention layer, which may run several times in a forward."""

    def __init__(self, attn, times=1):
        super().__init__()
        self.proj, self.attn, self.times = nn.Linear(WIDTH, WIDTH), attn, times

    def forward(self, hidden_states, timestep, encoder_hidden_states=None):
        for _ in range(self.times):
            hidden_states = self.proj(hidden_states) + self.attn(hidden_states * timestep)
        return hidden_states


class Unnamed(Net):
    """A module whose forward takes tokens and nothing else: nothing is known of what they stand for."""

    def forward(self, tokens):
        return self.attn(tokens)


def net_of(attn, *args, kind=Net, **more):
    """A ``Net`` with attention of a class, or in a way; the same weights whenever it is made."""
    torch.manual_seed(0)
    return kind(attn(*args, **more) if isinstance(attn, type) else OwnAttention(attn)).eval()


def run(net, seed=0):
    tokens = normal(2, TOKENS, WIDTH, seed=seed)
    with torch.no_grad():
        return net(tokens) if isinstance(net, Unnamed) else net(tokens, torch.tensor(2.0))


def recorded(net, forwards=2, **options):
    """The recorder of some forwards, whose outputs are those of forwards that nobody looked at."""
    plain = [run(net, seed) for seed in range(forwards)]
    with entropylab.record(net, **options) as rec:
        watched = [run(net, seed) for seed in range(forwards)]
    for one, other in zip(plain, watched, strict=True):
        assert torch.equal(one, other)
    return rec


def agree(rec, logits, layer=-1, step=-1, atol=1e-5):
    """Whether a layer's entropies are those of the softmax of its logits: (batch, heads, queries, keys)."""
    found = rec.dataset.entropy.isel(layer=layer, step=step).squeeze(["size", "scaling", "branch"]).values
    wanted = entropy_of(logits).nanmean(-1).numpy()
    return found.shape == wanted.shape and np.allclose(found, wanted, atol=atol, rtol=0)


def check(net, change=lambda logits: logits, layers=("model.attn",)):
    """All is measured as one layer; its entropies are those of its logits, changed, and would notice other logits."""
    rec = recorded(net, strict=True)
    assert list(rec.dataset.layer.values) == list(layers)
    assert agree(rec, change(net.attn.logits))
    assert not agree(rec, change(net.attn.logits * 1.02))
    return rec


class Joint(nn.Module):
    """A denoiser with a block in the middle, whose attention has text first."""

    class Middle(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = OwnAttention()

        def forward(self, hidden_states, timestep):
            return self.attn(hidden_states)

    def __init__(self):
        super().__init__()
        self.one, self.middle, self.two = OwnAttention(), self.Middle(), OwnAttention()

    def forward(self, hidden_states, timestep, encoder_hidden_states):
        both = torch.cat([encoder_hidden_states, hidden_states], 1)
        return self.two(self.middle(self.one(both), timestep))[:, encoder_hidden_states.shape[1] :]


def new_joint(kind=Joint):
    torch.manual_seed(0)
    return kind().eval()


def run_joint(net):
    with torch.no_grad():
        return net(normal(2, TOKENS, WIDTH), torch.tensor(2.0), encoder_hidden_states=normal(2, TEXT, WIDTH, seed=1))
