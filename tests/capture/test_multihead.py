"""``nn.MultiheadAttention``: masks, paths, whichever dimension comes first, offloaded."""

import accelerate
import pytest
import torch

from entropylab.errors import EntropyLabWarning

from ..seeds import normal
from .nets import HEADS, LATER, TEXT, TOKENS, WIDTH, Multihead, agree, by_hand, check, net_of, recorded, usual

INNER = ["model.attn.inner"]
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


def masked(logits, attn_mask=None, key_padding_mask=None, is_causal=False):
    """Logits under these masks; NaN in the rows of padding, which do not count."""
    for mask in (attn_mask, None if key_padding_mask is None else key_padding_mask[:, None, None]):
        if mask is not None:
            mask = mask.unflatten(0, (-1, HEADS)) if mask.ndim == 3 else mask
            logits = logits + (mask if mask.is_floating_point() else torch.where(mask, -torch.inf, 0))
    if key_padding_mask is None:
        return logits
    padding = key_padding_mask if key_padding_mask.dtype == torch.bool else key_padding_mask == -torch.inf
    return logits.masked_fill(padding[:, None, :, None], torch.nan)


@pytest.mark.parametrize("name", MASKS)
def test_multihead_attention_with_its_masks(name):
    needs = name in ("padding", "float", "by head", "both float")
    net = net_of(Multihead, MASKS[name], needs=needs, batch_first=not needs)
    check(net, lambda logits: masked(logits, **MASKS[name]), INNER)


def test_the_fast_path_is_taken_while_anybody_looks(monkeypatch):
    original, calls = torch._native_multi_head_attention, []
    monkeypatch.setattr(
        torch, "_native_multi_head_attention", lambda *args, **more: calls.append(1) or original(*args, **more)
    )
    recorded(net_of(Multihead), forwards=2)
    assert len(calls) == 4


@pytest.mark.parametrize("settings", [{}, {"kdim": 6, "vdim": 6}])
def test_cross_attention_of_multihead_attention(settings):
    context = normal(2, TEXT, settings.get("kdim", WIDTH), seed=5)
    rec = check(net_of(Multihead, {}, context, **settings), layers=INNER)
    assert list(rec.dataset.kind.values) == ["cross"] and int(rec.dataset.tokens.squeeze()) == TEXT


@pytest.mark.parametrize(("settings", "needs"), [({"add_bias_kv": True}, False), ({"add_zero_attn": True}, True)])
def test_multihead_attention_with_more_keys(settings, needs):
    rec = check(net := net_of(Multihead, needs=needs, **settings), layers=INNER)
    assert int(rec.dataset.tokens.squeeze()) == TOKENS + 1
    assert not agree(rec, net.attn.logits[..., :TOKENS])


def offloaded(attn):
    """A net to whose layers accelerate gives weights when they run, and no earlier."""
    net = net_of(attn)
    accelerate.cpu_offload(net, execution_device="cpu", preload_module_classes=["MultiheadAttention"])
    return net


@pytest.mark.parametrize("attn", [usual, by_hand])
def test_offloaded_layer_by_layer(attn):
    rec = recorded(offloaded(attn), strict=True)
    assert rec.dataset.entropy.equals(recorded(net_of(attn)).dataset.entropy)


def test_offloaded_multihead_attention_is_named():
    """Its weights are not there yet when its module is called."""
    with pytest.warns(EntropyLabWarning, match=r"model\.attn\.inner"):
        rec = recorded(offloaded(Multihead))
    assert list(rec.unmeasured) == INNER
