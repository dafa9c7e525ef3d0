"""``record`` on bare modules: text encoders, language models, vision models, PyTorch's own layers, bare denoisers."""

import numpy as np
import pytest
import torch
from torch import nn

import entropylab
from entropylab.capture import intercept

IDS = torch.randint(3, 50, (3, 11), generator=torch.Generator().manual_seed(0))
LEFT = torch.arange(11) < torch.tensor([11, 7, 4])[:, None]
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


def sharpened(model, factor=6.0):
    """``model`` in eval mode, with attention that is far from uniform."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            words = ("query", "key", "q_proj", "k_proj", "c_attn", ".q.", ".k.", "in_proj", "to_q", "to_k")
            if any(word in name for word in words) and weight.ndim == 2:
                weight.mul_(factor)
    return model.eval()


def bert(implementation):
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**SIZES, attn_implementation=implementation))


def gpt2(implementation):
    from transformers import GPT2Config, GPT2Model

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
    return GPT2Model(GPT2Config(**sizes, attn_implementation=implementation))


def llama(implementation):
    from transformers import LlamaConfig, LlamaModel

    return LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=2, attn_implementation=implementation))


def clip(implementation):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**SIZES, attn_implementation=implementation))


def t5(implementation):
    from transformers import T5Config, T5EncoderModel

    sizes = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4}
    return T5EncoderModel(T5Config(**sizes, attn_implementation=implementation))


TEXT_MODELS = {"bert": bert, "gpt2": gpt2, "llama": llama, "clip": clip, "t5": t5}
CAUSAL = ("gpt2", "llama", "clip")


def made(name, implementation):
    torch.manual_seed(0)
    return sharpened(TEXT_MODELS[name](implementation))


def maps_of(name, **arguments):
    """The maps that the model itself gives out, (layers, batch, heads, queries, keys), in float64."""
    with torch.no_grad():
        found = made(name, "eager").double()(output_attentions=True, **arguments).attentions
    return torch.stack(list(found))


def wanted(maps, rows=None):
    """Mean entropy over the rows that count: (layers, batch, heads)."""
    entropy = -torch.special.xlogy(maps, maps).sum(-1)
    rows = torch.ones(maps.shape[1], maps.shape[3], dtype=torch.bool) if rows is None else rows
    counted = rows[None, :, None].expand(entropy.shape)
    return (entropy.masked_fill(~counted, 0).sum(-1) / counted.sum(-1)).numpy()


def measured(ds, name="entropy"):
    return ds[name].squeeze(("size", "scaling", "branch", "step")).transpose("layer", "sample", "head").values


def recorded(model, *arguments, **named):
    with torch.no_grad():
        plain = model(*arguments, **named)
        with entropylab.record(model) as rec:
            watched = model(*arguments, **named)
    assert rec.unmeasured == {}
    for one, other in zip(outputs(plain), outputs(watched), strict=True):
        assert torch.equal(one, other)
    return rec.dataset


def outputs(found):
    """Every tensor that a model returned."""
    if isinstance(found, torch.Tensor):
        return [found]
    values = found.values() if hasattr(found, "values") else found
    return [value for value in values if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", TEXT_MODELS)
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


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_implementations_agree_wherever_the_padding_is(name, side):
    left = LEFT if side == "right" else LEFT.flip(1)
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
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, num_key_value_heads=2, attn_implementation="sdpa")
    model = sharpened(LlamaForCausalLM(config))
    with entropylab.record(model) as rec:
        model.generate(IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
    keys = rec.dataset["keys"].squeeze(("size", "scaling", "branch")).isel(sample=0, layer=0, head=0).values
    np.testing.assert_array_equal(keys, [6, 12, 13, 14])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_vision_transformer_against_its_own_maps(implementation):
    from transformers import ViTConfig, ViTModel

    def new(kind):
        torch.manual_seed(0)
        sizes = {name: size for name, size in SIZES.items() if name.startswith(("hidden", "num", "inter"))}
        return sharpened(ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8, attn_implementation=kind)))

    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    ds = recorded(new(implementation), pixels)
    with torch.no_grad():
        maps = torch.stack(list(new("eager").double()(pixels.double(), output_attentions=True).attentions))
    np.testing.assert_allclose(measured(ds), wanted(maps), atol=2e-5)
    assert set(ds.tokens.values.ravel()) == {17}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_encoder_and_decoder_with_padding_between_them(implementation):
    """As many queries as keys, some of which are padding: the queries are no padding for that."""
    from transformers import BartConfig, BartModel

    def new(kind):
        torch.manual_seed(0)
        sizes = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in
                 {"layers": 1, "attention_heads": 4, "ffn_dim": 32}.items()}  # fmt: skip
        tokens = {name: SIZES[name] for name in SIZES if name.endswith("_id")} | {"vocab_size": 50}
        config = BartConfig(**sizes, **tokens, d_model=32, attn_implementation=kind)
        return sharpened(BartModel(config))

    arguments = {"input_ids": IDS, "attention_mask": LEFT.long(), "decoder_input_ids": IDS.flip(1)}
    ds = recorded(new(implementation), **arguments)
    with torch.no_grad():
        found = new("eager").double()(**arguments, output_attentions=True)
    every = [(found.encoder_attentions, LEFT), (found.decoder_attentions, None), (found.cross_attentions, None)]
    expected = np.concatenate([wanted(torch.stack(list(maps)), rows) for maps, rows in every])
    np.testing.assert_allclose(measured(ds), expected, atol=2e-5)
    assert list(ds.kind.values) == ["self", "self", "cross"]


def tokens(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def multihead_maps(module, query, key, closed=None):
    """Maps of a MultiheadAttention from tokens that have the batch first, in float64: (batch, heads, queries, keys)."""
    weights = (part.double() for part in module.in_proj_weight.chunk(3)[:2])
    biases = (part.double() for part in module.in_proj_bias.chunk(3)[:2])
    q, k = (
        nn.functional.linear(side.double(), weight, bias).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for side, weight, bias in zip((query, key), weights, biases, strict=True)
    )
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return (logits if closed is None else logits.masked_fill(closed, -torch.inf)).softmax(-1)


def new_encoder(batch_first=True, **options):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 32, batch_first=batch_first)
    return sharpened(nn.TransformerEncoder(layer, 2, **options))


@pytest.mark.parametrize("shape", [(3, 11), (4, 8), (8, 4), (5, 1), (1, 5)])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_pytorch_encoder_whatever_comes_first(batch_first, shape):
    """(batch, tokens) or (tokens, batch), one a multiple of the other: samples are samples, and no layer is lost."""
    model, given = new_encoder(batch_first), tokens(*shape, 32)
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
    model, given = new_encoder(), tokens(3, 11, 32)
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
    sides = tokens(3, 11, 32), tokens(3, 11, 32, seed=1)
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


@pytest.mark.parametrize("kind", ["boolean", "float", "per head"])
def test_multihead_masks(kind):
    torch.manual_seed(0)
    model, given = sharpened(nn.MultiheadAttention(32, 4, batch_first=True)), tokens(3, 11, 32)
    closed = torch.ones(11, 11, dtype=torch.bool).triu(1)
    mask = {
        "boolean": closed,
        "float": torch.zeros(11, 11).masked_fill(closed, -torch.inf),
        "per head": closed.expand(12, 11, 11),
    }[kind]
    ds = recorded(model, given, given, given, attn_mask=mask)
    with torch.no_grad():
        maps = multihead_maps(model, given, given, closed)
    np.testing.assert_allclose(measured(ds)[0], wanted(maps[None])[0], atol=2e-5)
    np.testing.assert_allclose(measured(ds, "keys"), 6)


class Encoder(nn.Module):
    """Attention of a class that nobody knows, with its context as a second argument."""

    def __init__(self, causal=False):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(32, 32) for _ in range(3))
        self.causal, self.seen = causal, []

    def forward(self, query, key):
        q, k, v = (
            part(given).unflatten(-1, (4, -1)).transpose(1, 2)
            for part, given in ((self.to_q, query), (self.to_k, key), (self.to_v, key))
        )
        self.seen.append((q.detach(), k.detach()))
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(-2)


@pytest.mark.parametrize("causal", [False, True])
def test_a_module_of_ones_own(causal):
    torch.manual_seed(0)
    model = sharpened(Encoder(causal))
    ds = recorded(model, tokens(2, 9, 32), tokens(2, 9, 32, seed=1))
    q, k = (side.double() for side in model.seen[0])
    logits = q @ k.transpose(-1, -2) / 8**0.5
    logits = logits.masked_fill(torch.ones(9, 9, dtype=torch.bool).triu(1), -torch.inf) if causal else logits
    np.testing.assert_allclose(measured(ds)[0], wanted(logits.softmax(-1)[None])[0], atol=2e-5)


def every_call(model, **arguments):
    """Entropies of each attention call of a denoiser, (batch, heads, queries), by float64 maps of what is intercepted
    where no mask is."""
    calls = []
    with intercept({"model": model}, calls.append), torch.no_grad():
        model(**arguments)
    assert all(call.mask is None for call in calls)
    found = {}
    for call in calls:
        logits = call.query.double() @ call.key.double().transpose(-1, -2) * call.scale
        weights = logits.softmax(-1)
        found[call.layer] = -torch.special.xlogy(weights, weights).sum(-1)
    return found


def test_a_bare_unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    model = sharpened(
        UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4, layers_per_block=1,
            cross_attention_dim=12, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
    )  # fmt: skip
    given = {"sample": tokens(2, 4, 8, 12), "timestep": 10, "encoder_hidden_states": tokens(2, 96, 12)}
    ds = recorded(model, **given)
    for layer, entropy in every_call(model, **given).items():
        one = measured(ds.sel(layer=[layer]))[0]
        np.testing.assert_allclose(one[:, : entropy.shape[1]], entropy.mean(-1), atol=2e-5)
    assert {path.split(".")[-1]: kind for path, kind in zip(ds.layer.values, ds.kind.values, strict=True)} == {
        "attn1": "self",
        "attn2": "cross",
    }
    assert ds.timestep.values.tolist() == [10]


def flux_transformer(**options):
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    return sharpened(
        FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=12, pooled_projection_dim=12, axes_dims_rope=(2, 2, 4), **options,
        )
    )  # fmt: skip


def flux_arguments(height, width, text, batch=2):
    places = [(0, y, x) for y in range(height) for x in range(width)]
    return {
        "hidden_states": tokens(batch, height * width, 16),
        "encoder_hidden_states": tokens(batch, text, 12, seed=1),
        "pooled_projections": tokens(batch, 12, seed=2),
        "timestep": torch.full((batch,), 0.5),
        "img_ids": torch.tensor(places, dtype=torch.float32),
        "txt_ids": torch.zeros(text, 3),
    }


def test_a_bare_flux_transformer_called_with_other_lengths_each_time():
    """Text before the image; of another length, and as long as the image, in the same recording."""
    model = flux_transformer()
    for height, width, text in [(3, 4, 5), (3, 4, 7), (4, 4, 16), (2, 3, 5)]:
        given = flux_arguments(height, width, text)
        ds, expected = recorded(model, **given), every_call(model, **given)
        assert set(ds.kind.values) == {"joint"}
        for layer, entropy in expected.items():
            for part, rows in (("text", slice(0, text)), ("image", slice(text, None))):
                one = measured(ds.sel(layer=[f"{layer}:{part}"]))[0]
                np.testing.assert_allclose(one, entropy[..., rows].mean(-1), atol=2e-5)
        assert set(ds.tokens.values.ravel()) == {height * width + text}
        assert set(ds.keys_image.values.ravel()) == {height * width}


def test_reference_tokens_of_a_bare_flux_3():
    """The reference comes as an input of its own, which the model puts behind the image."""
    import diffusers

    if not hasattr(diffusers, "Flux3Transformer2DModel"):
        pytest.skip("this release of diffusers has no FLUX.3")
    torch.manual_seed(0)
    model = diffusers.Flux3Transformer2DModel(
        in_channels=8, cond_in_channels=8, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=12, timestep_channels=16, axes_dims_rope=(2, 2, 2, 2),
    )  # fmt: skip
    places = {"img_ids": 12, "txt_ids": 5, "image_cond_ids": 7}
    given = {
        "hidden_states": tokens(2, 12, 8),
        "encoder_hidden_states": tokens(2, 5, 12),
        "image_cond_hidden_states": tokens(2, 7, 8),
        "timestep": torch.full((2,), 0.5),
        **{name: torch.arange(count)[:, None].expand(count, 4).float() for name, count in places.items()},
    }
    ds = recorded(sharpened(model), **given)
    joint = ds.isel(layer=ds.kind.values == "joint")
    assert sorted(joint.part.values) == ["image", "reference", "text"]
    expected = every_call(model, **given)
    for part, rows in {"text": slice(0, 5), "image": slice(5, 17), "reference": slice(17, None)}.items():
        one = joint.isel(layer=joint.part.values == part)
        np.testing.assert_allclose(measured(one)[0], expected[str(one.module.item())][..., rows].mean(-1), atol=2e-5)
    own = ds.isel(layer=ds.kind.values == "self")
    assert sorted(own.part.values) == ["image", "reference", "text"]
