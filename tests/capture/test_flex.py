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
from .nets import LATER, TOKENS, WIDTH, Flex, agree, net_of, recorded, run

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")

FAR = (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)).abs()


def causal(batch, head, query, key):
    return query >= key


CAUSAL = flex.create_block_mask(causal, None, None, TOKENS, TOKENS, device="cpu")
ADDITIVE = {
    "plain": (None, None, lambda logits: logits),
    "block mask": (None, CAUSAL, lambda logits: logits.masked_fill(LATER, -torch.inf)),
    "causal by score": (
        lambda score, batch, head, query, key: torch.where(query >= key, score, -torch.inf),
        None,
        lambda logits: logits.masked_fill(LATER, -torch.inf),
    ),
    "distance by head": (
        lambda score, batch, head, query, key: score - 0.3 * (head + 1) * (query - key).abs(),
        None,
        lambda logits: logits - 0.3 * torch.arange(1, 3)[:, None, None] * FAR,
    ),
    "by image, and a block mask": (
        lambda score, batch, head, query, key: score - 0.2 * batch * (query - key).abs(),
        CAUSAL,
        lambda logits: (logits - 0.2 * torch.arange(2)[:, None, None, None] * FAR).masked_fill(LATER, -torch.inf),
    ),
}


@pytest.mark.usefixtures("quick_flex")
@pytest.mark.parametrize("name", ADDITIVE)
def test_flex_attention_that_adds_is_measured(name):
    score_mod, mask, reference = ADDITIVE[name]
    net = net_of(Flex, score_mod, mask, name == "causal by score")
    rec = recorded(net)
    assert agree(rec, reference(net.attn.logits))
    assert name == "plain" or not agree(rec, net.attn.logits)
    assert rec.unmeasured == {}


OTHERWISE = {
    "soft cap": lambda score, *place: 50 * torch.tanh(score / 50),
    "small soft cap": lambda score, *place: 2 * torch.tanh(score / 2),
    "leaky": lambda score, *place: torch.where(score > 0, score, 0.1 * score),
    "square": lambda score, *place: score * score,
    "double": lambda score, *place: score * 2,
    "clamp": lambda score, *place: score.clamp(-2, 2),
}


@pytest.mark.usefixtures("quick_flex")
@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.float32) for name in OTHERWISE), ("soft cap", torch.bfloat16)]
)
def test_flex_attention_that_does_more_than_add_is_named(name, dtype):
    """All but the first leave the scores 0 and 1 alone, or add 1 to 1; a soft cap of 50 does so in bfloat16."""
    net = net_of(Flex, OTHERWISE[name]).to(dtype)
    tokens = normal(2, TOKENS, WIDTH).to(dtype)
    with torch.no_grad(), pytest.warns(EntropyLabWarning, match=r"model\.attn"):
        plain = net(tokens, torch.tensor(2.0, dtype=dtype))
        with entropylab.record(net) as rec:
            watched = net(tokens, torch.tensor(2.0, dtype=dtype))
    assert torch.equal(plain, watched)
    assert list(rec.unmeasured) == ["model.attn"]


def test_flex_attention_that_returns_more_is_measured():
    net = net_of(lambda: Flex(return_aux=flex.AuxRequest(lse=True)))
    assert agree(recorded(net), net.attn.logits)


@pytest.mark.usefixtures("quick_flex")
def test_flex_attention_is_rescaled_as_recorded():
    net = net_of(Flex, *ADDITIVE["distance by head"][:2])
    with entropylab.rescale(net, 1.5, train_size=8), entropylab.record(net) as rec:
        scaled = run(net)
    assert not torch.equal(scaled, run(net))
    assert agree(rec, ADDITIVE["distance by head"][2](1.5 * net.attn.logits))


@pytest.fixture
def keep_process_wide():
    """``set_attention_backend`` changes the default of the whole process."""
    before = _AttentionBackendRegistry._active_backend
    yield
    _AttentionBackendRegistry._active_backend = before


def test_a_model_set_to_flex_is_measured_as_it_is(keep_process_wide):
    family = BY_NAME["Qwen-Image"]
    with entropylab.record(usual := family.build()) as native:
        family.sample(usual)
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
    xarrays = [recorder.dataset.drop_attrs() for recorder in (rec, native)]
    np.testing.assert_allclose(xarrays[0].entropy, xarrays[1].entropy, atol=1e-4)
    chosen = {getattr(part.processor, "_attention_backend", None) for part in attentions(pipe.transformer)}
    assert chosen == {AttentionBackendName.FLEX}
