"""Masks that are subclasses of tensors: read as what they mean, or the layer is named."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.bias import causal_lower_right, causal_upper_left

import entropylab
from entropylab.errors import EntropyLabWarning

from ..attention import together
from .nets import TOKENS, OwnAttention, agree, net_of, recorded, run

FEW = 8


class Masked(OwnAttention):
    """Attention under a mask, of all its tokens or of its last queries only."""

    def __init__(self, mask, queries=TOKENS):
        super().__init__()
        self.mask, self.queries = mask, queries

    def forward(self, tokens):
        query, key, value = self.sides(tokens)
        query, self.logits = query[..., -self.queries :, :], self.logits[..., -self.queries :, :]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask())
        return F.pad(together(mixed), (0, 0, TOKENS - self.queries, 0))


def closed(queries, offset):
    return torch.ones(queries, TOKENS).triu(1 + offset).bool()


CAUSAL = [
    (causal_upper_left, TOKENS, 0),
    (causal_lower_right, TOKENS, 0),
    (causal_upper_left, FEW, 0),
    (causal_lower_right, FEW, TOKENS - FEW),
]


@pytest.mark.parametrize(("bias", "queries", "offset"), CAUSAL)
def test_a_causal_bias_is_read_as_what_it_means(bias, queries, offset):
    net = net_of(Masked, lambda: bias(queries, TOKENS), queries)
    rec = recorded(net, strict=True)
    assert list(rec.dataset.layer.values) == ["model.attn"]
    assert agree(rec, net.attn.logits.masked_fill(closed(queries, offset), -torch.inf))
    assert not agree(rec, net.attn.logits)
    mean_keys = float((~closed(queries, offset)).sum(-1).float().mean())
    assert rec.dataset.tokens.values.ravel() == pytest.approx(mean_keys)


@pytest.mark.parametrize("queries", [TOKENS, FEW])
def test_attention_under_a_causal_bias_is_rescaled(queries):
    plain = net_of(Masked, lambda: ~closed(queries, TOKENS - queries), queries)
    net = net_of(Masked, lambda: causal_lower_right(queries, TOKENS), queries)
    with entropylab.rescale(plain, 1.5, train_size=8, kinds=("self", "cross")):
        wanted = run(plain)
    with entropylab.rescale(net, 1.5, train_size=8, kinds=("self", "cross")), entropylab.record(net) as rec:
        assert torch.allclose(run(net), wanted, atol=1e-6)
    assert agree(rec, 1.5 * net.attn.logits.masked_fill(closed(queries, TOKENS - queries), -torch.inf))


class Tagged(torch.Tensor):
    pass


BIAS = torch.linspace(-3, 3, TOKENS * TOKENS).reshape(TOKENS, TOKENS)


@pytest.mark.parametrize("kind", [lambda bias: nn.Parameter(bias), lambda bias: bias.as_subclass(Tagged)])
def test_a_subclass_that_is_only_values_is_those_values(kind):
    net = net_of(Masked, lambda: kind(BIAS))
    rec = recorded(net, strict=True)
    assert agree(rec, net.attn.logits + BIAS)
    assert not agree(rec, net.attn.logits)


class Windowed(torch.Tensor):
    """A mask that only its class knows to read: its values are not what it means."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, key, value = args[:3]
            near = (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)).abs() < 3
            return F.scaled_dot_product_attention(query, key, value, near, scale=kwargs.get("scale"))
        return super().__torch_function__(func, types, args, kwargs)


def test_a_mask_that_only_its_class_can_read_is_named():
    net = net_of(Masked, lambda: torch.zeros(TOKENS, TOKENS).as_subclass(Windowed))
    with pytest.warns(EntropyLabWarning, match="model.attn"):
        rec = recorded(net)
    assert list(rec.unmeasured) == ["model.attn"] and "Windowed" in rec.unmeasured["model.attn"]
    near = net_of(Masked, lambda: (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)).abs() < 3)
    with entropylab.rescale(net, 1.5, train_size=8), entropylab.rescale(near, 1.5, train_size=8):
        assert torch.equal(run(net), run(near))
