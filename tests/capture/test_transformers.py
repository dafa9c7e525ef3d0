"""``record`` on bare models, of transformers and of PyTorch, with padding anywhere, beside what their own maps give."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import entropylab

from ..maps import entropy_of_map
from ..seeds import normal
from .nets import multihead_logits

IDS = torch.randint(3, 50, (3, 11), generator=torch.Generator().manual_seed(0))
LEFT = torch.arange(11) < torch.tensor([11, 7, 4])[:, None]
PADDED = {"input_ids": IDS, "attention_mask": LEFT.long()}

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SIZES_OF_T5 = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4}
TEXT_MODELS = {
    "bert": ("Bert", "BertModel", SIZES),
    "gpt2": ("GPT2", "GPT2Model", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "bos_token_id": 1}),
    "llama": ("Llama", "LlamaModel", SIZES | {"num_key_value_heads": 2}),
    "clip": ("CLIPText", "CLIPTextModel", SIZES),
    "t5": ("T5", "T5EncoderModel", SIZES_OF_T5),
}
CAUSAL = ("gpt2", "llama", "clip")


def sharpened(model, factor=6.0):
    """``model`` in eval mode, with attention that is far from uniform."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            words = ("query", "key", "q_proj", "k_proj", "c_attn", ".q.", ".k.", "in_proj", "to_q", "to_k")
            if any(word in name for word in words) and weight.ndim == 2:
                weight.mul_(factor)
    return model.eval()


def made(name, implementation="sdpa"):
    torch.manual_seed(0)
    config, model, sizes = TEXT_MODELS[name]
    return sharpened(getattr(transformers, model)(config_of(config, sizes, implementation)))


def config_of(name, sizes, implementation="sdpa"):
    return getattr(transformers, f"{name}Config")(**sizes, attn_implementation=implementation)


def maps_of(name, **arguments):
    """The maps that the model itself gives out, (layers, batch, heads, queries, keys), in float64."""
    with torch.no_grad():
        found = made(name, "eager").double()(output_attentions=True, **arguments).attentions
    return torch.stack(list(found))


def wanted(maps, rows=None):
    """Mean entropy over the rows that count: (layers, batch, heads)."""
    entropy = entropy_of_map(maps)
    if rows is not None:
        entropy = entropy.masked_fill(~rows[None, :, None], torch.nan)
    return entropy.nanmean(-1).numpy()


def measured(ds, name="entropy"):
    return ds[name].squeeze(("size", "scaling", "branch", "step")).transpose("layer", "sample", "head").values


def recorded(model, *arguments, **named):
    """The Dataset of one forward, which returns what it returns when nobody looks."""
    with torch.no_grad():
        plain = model(*arguments, **named)
        with entropylab.record(model) as rec:
            watched = model(*arguments, **named)
    assert rec.unmeasured == {}
    for one, other in zip(tensors_in(plain), tensors_in(watched), strict=True):
        assert torch.equal(one, other)
    return rec.dataset


