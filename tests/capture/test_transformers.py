"""``record`` on models of transformers: text encoders, language models, vision models, with padding anywhere."""

import numpy as np
import pytest
import torch
import transformers

import entropylab

from .bare import IDS, LEFT, measured, recorded, sharpened, wanted

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
IMPLEMENTATIONS = ["sdpa", "eager"]


TEXT_MODELS = {
    "bert": ("Bert", "BertModel", SIZES),
    "gpt2": ("GPT2", "GPT2Model", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "bos_token_id": 1}),
    "llama": ("Llama", "LlamaModel", SIZES | {"num_key_value_heads": 2}),
    "clip": ("CLIPText", "CLIPTextModel", SIZES),
    "t5": (
        "T5",
        "T5EncoderModel",
        {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4},
    ),
}
CAUSAL = ("gpt2", "llama", "clip")


def made(name, implementation):
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


@pytest.mark.parametrize(
    ("name", "implementation", "padded"),
    [*((name, "sdpa", True) for name in TEXT_MODELS), ("bert", "eager", True), ("gpt2", "sdpa", False)],
)
def test_text_models_against_their_own_maps(name, implementation, padded):
    arguments = {"input_ids": IDS, "attention_mask": LEFT.long()} if padded else {"input_ids": IDS}
    ds = recorded(made(name, implementation), **arguments)
    assert ds.sizes["sample"] == 3
    assert ds.sizes["layer"] == 2
    assert set(ds.kind.values) == {"self"}
    np.testing.assert_allclose(measured(ds), wanted(maps_of(name, **arguments), LEFT if padded else None), atol=2e-5)
    kept = LEFT.sum(1) if padded else torch.tensor([11, 11, 11])
    keys = (kept + 1) / 2 if name in CAUSAL else kept
    np.testing.assert_allclose(measured(ds, "keys"), np.broadcast_to(keys[:, None].numpy(), (2, 3, 4)), rtol=1e-6)


def test_text_models_would_notice_padding_that_counts():
    arguments = {"input_ids": IDS, "attention_mask": LEFT.long()}
    ds = recorded(made("bert", "sdpa"), **arguments)
    assert np.abs(measured(ds) - wanted(maps_of("bert", **arguments))).max() > 1e-3


@pytest.mark.parametrize("name", ["llama"])
def test_implementations_agree_where_the_padding_comes_first(name):
    left = LEFT.flip(1)
    found = [recorded(made(name, each), IDS, attention_mask=left.long()) for each in IMPLEMENTATIONS]
    np.testing.assert_allclose(measured(found[0]), measured(found[1]), atol=2e-5)
    np.testing.assert_array_equal(measured(found[0], "keys"), measured(found[1], "keys"))
    np.testing.assert_array_equal(found[0].rows, found[1].rows)


def test_embeddings_instead_of_token_numbers():
    """The first argument of the forward is then missing: the batch is that of the embeddings all the same."""
    model = made("llama", "sdpa")
    with torch.no_grad():
        embeds = model.get_input_embeddings()(IDS)
    by_embeds = recorded(model, inputs_embeds=embeds, attention_mask=LEFT.long())
    mask_first = recorded(model, attention_mask=LEFT.long(), inputs_embeds=embeds)
    by_ids = recorded(model, IDS, attention_mask=LEFT.long())
    for ds in (by_embeds, mask_first):
        np.testing.assert_array_equal(measured(ds), measured(by_ids))


def test_generation_with_a_cache_is_a_step_a_token():
    torch.manual_seed(0)
    model = sharpened(transformers.LlamaForCausalLM(config_of("Llama", TEXT_MODELS["llama"][2])))
    with entropylab.record(model) as rec:
        model.generate(IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
    keys = rec.dataset["keys"].squeeze(("size", "scaling", "branch")).isel(sample=0, layer=0, head=0).values
    np.testing.assert_array_equal(keys, [6, 12, 13, 14])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_encoder_and_decoder_with_padding_between_them(implementation):
    """As many queries as keys, some of which are padding: the queries are no padding for that."""

    def new(kind):
        torch.manual_seed(0)
        sizes = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in
                 {"layers": 1, "attention_heads": 4, "ffn_dim": 32}.items()}  # fmt: skip
        tokens = {name: SIZES[name] for name in SIZES if name.endswith("_id")} | {"vocab_size": 50}
        return sharpened(transformers.BartModel(config_of("Bart", {**sizes, **tokens, "d_model": 32}, kind)))

    arguments = {"input_ids": IDS, "attention_mask": LEFT.long(), "decoder_input_ids": IDS.flip(1)}
    ds = recorded(new(implementation), **arguments)
    with torch.no_grad():
        found = new("eager").double()(**arguments, output_attentions=True)
    every = [(found.encoder_attentions, LEFT), (found.decoder_attentions, None), (found.cross_attentions, None)]
    expected = np.concatenate([wanted(torch.stack(list(maps)), rows) for maps, rows in every])
    np.testing.assert_allclose(measured(ds), expected, atol=2e-5)
    assert list(ds.kind.values) == ["self", "self", "cross"]
