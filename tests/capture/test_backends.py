"""Processors and backends that compute attention otherwise or out of sight: seen, or switched and put back."""

import numpy as np
import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from diffusers.models.attention_processor import AttnProcessor, SlicedAttnProcessor

import entropylab
from entropylab.errors import EntropyLabError, EntropyLabWarning

from ..conftest import new_random_pipeline
from ..sampling import sample
from ..state import attentions, state
from ..zoo import BY_NAME


@pytest.mark.parametrize("processor", [AttnProcessor(), SlicedAttnProcessor(3)])
def test_legacy_processors_under_record_and_rescale_at_once(processor):
    pipe = new_random_pipeline(attention_head_dim=(4, 4))

    def scaled():
        return entropylab.rescale(pipe, 1.3, kinds=("self", "cross"))

    def one_step():
        return sample(pipe, (32, 32), steps=1)

    with scaled(), entropylab.record(pipe) as usual:
        new_way = one_step()
    pipe.unet.set_attn_processor(processor)
    before, plain = state(pipe.unet), one_step()
    with entropylab.record(pipe) as outer, scaled(), entropylab.record(pipe) as inner:
        old_way = one_step()
    assert state(pipe.unet) == before
    assert outer.unmeasured == inner.unmeasured == {}
    assert outer.dataset.equals(inner.dataset)
    np.testing.assert_allclose(outer.dataset.entropy, usual.dataset.entropy, atol=1e-4)
    torch.testing.assert_close(old_way, new_way, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(old_way, plain, atol=1e-3)
    with entropylab.record(pipe) as alone:
        assert torch.equal(one_step(), plain)
    assert float(np.abs(alone.dataset.entropy.values - usual.dataset.entropy.values).max()) > 1e-3


# Backends that hide the call


@pytest.fixture
def hiding(monkeypatch):
    """A backend that computes attention out of sight; whoever calls it is counted."""
    calls = []

    def out_of_sight(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        calls.append(1)
        query, key, value = (side.permute(0, 2, 1, 3) for side in (query, key, value))
        mixed = torch._C._nn.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        return mixed.permute(0, 2, 1, 3)

    name = AttentionBackendName.XFORMERS
    monkeypatch.setitem(_AttentionBackendRegistry._backends, name, out_of_sight)
    monkeypatch.setitem(_AttentionBackendRegistry._constraints, name, [])
    names = {"query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"}
    monkeypatch.setitem(_AttentionBackendRegistry._supported_arg_names, name, names)
    return calls


def hide(model, backend=AttentionBackendName.XFORMERS):
    for part in attentions(model):
        if hasattr(part.processor, "_attention_backend"):
            part.processor._attention_backend = backend


@pytest.mark.parametrize("process_wide", [False, True])
def test_a_backend_that_hides_is_switched_to_native_and_back(process_wide, hiding, monkeypatch):
    """While one pipeline is recorded it hides nothing, another one still does, and the default stays what it is."""
    if process_wide:
        monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", AttentionBackendName.XFORMERS)
    family = BY_NAME["FLUX.1"]
    pipe, other = family.build(), family.build()
    if not process_wide:
        hide(pipe.transformer, "xformers")
        hide(other.transformer)
    before, default = state(pipe.transformer, other.transformer), _AttentionBackendRegistry._active_backend
    with pytest.raises(KeyboardInterrupt), entropylab.record(pipe) as rec, entropylab.rescale(pipe, 1.2, train_size=64):
        assert _AttentionBackendRegistry._active_backend == default
        family.sample(pipe)
        assert hiding == []
        family.sample(other)
        assert len(hiding) > 0
        raise KeyboardInterrupt
    assert rec.unmeasured == {}
    assert state(pipe.transformer, other.transformer) == before


def test_the_backend_would_hide(hiding):
    """The partner: a backend set after recording began is out of sight, and said to be."""
    family = BY_NAME["FLUX.1"]
    pipe = family.build()
    with pytest.warns(EntropyLabWarning, match="could not be measured"), entropylab.record(pipe) as rec:
        hide(pipe.transformer)
        family.sample(pipe)
    assert len(hiding) > 0
    ran = [layer.path for layer in entropylab.layers(pipe)]
    assert list(rec.unmeasured) == ran


def test_a_legacy_processor_of_a_library_is_an_error(random_pipe):
    from diffusers.models.attention_processor import XFormersAttnProcessor

    path = "mid_block.attentions.0.transformer_blocks.0.attn1"
    random_pipe.unet.get_submodule(path).set_processor(XFormersAttnProcessor())
    before = state(random_pipe.unet)
    for context in (entropylab.record, entropylab.rescale):
        with pytest.raises(EntropyLabError, match=r"mid_block.*XFormersAttnProcessor.*set another processor"):
            with context(random_pipe):
                pytest.fail("nothing may run")
    assert state(random_pipe.unet) == before
    random_pipe.unet.set_default_attn_processor()
    entropylab.rescale(random_pipe, 1.1).remove()