def tensors_in(output):
    values = [output] if isinstance(output, torch.Tensor) else output.values()
    return [value for value in values if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize(
    ("name", "implementation", "padded"),
    [*((name, "sdpa", True) for name in TEXT_MODELS), ("bert", "eager", True), ("gpt2", "sdpa", False)],
)
def test_text_models_against_their_own_maps(name, implementation, padded):
    arguments = PADDED if padded else {"input_ids": IDS}
    ds = recorded(made(name, implementation), **arguments)
    assert (ds.sizes["sample"], ds.sizes["layer"], set(ds.kind.values)) == (3, 2, {"self"})
    maps = maps_of(name, **arguments)
    np.testing.assert_allclose(measured(ds), wanted(maps, LEFT if padded else None), atol=2e-5)
    assert not padded or np.abs(measured(ds) - wanted(maps)).max() > 1e-3, "padding that counts would be noticed"
    kept = LEFT.sum(1) if padded else torch.tensor([11, 11, 11])
    keys = (kept + 1) / 2 if name in CAUSAL else kept
    np.testing.assert_allclose(measured(ds, "keys"), np.broadcast_to(keys[:, None].numpy(), (2, 3, 4)), rtol=1e-6)


def test_implementations_agree_where_the_padding_comes_first():
    left = LEFT.flip(1).long()
    one, other = (recorded(made("llama", each), IDS, attention_mask=left) for each in ("sdpa", "eager"))
    np.testing.assert_allclose(measured(one), measured(other), atol=2e-5)
    np.testing.assert_array_equal(measured(one, "keys"), measured(other, "keys"))
    np.testing.assert_array_equal(one.rows, other.rows)


def test_embeddings_instead_of_token_numbers():
    """The first argument of the forward is then missing: the batch is that of the embeddings all the same."""
    model, mask = made("llama"), LEFT.long()
    with torch.no_grad():
        embeds = model.get_input_embeddings()(IDS)
    by_ids = recorded(model, **PADDED)
    for given in ({"inputs_embeds": embeds, "attention_mask": mask}, {"attention_mask": mask, "inputs_embeds": embeds}):
        np.testing.assert_array_equal(measured(recorded(model, **given)), measured(by_ids))


def test_generation_with_a_cache_is_a_step_a_token():
    torch.manual_seed(0)
    model = sharpened(transformers.LlamaForCausalLM(config_of("Llama", TEXT_MODELS["llama"][2])))
    with entropylab.record(model) as rec:
        model.generate(IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
    keys = rec.dataset["keys"].squeeze(("size", "scaling", "branch")).isel(sample=0, layer=0, head=0).values
    np.testing.assert_array_equal(keys, [6, 12, 13, 14])


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_encoder_and_decoder_with_padding_between_them(implementation):
    """As many queries as keys, some of which are padding: the queries are no padding for that."""

    def new(kind):
        torch.manual_seed(0)
        sizes = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in
                 {"layers": 1, "attention_heads": 4, "ffn_dim": 32}.items()}  # fmt: skip
        tokens = {name: SIZES[name] for name in SIZES if name.endswith("_id")} | {"vocab_size": 50}
        return sharpened(transformers.BartModel(config_of("Bart", {**sizes, **tokens, "d_model": 32}, kind)))

    arguments = PADDED | {"decoder_input_ids": IDS.flip(1)}
    ds = recorded(new(implementation), **arguments)
    with torch.no_grad():
        found = new("eager").double()(**arguments, output_attentions=True)
    every = [(found.encoder_attentions, LEFT), (found.decoder_attentions, None), (found.cross_attentions, None)]
    expected = np.concatenate([wanted(torch.stack(list(maps)), rows) for maps, rows in every])
    np.testing.assert_allclose(measured(ds), expected, atol=2e-5)
    assert list(ds.kind.values) == ["self", "self", "cross"]


# PyTorch's own layers


def multihead_maps(module, query, key, closed=False):
    """Maps of a MultiheadAttention: (1, batch, heads, queries, keys)."""
    return multihead_logits(module, query, key).masked_fill(torch.as_tensor(closed), -torch.inf).softmax(-1)[None]


def new_encoder(batch_first=True):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 32, batch_first=batch_first)
    return sharpened(nn.TransformerEncoder(layer, 2))


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
    maps = multihead_maps(model.layers[0].self_attn, first, first)
    np.testing.assert_allclose(measured(ds)[:1], wanted(maps), atol=2e-5)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_pytorch_encoder_with_padding_takes_its_nested_path_in_every_forward():
    """Padding makes PyTorch run its layers on nested tensors: padded positions are zero then, watched or not."""
    model, given = new_encoder(), normal(3, 11, 32)
    for _ in range(3):
        ds = recorded(model, given, src_key_padding_mask=~LEFT)
    with torch.no_grad():
        assert model(given, src_key_padding_mask=~LEFT)[~LEFT].abs().max() == 0, "no nested path"
    maps = multihead_maps(model.layers[0].self_attn, given, given, ~LEFT[:, None, None])
    np.testing.assert_allclose(measured(ds)[:1], wanted(maps, LEFT), atol=2e-5)
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
    maps = multihead_maps(model.multihead_attn, query, sides[1], ~LEFT[:, None, None])
    assert list(ds.kind.values) == ["self", "cross"]
    assert list(ds.rows.values.ravel()) == [11, 11]
    np.testing.assert_allclose(measured(ds)[1:], wanted(maps), atol=2e-5)
