"""``nn.MultiheadAttention`` and PyTorch's layers of it: masks, paths, whichever dimension comes first, offloaded."""

import accelerate
import numpy as np
import pytest
import torch
from torch import nn

import entropylab
from entropylab.errors import EntropyLabWarning

from ..maps import entropy_of, logits_of
from ..seeds import normal
from . import bare
from .nets import HEADS, LATER, TEXT, TOKENS, WIDTH, Method, Multihead, OwnAttention, agree, net_of, recorded, run

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


def multihead_agrees(rec, net, masks):
    """Of the query rows that are no padding."""
    padding = masks.get("key_padding_mask", torch.zeros(2, TOKENS, dtype=torch.bool))
    padding = padding if padding.dtype == torch.bool else padding <= -1e4
    wanted = entropy_of(net.attn.logits).masked_fill(padding[:, None], torch.nan).nanmean(-1).numpy()
    found = rec.dataset.entropy.isel(layer=-1, step=-1).squeeze(["size", "scaling", "branch"]).values
    return np.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", MASKS)
def test_multihead_attention_with_its_masks(name):
    needs = name in ("padding", "float", "by head", "both float")
    rec = recorded(net := net_of(Multihead, MASKS[name], not needs, None, needs), strict=True)
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
    rec = recorded(net := net_of(Multihead, {}, True, context, False, settings))
    assert agree(rec, net.attn.logits)
    assert list(rec.dataset.kind.values) == ["cross"] and int(rec.dataset.tokens.squeeze()) == TEXT


@pytest.mark.parametrize(("settings", "needs"), [({"add_bias_kv": True}, False), ({"add_zero_attn": True}, True)])
def test_multihead_attention_with_more_keys(settings, needs):
    rec = recorded(net := net_of(Multihead, {}, True, None, needs, settings), strict=True)
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


def offloaded(attn):
    """A net to whose layers accelerate gives weights when they run, and no earlier."""
    net = net_of(attn)
    accelerate.cpu_offload(net, execution_device="cpu", preload_module_classes=["MultiheadAttention"])
    return net


@pytest.mark.parametrize("attn", [OwnAttention, Method])
def test_offloaded_layer_by_layer(attn):
    rec = recorded(offloaded(attn), strict=True)
    assert rec.dataset.entropy.equals(recorded(net_of(attn)).dataset.entropy)


def test_offloaded_multihead_attention_is_named():
    """Its weights are not there yet when its module is called."""
    with pytest.warns(EntropyLabWarning, match=r"model\.attn\.inner"):
        rec = recorded(offloaded(Multihead))
    assert list(rec.unmeasured) == ["model.attn.inner"]


# PyTorch's own layers


def maps_of(module, query, key, closed=None):
    """Maps of a MultiheadAttention from tokens that have the batch first, in float64: (batch, heads, queries, keys)."""
    weights = (part.double() for part in module.in_proj_weight.chunk(3)[:2])
    biases = (part.double() for part in module.in_proj_bias.chunk(3)[:2])
    q, k = (
        nn.functional.linear(side.double(), weight, bias).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for side, weight, bias in zip((query, key), weights, biases, strict=True)
    )
    logits = logits_of(q, k)
    return (logits if closed is None else logits.masked_fill(closed, -torch.inf)).softmax(-1).detach()


def new_encoder(batch_first=True):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 32, batch_first=batch_first)
    return bare.sharpened(nn.TransformerEncoder(layer, 2))


@pytest.mark.parametrize(("batch_first", "shape"), [(True, (3, 11)), (False, (4, 8)), (True, (8, 4)), (False, (5, 1))])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_pytorch_encoder_whatever_comes_first(batch_first, shape):
    """(batch, tokens) or (tokens, batch), one a multiple of the other: samples are samples, and no layer is lost."""
    model, given = new_encoder(batch_first), normal(*shape, 32)
    ds = bare.recorded(model, given)
    batch, count = shape if batch_first else shape[::-1]
    assert (ds.sizes["sample"], ds.sizes["layer"]) == (batch, 2)
    assert set(ds.tokens.values.ravel()) == {count}
    first = given if batch_first else given.transpose(0, 1)
    maps = maps_of(model.layers[0].self_attn, first, first)
    np.testing.assert_allclose(bare.measured(ds)[0], bare.wanted(maps[None])[0], atol=2e-5)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_pytorch_encoder_with_padding_takes_its_nested_path_in_every_forward():
    """Padding makes PyTorch run its layers on nested tensors: padded positions are zero then, watched or not."""
    model, given = new_encoder(), normal(3, 11, 32)
    for _ in range(3):
        ds = bare.recorded(model, given, src_key_padding_mask=~bare.LEFT)
    with torch.no_grad():
        assert model(given, src_key_padding_mask=~bare.LEFT)[~bare.LEFT].abs().max() == 0, "no nested path"
    maps = maps_of(model.layers[0].self_attn, given, given, ~bare.LEFT[:, None, None])
    np.testing.assert_allclose(bare.measured(ds)[0], bare.wanted(maps[None], bare.LEFT)[0], atol=2e-5)
    np.testing.assert_array_equal(bare.measured(ds, "keys")[0, :, 0], [11, 7, 4])


@pytest.mark.parametrize("batch_first", [True, False])
def test_pytorch_decoder_keeps_its_rows_where_the_memory_is_padded(batch_first):
    """As many queries as keys: the keys' padding is not the queries'."""
    torch.manual_seed(0)
    model = bare.sharpened(nn.TransformerDecoderLayer(32, 4, 32, batch_first=batch_first))
    sides = normal(3, 11, 32), normal(3, 11, 32, seed=1)
    given = sides if batch_first else [side.transpose(0, 1) for side in sides]
    queries = []
    handle = model.multihead_attn.register_forward_pre_hook(lambda module, args: queries.append(args[0]))
    ds = bare.recorded(model, *given, memory_key_padding_mask=~bare.LEFT)
    handle.remove()
    query = queries[0] if batch_first else queries[0].transpose(0, 1)
    maps = maps_of(model.multihead_attn, query, sides[1], ~bare.LEFT[:, None, None])
    assert list(ds.kind.values) == ["self", "cross"]
    assert list(ds.rows.values.ravel()) == [11, 11]
    np.testing.assert_allclose(bare.measured(ds)[1], bare.wanted(maps[None])[0], atol=2e-5)
