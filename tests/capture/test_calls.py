"""Whatever is handed to ``scaled_dot_product_attention``, and what is said of attention that was not measured."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import entropylab
from entropylab.errors import EntropyLabError, EntropyLabWarning

from ..maps import entropy_of, logits_of
from ..seeds import normal
from ..zoo import BY_NAME
from .nets import TOKENS, WIDTH, Exponential, OwnAttention, net_of, run

SHAPES = {
    "two dimensions": ((10, 4), (12, 4), None, False),
    "three, and a mask": ((2, 10, 4), (2, 12, 4), (2, 10, 12), False),
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

    def __init__(self, query, key, mask=None, grouped=False, scale=0.7):
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
        """Entropies of the rows (..., queries), of logits times ``factor``."""
        key = self.key.repeat_interleave(2, -3) if self.grouped else self.key
        logits = logits_of(self.query, key, float(self.scale))
        return entropy_of(factor * (logits if self.mask is None else logits + self.mask))


@pytest.mark.parametrize("name", SHAPES)
def test_whatever_shapes_attention_takes(name):
    net = ShapedAttention(*SHAPES[name])
    plain = net(normal(1, 10, 4))
    with entropylab.record(net, strict=True) as rec:
        assert torch.equal(net(normal(1, 10, 4)), plain)
    found = rec.dataset.entropy.mean("sample").squeeze().values
    for factor in (1.0, 1.01):
        wanted = net.entropies(factor).mean(-1)
        wanted = wanted.flatten(0, -2).mean(0) if wanted.ndim > 1 and plain.ndim > 3 else wanted.mean()
        assert np.allclose(found, wanted, atol=1e-5) is (factor == 1.0)


@pytest.mark.parametrize("scale", [torch.tensor(0.3), np.float32(0.3), 0, 1])
def test_scales_that_are_no_floats(scale):
    net = ShapedAttention((2, 2, 10, 4), (2, 2, 12, 4), scale=scale)
    with entropylab.record(net) as rec:
        net(normal(2, 10, 4))
    for factor in (1.0, 1.01):
        wanted = net.entropies(factor).mean(-1)
        assert np.allclose(rec.dataset.entropy.squeeze(), wanted, atol=1e-5) == (factor == 1.0 or scale == 0)


@pytest.mark.parametrize(("key", "scale", "reason"), [((2, 2, 0, 4), 1.0, "must not be empty"), (None, -1.0, "scale")])
def test_a_call_that_can_not_be_measured_is_named_and_the_model_goes_on(key, scale, reason):
    net = ShapedAttention((2, 2, 10, 4), key or (2, 2, 12, 4), scale=scale)
    plain = net(normal(2, 10, 4))
    with pytest.warns(EntropyLabWarning, match=reason), entropylab.record(net) as rec:
        assert torch.equal(net(normal(2, 10, 4)), plain)
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
    net = net_of(Exponential)
    with pytest.raises(EntropyLabError, match=r"model\.attn") as caught, entropylab.record(net, strict=True):
        run(net)
    assert not hasattr(caught.value, "dataset")
    with pytest.raises(ZeroDivisionError), entropylab.record(net, strict=True):
        run(net)
        raise ZeroDivisionError


def test_a_forward_that_is_called_past_the_model_is_named():
    net = net_of(OwnAttention)
    with torch.no_grad(), pytest.warns(EntropyLabWarning, match=r"call model\(...\)"), entropylab.record(net) as rec:
        net.forward(normal(2, TOKENS, WIDTH), torch.tensor(2.0))
    assert list(rec.unmeasured) == ["model.attn"]
