"""A model is followed once for every layout of its inputs, whoever records it, and however often."""

import pytest
import torch

import entropylab
from entropylab.capture.tracing import Trace

from ..joints import inputs, lengths, new_joint
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


def followed(model, *masks):
    with torch.no_grad(), entropylab.record(model):
        for mask in masks:
            model(**inputs(encoder_attention_mask=mask))


@pytest.mark.parametrize("dense", [False, True])
def test_masks_are_compared_only_if_they_decide_where_tokens_stand(traces, dense):
    """The dense model moves text to the front without its padding."""
    model = new_joint()
    model.dense = dense
    followed(model, lengths(7, 7, 4), lengths(7, 2, 6), lengths(7, 7, 4))
    assert len(traces) == (2 if dense else 1)
    assert all(trace.reads is dense and trace.failure is None for trace in traces)
