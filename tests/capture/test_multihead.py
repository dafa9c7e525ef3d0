"""``nn.MultiheadAttention`` with its masks, precisions and paths."""

import numpy as np
import pytest
import torch

import entropylab
from entropylab.errors import EntropyLabWarning

from ..maps import entropy_of
from ..seeds import normal
from .nets import HEADS, LATER, TEXT, TOKENS, WIDTH, Multihead, agree, net_of, recorded, run

PADDING = torch.arange(TOKENS).expand(2, TOKENS) >= torch.tensor([[15], [20]])
MASKS = {
    "none": {},
    "padding": {"key_padding_mask": PADDING},
    "float padding": {"key_padding_mask": torch.where(PADDING, -torch.inf, 0.5 * normal(2, TOKENS))},
    "causal": {"attn_mask": LATER},
    "causal, said so": {"attn_mask": LATER, "is_causal": True},
    "float": {"attn_mask": normal(TOKENS, TOKENS)},
    "by head": {"attn_mask": normal(2 * HEADS, TOKENS, TOKENS)},
    "boolean by head": {"attn_mask": (normal(2 * HEADS, TOKENS, TOKENS) > 1) & ~torch.eye(TOKENS, dtype=torch.bool)},
    "both": {"attn_mask": LATER, "key_padding_mask": PADDING},
    "both float": {"attn_mask": normal(TOKENS, TOKENS), "key_padding_mask": normal(2, TOKENS)},
}


def rows_that_count(masks):
    """Which query rows are no padding: (batch, 1, queries)."""
    padding = masks.get("key_padding_mask")
    if padding is None:
        return torch.ones(2, 1, TOKENS, dtype=torch.bool)
    return (~padding if padding.dtype == torch.bool else padding > -1e4)[:, None]


def multihead_agrees(rec, net, masks):
    wanted = entropy_of(net.attn.logits).masked_fill(~rows_that_count(masks), torch.nan).nanmean(-1).numpy()
    found = rec.dataset.entropy.isel(layer=-1, step=-1).squeeze(["size", "scaling", "branch"]).values
    return np.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", MASKS)
def test_multihead_attention_with_its_masks(name):
    needs = name in ("padding", "float", "by head", "both float")
    net = net_of(Multihead, MASKS[name], not needs, None, needs)
    rec = recorded(net)
    assert rec.unmeasured == {}
    assert multihead_agrees(rec, net, MASKS[name])
    net.attn.logits = net.attn.logits * 1.02
    assert not multihead_agrees(rec, net, MASKS[name])


def test_the_fast_path_is_taken_while_anybody_looks(monkeypatch):
    original, calls = torch._native_multi_head_attention, []

    def counted(*args, **more):
        calls.append(1)
        return original(*args, **more)

    monkeypatch.setattr(torch, "_native_multi_head_attention", counted)
    recorded(net_of(Multihead), forwards=2)
    assert len(calls) == 4


@pytest.mark.parametrize("settings", [{}, {"kdim": 6, "vdim": 6}])
def test_cross_attention_of_multihead_attention(settings):
    context = normal(2, TEXT, settings.get("kdim", WIDTH), seed=5)
    net = net_of(Multihead, {}, True, context, False, settings)
    rec = recorded(net)
    assert agree(rec, net.attn.logits)
    assert list(rec.dataset.kind.values) == ["cross"]
    assert int(rec.dataset.tokens.squeeze()) == TEXT


@pytest.mark.parametrize(("settings", "needs"), [({"add_bias_kv": True}, False), ({"add_zero_attn": True}, True)])
def test_multihead_attention_with_more_keys(settings, needs):
    net = net_of(Multihead, {}, True, None, needs, settings)
    rec = recorded(net)
    assert rec.unmeasured == {}
    assert int(rec.dataset.tokens.squeeze()) == TOKENS + 1
    assert agree(rec, net.attn.logits)
    assert not agree(rec, net.attn.logits[..., :TOKENS])


@pytest.mark.parametrize("training", [False, True])
def test_multihead_attention_with_gradients(training):
    net = net_of(Multihead).train(training)
    tokens = normal(2, TOKENS, WIDTH).requires_grad_()

    def gradients():
        net.zero_grad()
        net(tokens, torch.tensor(2.0)).square().sum().backward()
        return [weight.grad.clone() for weight in net.parameters()]

    plain = gradients()
    with entropylab.record(net) as rec:
        watched = [gradients(), gradients()]
    assert agree(rec, net.attn.logits)
    for found in watched:
        assert all(torch.equal(one, other) for one, other in zip(plain, found, strict=True))


def test_rescale_says_that_multihead_attention_can_not_be_rescaled():
    net = net_of(Multihead)
    plain = run(net)
    with pytest.warns(EntropyLabWarning, match="rescaled nothing"):
        with entropylab.rescale(net, 1.5, train_size=8), entropylab.record(net) as rec:
            assert torch.equal(run(net), plain)
    assert agree(rec, net.attn.logits)
