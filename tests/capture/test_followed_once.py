"""A model is followed once for every layout of its inputs, and a call judged once, for as long as that holds."""

import pytest
import torch

import entropylab
from entropylab.capture import session, telling
from entropylab.capture.tracing import Trace

from ..attention import PlainAttention
from ..joints import inputs, lengths, new_joint
from ..sampling import sample
from ..seeds import normal
from ..zoo import BY_NAME
from ..zoo.joint_parts import flux_call, two_steps
from .test_roles import agree, recorded


@pytest.fixture
def traces(monkeypatch):
    """The forwards that were followed."""
    own, found = Trace.__enter__, []

    def entered(self):
        found.append(self)
        return own(self)

    monkeypatch.setattr(Trace, "__enter__", entered)
    return found


def test_a_pipeline_is_followed_once_for_each_size_and_text(traces):
    pipe = BY_NAME["FLUX.1"].build()
    for _ in range(2):
        for text in (10, 13):
            with entropylab.record(pipe):
                two_steps(pipe, **flux_call(text))
    assert len(traces) == 2


def test_a_u_net_is_followed_once_for_all_sizes(traces):
    unet = BY_NAME["Stable Diffusion 1"].build().unet
    text = torch.randn(1, 7, unet.config.cross_attention_dim)
    for side in (8, 16):
        with torch.no_grad(), entropylab.record(unet):
            unet(torch.randn(1, 4, side, side), 5, text)
    assert len(traces) == 1


def reordered(model):
    model.order = ("image", "text")


def replaced(model):
    model.blocks[1] = new_joint(seed=1).blocks[1]


def test_what_was_found_is_forgotten_once_the_model_is_changed(traces):
    model = new_joint(("text", "image"))
    for change in (None, reordered, replaced):
        if change is not None:
            change(model)
        for _ in range(2):
            agree(*recorded(model, inputs()))
    assert len(traces) == 3


@pytest.mark.parametrize("dense", [False, True])
def test_masks_are_compared_only_if_they_decide_where_tokens_stand(traces, dense):
    """The dense model moves text to the front without its padding."""
    model = new_joint()
    model.dense = dense
    with torch.no_grad(), entropylab.record(model):
        for counts in ((7, 4), (2, 6), (7, 4)):
            model(**inputs(encoder_attention_mask=lengths(7, *counts)))
    assert len(traces) == (2 if dense else 1)
    assert all(trace.reads is dense and trace.failure is None for trace in traces)


# Calls


def test_calls_that_nobody_wants_are_not_made(random_pipe, monkeypatch):
    modules, make = [], telling.AttentionCall
    monkeypatch.setattr(telling, "AttentionCall", lambda *given: modules.append(given[1]) or make(*given))
    with entropylab.record(random_pipe, layers="cross") as rec:
        sample(random_pipe, steps=2)
        modules.clear()
        sample(random_pipe, steps=2)
    cross = rec.dataset.sizes["layer"]
    assert len(modules) == 2 * cross < 2 * len(entropylab.layers(random_pipe))


def test_somebody_else_may_want_them_later(random_pipe):
    with entropylab.record(random_pipe, layers="cross") as few:
        sample(random_pipe, steps=1)
        with entropylab.record(random_pipe) as many:
            sample(random_pipe, steps=1)
        sample(random_pipe, steps=1)
    assert set(few.dataset.kind.values) == {"cross"} and set(many.dataset.kind.values) == {"self", "cross"}
    with entropylab.record(random_pipe) as alone:
        sample(random_pipe, steps=1)
    assert many.dataset.entropy.equals(alone.dataset.entropy)


@torch.no_grad()
def test_what_is_known_of_calls_is_bounded_and_forgotten():
    net = PlainAttention(8)
    with entropylab.record(net):
        for _ in range(5):
            net(normal(1, 4, 8))
        assert len(session.known) == 1
        for tokens in range(2, 90):
            net(normal(1, tokens, 8))
        assert 1 < len(session.known) <= 64
    assert not session.known
