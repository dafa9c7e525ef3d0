"""Small denoisers whose attention keeps its logits, run watched and unwatched."""

import threading

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import flex_attention as flex

import entropylab

from ..attention import PlainAttention, together
from ..maps import entropy_of
from ..seeds import normal

WIDTH, HEADS, TOKENS, TEXT = 16, 2, 20, 7
LATER = torch.ones(TOKENS, TOKENS).triu(1).bool()


class OwnAttention(PlainAttention):
    """Attention that keeps its logits (batch, heads, queries, keys), as they were."""

    def __init__(self):
        super().__init__(WIDTH, HEADS)
        with torch.no_grad():
            self.to_q.weight.mul_(4)
            self.to_k.weight.mul_(4)

    def sides(self, tokens, context=None):
        query, key, value = super().sides(tokens, context)
        self.logits = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).detach().clone()
        return query, key, value

    def by_hand(self, tokens):
        """Logits that need a softmax, and values."""
        query, key, value = self.sides(tokens)
        return query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, value


class Net(nn.Module):
    """A denoiser with one attention layer, which may run several times in a forward."""

    def __init__(self, attn, times=1):
        super().__init__()
        self.proj, self.attn, self.times = nn.Linear(WIDTH, WIDTH), attn, times

    def forward(self, hidden_states, timestep, encoder_hidden_states=None):
        for _ in range(self.times):
            hidden_states = self.proj(hidden_states) + self.attn(hidden_states * timestep)
        return hidden_states


def net_of(attn, *args, **more):
    """A ``Net`` with attention of this class, the same weights whenever it is made."""
    torch.manual_seed(0)
    return Net(attn(*args), **more).eval()


def run(net, seed=0):
    with torch.no_grad():
        return net(normal(2, TOKENS, WIDTH, seed=seed), torch.tensor(2.0))


def recorded(net, forwards=3, **options):
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


class Method(OwnAttention):
    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        return together(logits.softmax(-1) @ value)


class Flex(OwnAttention):
    def __init__(self, score_mod=None, mask=None, positional=False, **more):
        super().__init__()
        self.arguments = (score_mod, mask, None, False) if positional else ()
        self.more = more if positional else {"score_mod": score_mod, "block_mask": mask, **more}

    def forward(self, tokens):
        found = flex.flex_attention(*self.sides(tokens), *self.arguments, **self.more)
        return together(found[0] if isinstance(found, tuple) else found)


class Exponential(OwnAttention):
    def forward(self, tokens):
        logits, value = self.by_hand(tokens)
        weights = (logits - logits.amax(-1, keepdim=True)).exp()
        return together(weights / weights.sum(-1, keepdim=True) @ value)


class Multihead(nn.Module):
    """``nn.MultiheadAttention`` with whatever arguments; keeps what its map should be by its own weights."""

    def __init__(self, masks=None, batch_first=True, context=None, needs=False, settings=None):
        super().__init__()
        settings = settings or {}
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first, **settings)
        with torch.no_grad():
            for name, weight in self.inner.named_parameters():
                if "proj_weight" in name:
                    weight.mul_(3)
        self.masks, self.context, self.needs = masks or {}, context, needs

    def forward(self, tokens):
        context = tokens if self.context is None else self.context.to(tokens.dtype)
        self.logits = self.reference(tokens.detach(), context.detach())
        if not self.inner.batch_first:
            same = context is tokens
            tokens = tokens.transpose(0, 1)
            context = tokens if same else context.transpose(0, 1)
        found = self.inner(tokens, context, context, need_weights=self.needs, **self.masks)[0]
        return found if self.inner.batch_first else found.transpose(0, 1)

    def reference(self, tokens, context):
        """Masked logits in float64: (batch, heads, queries, keys)."""
        inner = self.inner
        if inner.in_proj_bias.is_meta:
            return None
        packed = inner.in_proj_weight
        weights = packed.chunk(3) if packed is not None else (inner.q_proj_weight, inner.k_proj_weight)
        biases = inner.in_proj_bias.chunk(3)
        query, key = (
            F.linear(side.double(), weight.detach().double(), bias.detach().double())
            .unflatten(-1, (HEADS, -1))
            .transpose(1, 2)
            for side, weight, bias in zip((tokens, context), weights, biases, strict=False)
        )
        if inner.bias_k is not None:
            more = inner.bias_k.detach().double().unflatten(-1, (HEADS, -1)).transpose(1, 2)
            key = torch.cat([key, more.expand(len(key), -1, -1, -1)], 2)
        if inner.add_zero_attn:
            key = F.pad(key, (0, 0, 0, 1))
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        for name, mask in self.masks.items():
            if name == "is_causal":
                continue
            mask = mask[:, None, None] if name == "key_padding_mask" else mask
            mask = mask.unflatten(0, (-1, HEADS)) if mask.ndim == 3 else mask
            logits = logits.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        return logits


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


def run_joint(net):
    with torch.no_grad():
        return net(normal(2, TOKENS, WIDTH), torch.tensor(2.0), encoder_hidden_states=normal(2, TEXT, WIDTH, seed=1))


def new_joint():
    torch.manual_seed(0)
    return Joint().eval()


def in_thread(work):
    """Do ``work`` in a thread, and return what it returns."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]
