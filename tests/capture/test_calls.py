"""Whatever is handed to ``scaled_dot_product_attention``, and what is said of attention that was not measured."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.bias import causal_lower_right, causal_upper_left

import entropylab
from entropylab.errors import EntropyLabError, EntropyLabWarning

from ..attention import together
from ..maps import entropy_of, logits_of
from ..seeds import normal
from ..zoo import BY_NAME
from .nets import TOKENS, WIDTH, OwnAttention, agree, check, exponential, net_of, recorded, run, usual

SHAPES = {
    "two dimensions": ((10, 4), (12, 4), None, False),
    "heads in the batch, and a mask": ((2, 10, 4), (2, 12, 4), (2, 10, 12), False),
    "five": ((2, 3, 2, 10, 4), (2, 3, 2, 12, 4), None, False),
    "five, and a mask": ((2, 3, 2, 10, 4), (2, 3, 2, 12, 4), (2, 1, 1, 10, 12), False),
    "five, and a shorter mask": ((2, 3, 2, 10, 4), (2, 3, 2, 12, 4), (3, 2, 10, 12), False),
    "keys for all images": ((2, 2, 10, 4), (1, 2, 12, 4), None, False),
    "queries for all images": ((1, 2, 10, 4), (2, 2, 12, 4), None, False),
    "keys for all heads": ((2, 2, 10, 4), (2, 1, 12, 4), None, False),
    "queries for all heads": ((2, 1, 10, 4), (2, 2, 12, 4), None, False),
    "keys by head alone": ((2, 2, 10, 4), (2, 12, 4), None, False),
    "grouped": ((2, 4, 10, 4), (2, 2, 12, 4), None, True),
}


class ShapedAttention(nn.Module):
    """Attention on tensors of its own."""

    def __init__(self, query=(2, 2, 10, 4), key=(2, 2, 12, 4), mask=None, grouped=False, scale=0.7):
        super().__init__()
        self.to_q, self.to_k, self.heads = nn.Linear(4, 4), nn.Linear(4, 4), 2
        self.query, self.key = normal(*query), normal(*key, seed=1)
        self.mask = None if mask is None else normal(*mask, seed=2)
        self.grouped, self.scale = grouped, scale

    def forward(self, tokens):
        more = {"enable_gqa": True} if self.grouped else {}
        return F.scaled_dot_product_attention(
            self.query, self.key, self.key, attn_mask=self.mask, scale=self.scale, **more
        )

    def entropies(self, factor=1.0):
        """Mean entropies of the rows (..., heads), of logits times ``factor``."""
        key = self.key.repeat_interleave(2, -3) if self.grouped else self.key
        logits = logits_of(self.query, key, float(self.scale))
        return entropy_of(factor * (logits if self.mask is None else logits + self.mask)).mean(-1)

    def recorded(self, images=2):
        plain = self(normal(images, 10, 4))
        with entropylab.record(self) as rec:
            assert torch.equal(self(normal(images, 10, 4)), plain)
        return rec


@pytest.mark.parametrize("name", SHAPES)
def test_whatever_shapes_attention_takes(name):
    net = ShapedAttention(*SHAPES[name])
    rec = net.recorded(images=1)
    found = rec.dataset.entropy.mean("sample").squeeze().values
    for factor in (1.0, 1.01):
        wanted = net.entropies(factor)
        wanted = wanted.flatten(0, -2).mean(0) if net(None).ndim > 3 else wanted
        assert np.allclose(found, wanted, atol=1e-5) is (factor == 1.0)
    assert rec.unmeasured == {}


def test_heads_in_the_batch_are_rescaled_each_by_its_own():
    net, factors = ShapedAttention((4, 10, 4), (4, 12, 4)), torch.tensor([1.0, 2.0])
    with entropylab.rescale(net, lambda tokens, trained: factors, kinds="cross", train_size=8):
        with entropylab.record(net) as rec:
            net(normal(2, 11, 4))
    found = rec.dataset.entropy.squeeze().transpose("sample", "head").values
    for given in (factors, factors.flip(0)):
        wanted = net.entropies(given.repeat(2)[:, None, None]).unflatten(0, (2, 2))
        assert np.allclose(found, wanted, atol=1e-5) == (given is factors)


@pytest.mark.parametrize("scale", [torch.tensor(0.3), np.float32(0.3), 0, 1])
def test_scales_that_are_no_floats(scale):
    net = ShapedAttention(scale=scale)
    found = net.recorded().dataset.entropy.squeeze()
    for factor in (1.0, 1.01):
        assert np.allclose(found, net.entropies(factor), atol=1e-5) == (factor == 1.0 or scale == 0)


@pytest.mark.parametrize(("key", "scale", "reason"), [((2, 2, 0, 4), 1.0, "must not be empty"), (None, -1.0, "scale")])
def test_a_call_that_can_not_be_measured_is_named_and_the_model_goes_on(key, scale, reason):
    with pytest.warns(EntropyLabWarning, match=reason):
        rec = ShapedAttention(key=key or (2, 2, 12, 4), scale=scale).recorded()
    assert reason in rec.unmeasured["model"]


def test_linear_attention_is_named_as_such():
    family = BY_NAME["Sana"]
    pipe = family.build()
    with pytest.warns(EntropyLabWarning, match="linear attention has no softmax"), entropylab.record(pipe) as rec:
        family.sample(pipe)
    assert rec.unmeasured and all("linear attention has no softmax" in why for why in rec.unmeasured.values())
    listed = json.loads(rec.dataset.attrs["unmeasured"])
    assert [line.split(":")[0] for line in listed] == list(rec.unmeasured)
    ran = {layer.path for layer in entropylab.layers(pipe)}
    assert set(rec.unmeasured) | set(rec.dataset.module.values) == ran
    with pytest.raises(EntropyLabError, match="linear attention") as caught, entropylab.record(pipe, strict=True):
        family.sample(pipe)
    assert caught.value.dataset.drop_attrs().equals(rec.dataset.drop_attrs())


def test_strict_has_no_dataset_if_there_is_none_and_hides_no_other_error():
    net = net_of(exponential)
    with pytest.raises(EntropyLabError, match=r"model\.attn") as caught, entropylab.record(net, strict=True):
        run(net)
    assert not hasattr(caught.value, "dataset")
    with pytest.raises(ZeroDivisionError), entropylab.record(net, strict=True):
        run(net)
        raise ZeroDivisionError


def test_a_forward_that_is_called_past_the_model_is_named():
    net = net_of(usual)
    with torch.no_grad(), pytest.warns(EntropyLabWarning, match=r"call model\(...\)"), entropylab.record(net) as rec:
        net.forward(normal(2, TOKENS, WIDTH), torch.tensor(2.0))
    assert list(rec.unmeasured) == ["model.attn"]


# Masks that are subclasses of tensors: read as what they mean, or the layer is named

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


CAUSAL = [
    (causal_upper_left, TOKENS, 0),
    (causal_lower_right, TOKENS, 0),
    (causal_upper_left, FEW, 0),
    (causal_lower_right, FEW, TOKENS - FEW),
]


@pytest.mark.parametrize(("bias", "queries", "offset"), CAUSAL)
def test_a_causal_bias_is_read_as_what_it_means_and_rescaled(bias, queries, offset):
    closed = torch.ones(queries, TOKENS).triu(1 + offset).bool()
    plain, net = net_of(Masked, lambda: ~closed, queries), net_of(Masked, lambda: bias(queries, TOKENS), queries)
    rec = check(net, lambda logits: logits.masked_fill(closed, -torch.inf))
    assert not agree(rec, net.attn.logits)
    assert rec.dataset.tokens.values.ravel() == pytest.approx(float((~closed).sum(-1).float().mean()))
    with entropylab.rescale(plain, 1.5, train_size=8, kinds=("self", "cross")):
        wanted = run(plain)
    with entropylab.rescale(net, 1.5, train_size=8, kinds=("self", "cross")), entropylab.record(net) as rec:
        assert torch.allclose(run(net), wanted, atol=1e-6)
    assert agree(rec, 1.5 * net.attn.logits.masked_fill(closed, -torch.inf))


class Tagged(torch.Tensor):
    pass


BIAS = torch.linspace(-3, 3, TOKENS * TOKENS).reshape(TOKENS, TOKENS)


@pytest.mark.parametrize("kind", [lambda bias: nn.Parameter(bias), lambda bias: bias.as_subclass(Tagged)])
def test_a_subclass_that_is_only_values_is_those_values(kind):
    check(net_of(Masked, lambda: kind(BIAS)), lambda logits: logits + BIAS)


NEAR = (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)).abs() < 3


class Windowed(torch.Tensor):
    """A mask that only its class knows to read: its values are not what it means."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.scaled_dot_product_attention:
            return F.scaled_dot_product_attention(*args[:3], NEAR, scale=kwargs.get("scale"))
        return super().__torch_function__(func, types, args, kwargs)


def test_a_mask_that_only_its_class_can_read_is_named():
    net = net_of(Masked, lambda: torch.zeros(TOKENS, TOKENS).as_subclass(Windowed))
    with pytest.warns(EntropyLabWarning, match="model.attn"):
        rec = recorded(net)
    assert list(rec.unmeasured) == ["model.attn"] and "Windowed" in rec.unmeasured["model.attn"]
    near = net_of(Masked, lambda: NEAR)
    with entropylab.rescale(net, 1.5, train_size=8), entropylab.rescale(near, 1.5, train_size=8):
        assert torch.equal(run(net), run(near))
