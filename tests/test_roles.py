"""What query rows and keys stand for: joint attention in any order, kinds of attention, and rescaling with them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import entropylab
from entropylab.errors import EntropyLabError, EntropyLabWarning

from .joints import inputs, lengths, new_joint, wanted
from .zoo import FAMILIES
from .zoo.family import generator
from .zoo.joint import guided, kept, pooled, words

BY_NAME = {family.name: family for family in FAMILIES}


def recorded(model, *given, **options):
    """The Dataset of some forwards, and what the layers did in them."""
    with torch.no_grad():
        plain = [model(**each) for each in given]
        model.calls()
        with entropylab.record(model, **options) as rec:
            watched = [model(**each) for each in given]
    assert rec.unmeasured == {}
    assert all(torch.equal(one, other) for one, other in zip(plain, watched, strict=True))
    return rec.dataset, model.calls()


def agree(ds, calls, parts=("image", "text")):
    """Every part of every layer in every forward has the entropies and numbers of keys of its rows."""
    assert set(ds.part.values) == set(parts)
    assert set(ds.kind.values) == {"joint"}
    for index, layer in enumerate(calls):
        for part in parts:
            one = ds.sel(layer=f"model.blocks.{index}:{part}").squeeze(("size", "scaling", "branch"))
            for step, call in enumerate(layer):
                expected = wanted(call, part)
                for name in ("entropy", "sigma2", "keys", "keys_image"):
                    here = one[name].isel(step=step).transpose("sample", "head").values
                    known = np.full(here.shape, np.nan)
                    known[: len(call.query)] = expected[name]
                    np.testing.assert_allclose(here, known, atol=1e-4, rtol=1e-4, err_msg=f"{name}, forward {step}")


ORDERS = [
    ("text", "image"),
    ("image", "text"),
    ("other", "text", "image"),
    ("image", "other", "text"),
    "shuffled",
    "middle",
]


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_lengths_that_change_between_calls(order):
    """Other text, other images, another batch; and the first ones again."""
    sizes = [(12, 7), (12, 9), (7, 12), (12, 7, 3), (9, 9), (12, 7)]
    registers = 3 if "other" in order else 0
    ds, calls = recorded(new_joint(order, registers), *(inputs(*size) for size in sizes))
    agree(ds, calls, ("image", "text", "other") if registers else ("image", "text"))


def test_agreement_would_notice_rows_that_stand_elsewhere():
    ds, calls = recorded(new_joint(("text", "image")), inputs())
    for layer in calls:
        layer[0].codes = layer[0].codes.flip(1)
    with pytest.raises(AssertionError):
        agree(ds, calls)


COUNTS = [(7, 4), (2, 6), (7, 7), (4, 7), (7, 4)]


@pytest.mark.parametrize("dense", [False, True], ids=["padded", "moved to the front"])
@pytest.mark.parametrize("order", [("text", "image"), ("image", "text"), "shuffled"], ids=str)
def test_masks_of_one_shape_that_differ_between_calls(order, dense):
    """Padding moved behind everything gives every sample a layout of its own, which differs in every call."""
    model = new_joint(order)
    model.dense = dense
    masks = [lengths(7, *counts) for counts in COUNTS]
    agree(*recorded(model, *(inputs(encoder_attention_mask=mask) for mask in masks)))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_lengths_instead_of_masks(dtype):
    """A vector of lengths decides where tokens stand as a mask does."""
    model = new_joint()
    model.dense = True
    given = [inputs(text_lengths=torch.tensor(counts, dtype=dtype)) for counts in COUNTS]
    agree(*recorded(model, *given))


@pytest.mark.parametrize("closed", [-10000.0, -9999.0, torch.finfo(torch.float32).min, -torch.inf, -5000.0, -3.0])
def test_additive_masks(closed):
    """A key counts as masked from -9999 on; less is added to the logits as it is."""
    model = new_joint()
    model.additive, model.closed = True, closed
    ds, calls = recorded(model, inputs(encoder_attention_mask=lengths(7, 3, 5)))
    agree(ds, calls)
    left = [12 + 3, 12 + 5] if closed <= -9999 else [19, 19]
    np.testing.assert_array_equal(ds["keys"].isel(layer=0, head=0).squeeze(), left)
    assert float(ds.tokens[0, 0]) == np.mean(left)


def test_a_sample_without_any_text():
    ds, calls = recorded(new_joint(), inputs(encoder_attention_mask=lengths(7, 0, 5)))
    agree(ds, calls)
    text = ds.sel(layer="model.blocks.0:text").squeeze()
    assert bool(text.entropy.isel(sample=0).isnull().all())
    image = ds.sel(layer="model.blocks.0:image").squeeze().isel(sample=0)
    np.testing.assert_array_equal(image.mass_image, 1)
    np.testing.assert_array_equal(image.entropy_between, 0)


def test_references_that_come_and_go():
    references = [torch.randn(2, count, 8, generator=generator(count)) for count in (5, 3)]
    given = [inputs(), inputs(ref_hidden_states=references[0]), inputs(), inputs(ref_hidden_states=references[1])]
    ds, calls = recorded(new_joint(("text", "reference", "image")), *given)
    agree(ds, calls, ("image", "text", "reference"))


def test_a_model_that_is_changed_between_recordings():
    """What is remembered of where tokens stand ends with the recording."""
    model = new_joint(("text", "image"))
    agree(*recorded(model, inputs()))
    model.order = ("image", "text")
    agree(*recorded(model, inputs()))


@pytest.mark.parametrize("order", [("text", "image"), ("image", "text")])
def test_text_that_conditions_the_image_leaves_it_the_image(order):
    model = new_joint(order)
    model.blend = "text"
    agree(*recorded(model, inputs(), inputs(12, 9)))


@pytest.mark.parametrize("order", [("text", "image"), "shuffled"])
def test_an_image_that_has_entered_the_text_is_no_longer_told_apart(order):
    """Every token depends on the image then: rows are not split by a guess."""
    model = new_joint(order)
    model.blend = "image"
    ds, calls = recorded(model, inputs(), inputs(12, 9))
    assert set(ds.part.values) == {"unknown"}
    assert list(ds.layer.values) == ["model.blocks.0", "model.blocks.1"]
    assert "mass_image" not in ds
    for index, layer in enumerate(calls):
        call = layer[0]
        weights = (call.query.double() @ call.key.double().transpose(-1, -2) / 8**0.5).softmax(-1)
        rows = -torch.special.xlogy(weights, weights).sum(-1).mean(-1)
        here = ds.entropy.isel(layer=index, step=0).squeeze().transpose("sample", "head")
        np.testing.assert_allclose(here, rows, atol=1e-4)


class Convolving(nn.Module):
    """A picture through a convolution, with the mean of the text added to it, and joint attention of both."""

    def __init__(self):
        super().__init__()
        self.inner = new_joint()
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.Linear(12, 8)

    def forward(self, sample, timestep, encoder_hidden_states):
        pooled = self.pool(encoder_hidden_states.mean(1))[:, :, None, None]
        features = sample + self.second(self.first(sample) + pooled)
        return self.inner(features.flatten(2).transpose(1, 2), encoder_hidden_states, timestep)

    def calls(self):
        return self.inner.calls()


def test_text_in_the_features_of_a_convolution_leaves_them_the_image():
    torch.manual_seed(0)
    model = Convolving().eval()
    text = inputs()["encoder_hidden_states"]
    given = {"sample": torch.randn(2, 8, 3, 4), "timestep": torch.tensor([5, 5]), "encoder_hidden_states": text}
    with torch.no_grad(), entropylab.record(model) as rec:
        model(**given)
    ds = rec.dataset.assign_coords(layer=[str(name).replace("inner.", "") for name in rec.dataset.layer.values])
    agree(ds, model.calls())


SETTINGS = {"num_inference_steps": 2, "output_type": "latent"}


def flux_call(text, height=96, width=128, **more):
    return {"prompt_embeds": words(1, text), "pooled_prompt_embeds": pooled(3), "height": height, "width": width} | more


def masked_call(tokens, counts, mask="prompt_attention_mask", **more):
    masks = [kept(tokens, *each) for each in counts]
    return guided(lambda seed: words(seed, tokens, 2), *masks, mask=mask) | {"height": 96, "width": 128} | more


CALLS = {
    "FLUX.1": [flux_call(10), flux_call(13), flux_call(10, 64, 64), flux_call(10)],
    "Chroma": [masked_call(12, each) for each in (((12, 7), (3, 3)), ((1, 8), (9, 2)))],
    "Lumina Image 2.0": [masked_call(9, each) for each in (((9, 5), (3, 3)), ((4, 8), (9, 2)))],
    "Qwen-Image": [masked_call(14, each, "prompt_embeds_mask") for each in (((14, 5), (3, 3)), ((4, 8), (9, 2)))],
}


@pytest.mark.parametrize("name", CALLS)
def test_pipelines_called_again_with_other_arguments(name):
    """Each call in one recording gives what it gives in a recording of its own."""
    pipe, samples = BY_NAME[name].build(), {}
    with entropylab.record(pipe) as rec:
        for given in CALLS[name]:
            pipe(generator=generator(), **SETTINGS, **given)
    for given in CALLS[name]:
        with entropylab.record(pipe) as alone:
            pipe(generator=generator(), **SETTINGS, **given)
        size = str(alone.dataset["size"].item())
        begin = samples.get(size, 0)
        samples[size] = begin + alone.dataset.sizes["sample"]
        together = rec.dataset.sel(size=[size], layer=alone.dataset.layer, branch=alone.dataset.branch)
        for variable in ("entropy", "sigma2", "keys", "mass_image", "entropy_from_text"):
            here = together[variable].isel(sample=slice(begin, samples[size]))
            np.testing.assert_array_equal(here, alone.dataset[variable], err_msg=variable)


def test_an_ip_adapter_that_comes_between_calls():
    """Cross-attention then attends to the text and, beside, to the picture."""
    family = BY_NAME["IP-Adapter"]
    pipe = family.build()
    with entropylab.record(pipe) as rec:
        family.sample(pipe)
    with_adapter = rec.dataset
    plain = BY_NAME["Stable Diffusion 1"]
    other = plain.build()
    with entropylab.record(other) as rec:
        plain.sample(other)
        own = dict(other.unet.attn_processors)
        other.unet.encoder_hid_proj = pipe.unet.encoder_hid_proj
        other.unet.config.encoder_hid_dim_type = pipe.unet.config.encoder_hid_dim_type
        for path, processor in pipe.unet.attn_processors.items():
            if "attn2" in path:
                other.unet.get_submodule(path.removesuffix(".processor")).set_processor(processor)
        assert set(own) <= {*other.unet.attn_processors}
        other.image_encoder, other.feature_extractor = pipe.image_encoder, pipe.feature_extractor
        family.sample(other)
    ds = rec.dataset
    assert rec.unmeasured == {}
    assert set(ds.layer.values) == set(with_adapter.layer.values)
    assert dict(zip(ds.layer.values, ds.kind.values, strict=True)) == dict(
        zip(with_adapter.layer.values, with_adapter.kind.values, strict=True)
    )
    assert "unknown" not in ds.part.values


class Video(nn.Module):
    """Attention within each frame, and at each place among the frames; nothing in the names says which is which."""

    def __init__(self, names=("first", "second")):
        super().__init__()
        self.names = names
        for name in names:
            self.add_module(name, VideoAttention())

    def forward(self, sample, timestep):
        batch, channels, frames, height, width = sample.shape
        tokens = sample.permute(0, 2, 3, 4, 1).reshape(batch * frames, height * width, channels)
        tokens = tokens + getattr(self, self.names[0])(tokens)
        tokens = tokens.reshape(batch, frames, height * width, channels).transpose(1, 2).flatten(0, 1)
        tokens = tokens + getattr(self, self.names[1])(tokens)
        return tokens.reshape(batch, height, width, frames, channels).permute(0, 4, 3, 1, 2) + timestep


class VideoAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = 2
        self.to_q, self.to_k, self.to_v = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, tokens):
        query, key, value = (
            project(tokens).unflatten(-1, (2, -1)).transpose(1, 2) for project in (self.to_q, self.to_k, self.to_v)
        )
        return nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)


def kinds(model, *shape):
    torch.manual_seed(0)
    sample = torch.randn(*shape)
    with torch.no_grad(), entropylab.record(model) as rec:
        model(sample, torch.tensor(1.0))
    return list(rec.dataset.kind.values), rec.dataset


@pytest.mark.parametrize(("batch", "frames"), [(1, 2), (2, 3), (3, 5), (2, 6)])
def test_temporal_attention_is_told_by_its_shape(batch, frames):
    found, ds = kinds(Video(), batch, 6, frames, 4, 5)
    assert found == ["self", "temporal"]
    assert ds.sizes["sample"] == batch
    assert list(ds.tokens.values.ravel()) == [20, frames]


@pytest.mark.parametrize("names", [("spatial", "temporal"), ("attn_space", "motion_modules"), ("blocks", "temp_attn")])
def test_temporal_attention_is_told_by_its_name_where_shapes_do_not(names):
    """As many frames as places."""
    assert kinds(Video(names), 2, 6, 6, 2, 3)[0] == ["self", "temporal"]


def test_a_name_alone_does_not_make_attention_temporal():
    """Attention within a frame, in a block that is named for both."""

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.spatio_temporal = Video(("space", "time"))

        def forward(self, sample, timestep):
            return self.spatio_temporal(sample, timestep)

    assert kinds(Outer(), 2, 6, 3, 4, 5)[0] == ["self", "temporal"]


def test_values_of_temporal_attention_are_means_over_places():
    model = Video()
    _, ds = kinds(model, 2, 6, 3, 4, 5)
    torch.manual_seed(0)
    sample, found = torch.randn(2, 6, 3, 4, 5), []

    def see(module, args):
        query, key = (
            project(args[0].double()).unflatten(-1, (2, -1)).transpose(1, 2)
            for project in (module.to_q.double(), module.to_k.double())
        )
        weights = (query @ key.transpose(-1, -2) / 3**0.5).softmax(-1)
        found.append(-torch.special.xlogy(weights, weights).sum(-1).mean(-1))
        module.float()

    for name in model.names:
        getattr(model, name).register_forward_pre_hook(see)
    with torch.no_grad():
        model(sample, torch.tensor(1.0))
    for layer, entropy in zip(ds.layer.values, found, strict=True):
        expected = entropy.unflatten(0, (2, -1)).mean(1)
        np.testing.assert_allclose(
            ds.entropy.sel(layer=layer).squeeze().transpose("sample", "head"), expected, atol=1e-5
        )


def numbers_asked(pipe, train_size, **given):
    asked = []

    def rule(tokens, trained):
        asked.append((tokens, trained))
        return 1.0

    with entropylab.rescale(pipe, rule, train_size=train_size):
        images = pipe(generator=generator(), **SETTINGS, **given).images
    return set(asked), images


@pytest.mark.parametrize("text", [10, 13, 48])
@pytest.mark.parametrize("train_size", [(64, 64), (192, 128), (96, 128)])
def test_tokens_and_training_tokens_of_joint_layers(text, train_size):
    """FLUX packs its latents, so that only the call says the size: the image's tokens grow, the text's do not."""
    pipe = BY_NAME["FLUX.1"].build()
    given = flux_call(text)
    plain = pipe(generator=generator(), **SETTINGS, **given).images
    trained = train_size[0] * train_size[1] // 256
    asked, images = numbers_asked(pipe, train_size, **given)
    assert asked == {(48 + text, trained + text)}
    assert torch.equal(plain, images)


def test_tokens_follow_the_text_and_the_size_of_every_call():
    pipe = BY_NAME["FLUX.1"].build()
    asked = []

    def rule(tokens, trained):
        asked.append((tokens, trained))
        return 1.0

    with entropylab.rescale(pipe, rule, train_size=(64, 64)):
        for given in (flux_call(10), flux_call(13), flux_call(10, 64, 64), flux_call(26, 64, 64)):
            pipe(generator=generator(), **SETTINGS, **given)
    assert set(asked) == {(58, 26), (61, 29), (26, 26), (42, 42)}


UNGATED = {"Kandinsky 5 video"}
"""Families whose random models let nothing of what attention gives through: their gates are zero."""


@pytest.mark.parametrize(
    "name", ["FLUX.1", "Stable Diffusion 3", "HunyuanImage 2.1", "CogVideoX", "Mochi", "Kandinsky 5 video"]
)
def test_images_at_the_training_size_are_bit_identical(name):
    family = BY_NAME[name]
    pipe = family.build()
    plain = family.sample(pipe)
    with entropylab.rescale(pipe, train_size=family.size) as handle:
        assert torch.equal(plain, family.sample(pipe))
    assert set(handle.multipliers.values()) == {1.0}
    with entropylab.rescale(pipe, train_size=(family.size[0] // 2, family.size[1] // 2)) as handle:
        changed = family.sample(pipe)
    assert torch.equal(plain, changed) is (name in UNGATED)
    assert min(handle.multipliers.values()) > 1.0


def test_the_multiplier_of_joint_layers_is_that_of_all_their_keys():
    pipe = BY_NAME["FLUX.1"].build()
    with entropylab.rescale(pipe, train_size=64) as handle, entropylab.record(pipe) as rec:
        pipe(generator=generator(), **SETTINGS, **flux_call(10))
    expected = math.sqrt(math.log(58) / math.log(26))
    np.testing.assert_allclose(list(handle.multipliers.values()), expected)
    assert set(rec.dataset.tokens.values.ravel()) == {58}


def test_text_among_itself_is_left_alone():
    """Refining layers attend among the text, or among the image, before both join."""
    family = BY_NAME["Lumina Image 2.0"]
    pipe = family.build()
    with entropylab.record(pipe) as rec:
        family.sample(pipe)
    ds = rec.dataset
    layers = {part: set(ds.module.values[(ds.part.values == part) & (ds.kind.values == "self")])
              for part in ("text", "image")}  # fmt: skip
    assert layers["text"] and layers["image"]
    with entropylab.rescale(pipe, 1.5, train_size=64) as handle:
        family.sample(pipe)
    assert not layers["text"] & set(handle.multipliers)
    assert layers["image"] <= set(handle.multipliers)


def test_rescaling_that_finds_no_layer_says_so():
    pipe = BY_NAME["FLUX.1"].build()
    with pytest.warns(EntropyLabWarning, match="rescaled nothing"), entropylab.rescale(pipe, 1.5, kinds="cross"):
        pipe(generator=generator(), **SETTINGS, **flux_call(10))


def test_unknown_training_tokens_are_an_error_and_no_guess():
    """A bare model of packed tokens, called without anybody saying at which size."""
    model = new_joint()
    with torch.no_grad(), entropylab.rescale(model, train_size=64):
        with pytest.raises(EntropyLabError, match="can't be told"):
            model(**inputs())
