"""What ``layers`` says before anything was sampled."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

import entropylab

from ..sampling import sample
from ..zoo import BY_NAME

LISTED = ["Stable Diffusion 1", "Kandinsky 2.2", "Hunyuan-DiT", "Wan 2.1", "FLUX.1", "Z-Image"]


@pytest.mark.parametrize("name", LISTED)
def test_layers_are_known_before_sampling(name):
    family = BY_NAME[name]
    pipe = family.build()
    listed = {layer.path: layer for layer in entropylab.layers(pipe)}
    with entropylab.record(pipe) as rec:
        family.sample(pipe)
    ds = rec.dataset
    assert set(ds.module.values) <= set(listed)
    for layer in ds.layer.values:
        known = (
            ds.entropy.sel(layer=layer).notnull().any([dim for dim in ds.entropy.dims if dim not in ("head", "layer")])
        )
        assert listed[str(ds.module.sel(layer=layer).item())].heads == int(known.sum()), layer


def test_layers_say_what_they_attend_to_and_by_whom(random_pipe):
    random_pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.set_processor(AttnProcessor())
    listed = entropylab.layers(random_pipe)
    with entropylab.record(random_pipe) as rec:
        sample(random_pipe, steps=1)
    assert [layer.path for layer in listed] == sorted(rec.dataset.module.values, key=[x.path for x in listed].index)
    assert {layer.path: layer.kind for layer in listed} == dict(
        zip(rec.dataset.module.values, rec.dataset.kind.values, strict=True)
    )
    assert [layer.path for layer in listed if layer.processor == "AttnProcessor"] == [
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1"
    ]


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
