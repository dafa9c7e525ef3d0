"""Linear layers that are quantised by the range of all their tokens: what the tokens stand for is told all the same."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import entropylab
from entropylab.capture.tracing import Trace
from entropylab.errors import EntropyLabWarning

from ..joints import inputs, new_joint
from .test_roles import agree, recorded


def by_range(tensor, dtype):
    """A tensor in few bits, and the one scale of all of it."""
    most = torch.finfo(dtype).max if dtype.is_floating_point else torch.iinfo(dtype).max
    tensor = tensor if dtype.is_floating_point else tensor.nan_to_num()
    scale = tensor.abs().amax().clamp(min=1e-12) / most
    return (tensor / scale if dtype.is_floating_point else (tensor / scale).round()).to(dtype), scale


def product(tokens, weight, bias, dtype):
    """A linear layer of two tensors in few bits."""
    (tokens, one), (weight, other) = by_range(tokens, dtype), by_range(weight, dtype)
    found = tokens.float() @ weight.float().t() * (one * other)
    return found if bias is None else found + bias


class OpaqueWeight(torch.Tensor):
    """A weight that quantises what it is multiplied by, where nobody sees it, as torchao's does."""

    dtype_of_products = torch.float8_e4m3fn

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is not F.linear:
            return super().__torch_function__(func, types, args, kwargs or {})
        tokens, weight, bias = (*args, None)[:3]
        plain = weight.as_subclass(torch.Tensor)
        bias = None if bias is None else bias.as_subclass(torch.Tensor)
        return product(tokens, plain, bias, weight.dtype_of_products)


class OpaqueInt8Weight(OpaqueWeight):
    dtype_of_products = torch.int8


class OpenLinear(nn.Linear):
    """The same, one function of PyTorch after the other."""

    def forward(self, tokens):
        return product(tokens, self.weight, self.bias, torch.float8_e4m3fn)


def quantised(model, how):
    """``model`` with its linear layers of another class, or with weights of another class."""
    for part in [part for part in model.modules() if type(part) is nn.Linear]:
        if how is OpenLinear:
            part.__class__ = OpenLinear
        else:
            part.weight = nn.Parameter(part.weight.detach().as_subclass(how), requires_grad=False)
    return model


@pytest.mark.parametrize(
    ("order", "how"),
    [(("text", "image"), OpaqueWeight), (("image", "text"), OpaqueInt8Weight), ("shuffled", OpenLinear)],
)
def test_parts_of_a_quantised_joint_transformer(order, how):
    agree(*recorded(quantised(new_joint(order), how), inputs(), inputs(12, 9)))


def test_quantisation_would_spread_what_is_followed():
    """The partner: one NaN makes every token NaN, or goes lost."""
    tokens = torch.randn(2, 5, 8)
    tokens[0, 1] = torch.nan
    for how, bad in ((OpaqueWeight, 10), (OpaqueInt8Weight, 0), (OpenLinear, 10)):
        layer = quantised(nn.Sequential(nn.Linear(8, 8)), how)
        assert int(layer(tokens).isnan().any(-1).sum()) == bad


# Models that can't be followed


class Several(nn.Module):
    """A joint transformer that treats image and text by one function, which is not followed."""

    def __init__(self):
        super().__init__()
        self.inner = new_joint()

    def forward(self, hidden_states, encoder_hidden_states, timestep):
        image, text = torch._foreach_mul([hidden_states, encoder_hidden_states], 1.0)
        return self.inner(image, text, timestep)


def forwards(model, sizes):
    """Forwards with so many tokens of image and text."""
    with torch.no_grad():
        for size in sizes:
            model(**inputs(*size))


def test_a_model_that_can_not_be_followed_is_tried_once_and_named(monkeypatch):
    model, own, tried = Several(), Trace.__enter__, []
    monkeypatch.setattr(Trace, "__enter__", lambda self: tried.append(self) or own(self))
    with pytest.warns(EntropyLabWarning, match=r"Several \(.*foreach.*\)") as told, entropylab.record(model) as rec:
        forwards(model, [(12, 7), (12, 7), (12, 9), (12, 7), (12, 9)])
    assert len(tried) == 2, "once for each layout"
    assert len(told) == 1
    assert rec.unmeasured == {}
    assert set(rec.dataset.part.values) == {"unknown"}
    told = pytest.warns(EntropyLabWarning, match="could not tell what the tokens of Several stand for")
    with told, entropylab.rescale(model, 1.5):
        forwards(model, [(12, 7), (12, 7)])
