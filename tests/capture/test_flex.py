"""Flex attention: measured where its functions add to the scores, named where they do more."""

import numpy as np
import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch.nn.attention import flex_attention as flex

import entropylab
from entropylab.errors import EntropyLabWarning

from ..seeds import normal
from ..state import attentions, state
from ..zoo import BY_NAME
from .nets import LATER, TOKENS, WIDTH, agree, check, net_of, run

FAR = (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)).abs()
CAUSAL = flex.create_block_mask(lambda batch, head, query, key: query >= key, None, None, TOKENS, TOKENS, device="cpu")


def flexing(*args, **more):
    """Flex attention with these arguments."""

    def way(query, key, value):
        found = flex.flex_attention(query, key, value, *args, **more)
        return found[0] if isinstance(found, tuple) else found

    return way


def by_distance(score, batch, head, query, key):
    return score - 0.3 * (head + 1) * (query - key).abs()


def farther(logits):
    return logits - 0.3 * torch.arange(1, 3)[:, None, None] * FAR


def causally(score, batch, head, query, key):
    return torch.where(query >= key, score, -torch.inf)


def by_image(score, batch, head, query, key):
    return score - 0.2 * batch * (query - key).abs()


def closed(logits):
    return logits.masked_fill(LATER, -torch.inf)


ADDITIVE = {
    "plain": (flexing(), lambda logits: logits),
    "more is returned": (flexing(return_aux=flex.AuxRequest(lse=True)), lambda logits: logits),
    "block mask": (flexing(block_mask=CAUSAL), closed),
    "causal by score, by place": (flexing(causally, None, None, False), closed),
    "distance by head": (flexing(score_mod=by_distance), farther),
    "by image, and a block mask": (
        flexing(score_mod=by_image, block_mask=CAUSAL),
        lambda logits: closed(logits - 0.2 * torch.arange(2)[:, None, None, None] * FAR),
    ),
}


@pytest.mark.parametrize("name", ADDITIVE)
def test_flex_attention_that_adds_is_measured(name):
    check(net_of(ADDITIVE[name][0]), ADDITIVE[name][1])


OTHERWISE = {
    "soft cap": lambda score, *place: 50 * torch.tanh(score / 50),
    "small soft cap": lambda score, *place: 2 * torch.tanh(score / 2),
    "leaky": lambda score, *place: torch.where(score > 0, score, 0.1 * score),
    "square": lambda score, *place: score * score,
    "double": lambda score, *place: score * 2,
    "clamp": lambda score, *place: score.clamp(-2, 2),
}


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.float32) for name in OTHERWISE), ("soft cap", torch.bfloat16)]
)
def test_flex_attention_that_does_more_than_add_is_named(name, dtype):
    """All but the first leave the scores 0 and 1 alone, or add 1 to 1; a soft cap of 50 does so in bfloat16."""
    net = net_of(flexing(score_mod=OTHERWISE[name])).to(dtype)
    given = normal(2, TOKENS, WIDTH).to(dtype), torch.tensor(2.0, dtype=dtype)
    with torch.no_grad(), pytest.warns(EntropyLabWarning, match=r"model\.attn"):
        plain = net(*given)
        with entropylab.record(net) as rec:
            assert torch.equal(plain, net(*given))
    assert list(rec.unmeasured) == ["model.attn"]


def test_flex_attention_is_rescaled_as_recorded():
    net = net_of(flexing(score_mod=by_distance))
    with entropylab.rescale(net, 1.5, train_size=8), entropylab.record(net) as rec:
        scaled = run(net)
    assert not torch.equal(scaled, run(net))
    assert agree(rec, farther(1.5 * net.attn.logits))


def test_a_model_set_to_flex_is_measured_as_it_is(monkeypatch):
    # ``set_attention_backend`` changes the default of the whole process
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend)
    family = BY_NAME["Qwen-Image"]
    with entropylab.record(family.build()) as native:
        family.sample(native.pipe)
    other, pipe = family.build(), family.build()
    with entropylab.record(other):
        pipe.transformer.set_attention_backend("flex")
        _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)
        before = state(pipe.transformer, other.transformer)
        plain = family.sample(pipe)
        with entropylab.record(pipe) as rec:
            assert torch.equal(family.sample(pipe), plain)
        assert state(pipe.transformer, other.transformer) == before
    assert rec.unmeasured == {}
    np.testing.assert_allclose(rec.dataset.entropy, native.dataset.entropy, atol=1e-4)
    chosen = {getattr(part.processor, "_attention_backend", None) for part in attentions(pipe.transformer)}
    assert chosen == {AttentionBackendName.FLEX}
