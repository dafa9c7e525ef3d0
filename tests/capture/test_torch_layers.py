"""``record`` on PyTorch's own layers, whichever dimension comes first."""

import numpy as np
import pytest
import torch
from torch import nn

from ..maps import logits_of
from ..seeds import normal
from .bare import LEFT, measured, recorded, sharpened, wanted


def multihead_maps(module, query, key, closed=None):
    """Maps of a MultiheadAttention from tokens that have the batch first, in float64: (batch, heads, queries, keys)."""
    weights = (part.double() for part in module.in_proj_weight.chunk(3)[:2])
    biases = (part.double() for part in module.in_proj_bias.chunk(3)[:2])
    q, k = (
        nn.functional.linear(side.double(), weight, bias).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for side, weight, bias in zip((query, key), weights, biases, strict=True)
    )
    logits = logits_of(q, k)
    return (logits if closed is None else logits.masked_fill(closed, -torch.inf)).softmax(-1)


def new_encoder(batch_first=True, **options):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 32, batch_first=batch_first)
    return sharpened(nn.TransformerEncoder(layer, 2, **options))


@pytest.mark.parametrize(("batch_first", "shape"), [(True, (3, 11)), (False, (4, 8)), (True, (8, 4)), (False, (5, 1))])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_pytorch_encoder_whatever_comes_first(batch_first, shape):
    """(batch, tokens) or (tokens, batch), one a multiple of the other: samples are samples, and no layer is lost."""
    model, given = new_encoder(batch_first), normal(*shape, 32)
    ds = recorded(model, given)
    batch, count = shape if batch_first else shape[::-1]
    assert (ds.sizes["sample"], ds.sizes["layer"]) == (batch, 2)
    assert set(ds.tokens.values.ravel()) == {count}
    first = given if batch_first else given.transpose(0, 1)
    with torch.no_grad():
        maps = multihead_maps(model.layers[0].self_attn, first, first)
    np.testing.assert_allclose(measured(ds)[0], wanted(maps[None])[0], atol=2e-5)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_pytorch_encoder_with_padding_takes_its_nested_path():
    """Padding makes PyTorch run its layers on nested tensors: padded positions are zero then, watched or not."""
    model, given = new_encoder(), normal(3, 11, 32)
    ds = recorded(model, given, src_key_padding_mask=~LEFT)
    with torch.no_grad():
        maps = multihead_maps(model.layers[0].self_attn, given, given, ~LEFT[:, None, None])
    np.testing.assert_allclose(measured(ds)[0], wanted(maps[None], LEFT)[0], atol=2e-5)
    np.testing.assert_array_equal(measured(ds, "keys")[0, :, 0], [11, 7, 4])


@pytest.mark.parametrize("batch_first", [True, False])
def test_pytorch_decoder_keeps_its_rows_where_the_memory_is_padded(batch_first):
    """As many queries as keys: the keys' padding is not the queries'."""
    torch.manual_seed(0)
    model = sharpened(nn.TransformerDecoderLayer(32, 4, 32, batch_first=batch_first))
    sides = normal(3, 11, 32), normal(3, 11, 32, seed=1)
    given = sides if batch_first else [side.transpose(0, 1) for side in sides]
    queries = []
    handle = model.multihead_attn.register_forward_pre_hook(lambda module, args: queries.append(args[0]))
    ds = recorded(model, *given, memory_key_padding_mask=~LEFT)
    handle.remove()
    query = queries[0] if batch_first else queries[0].transpose(0, 1)
    with torch.no_grad():
        maps = multihead_maps(model.multihead_attn, query, sides[1], ~LEFT[:, None, None])
    assert list(ds.kind.values) == ["self", "cross"]
    assert list(ds.rows.values.ravel()) == [11, 11]
    np.testing.assert_allclose(measured(ds)[1], wanted(maps[None])[0], atol=2e-5)
