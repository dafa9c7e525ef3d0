"""What ``layers`` says before anything was sampled, and attention over time, told by shapes and by names."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

import entropylab

from ..attention import PlainAttention
from ..maps import entropy_of, logits_of
from ..sampling import sample
from ..seeds import normal
from ..zoo import BY_NAME


@pytest.mark.parametrize("name", ["Kandinsky 2.2", "Hunyuan-DiT", "Wan 2.1", "Z-Image"])
def test_layers_are_known_before_sampling(name):
    family = BY_NAME[name]
    pipe = family.build()
    listed = {layer.path: layer for layer in entropylab.layers(pipe)}
    with entropylab.record(pipe) as rec:
        family.sample(pipe)
    heads = rec.dataset.entropy.notnull().any(["size", "scaling", "branch", "sample", "step"]).sum("head")
    for layer, module in zip(rec.dataset.layer.values, rec.dataset.module.values, strict=True):
        assert listed[module].heads == int(heads.sel(layer=layer)), layer


def test_layers_say_what_they_attend_to_and_by_whom(random_pipe):
    first = "mid_block.attentions.0.transformer_blocks.0.attn1"
    random_pipe.unet.get_submodule(first).set_processor(AttnProcessor())
    listed = entropylab.layers(random_pipe)
    with entropylab.record(random_pipe) as rec:
        sample(random_pipe, steps=1)
    ran = dict(zip(rec.dataset.module.values, rec.dataset.kind.values, strict=True))
    assert {layer.path: layer.kind for layer in listed} == ran
    assert [layer.path for layer in listed if layer.processor == "AttnProcessor"] == [f"unet.{first}"]


class Video(nn.Module):
    """Attention within each frame, and at each place among the frames; nothing in the names says which is which."""

    def __init__(self, names=("first", "second")):
        super().__init__()
        self.names = names
        for name in names:
            self.add_module(name, PlainAttention(6))

    def forward(self, sample, timestep):
        batch, channels, frames, height, width = sample.shape
        tokens = sample.permute(0, 2, 3, 4, 1).reshape(batch * frames, height * width, channels)
        tokens = tokens + getattr(self, self.names[0])(tokens)
        tokens = tokens.reshape(batch, frames, height * width, channels).transpose(1, 2).flatten(0, 1)
        tokens = tokens + getattr(self, self.names[1])(tokens)
        return tokens.reshape(batch, height, width, frames, channels).permute(0, 4, 3, 1, 2) + timestep


def recorded(model, *shape):
    with torch.no_grad(), entropylab.record(model) as rec:
        model(normal(*shape), torch.tensor(1.0))
    assert list(rec.dataset.kind.values) == ["self", "temporal"]
    return rec.dataset


@pytest.mark.parametrize(("batch", "frames"), [(1, 2), (2, 3), (3, 5), (2, 6)])
def test_temporal_attention_is_told_by_its_shape_and_measured_as_means_over_places(batch, frames):
    model, sides = Video(), []
    for name in model.names:
        getattr(model, name).register_forward_pre_hook(lambda module, args: sides.append(module.sides(args[0])[:2]))
    ds = recorded(model, batch, 6, frames, 4, 5)
    assert ds.sizes["sample"] == batch
    assert list(ds.tokens.values.ravel()) == [20, frames]
    for layer, (query, key) in zip(ds.layer.values, sides, strict=True):
        expected = entropy_of(logits_of(query, key)).mean(-1).unflatten(0, (batch, -1)).mean(1)
        found = ds.entropy.sel(layer=layer).transpose(..., "sample", "head").values
        np.testing.assert_allclose(found.reshape(batch, -1), expected, atol=1e-5)


@pytest.mark.parametrize("names", [("spatial", "temporal"), ("attn_space", "motion_modules"), ("blocks", "temp_attn")])
def test_temporal_attention_is_told_by_its_name_where_shapes_do_not(names):
    """As many frames as places."""
    recorded(Video(names), 2, 6, 6, 2, 3)


def test_a_plain_layer_that_attends_in_a_forward_of_its_own_is_measured():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8))
    lent = model[1]

    def forward(tokens):
        query = lent.weight.new_tensor(1.0) * tokens[:, None]
        return F.scaled_dot_product_attention(query, query, query)[:, 0]

    lent.forward = forward
    with entropylab.record(model) as rec:
        model(torch.randn(2, 6, 8))
    assert rec.dataset.module.values.tolist() == ["model.1"]
    assert rec.unmeasured == {}
