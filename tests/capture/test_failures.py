"""Whatever goes wrong in looking, the model goes on with its own numbers, and what was not measured is named."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import entropylab
from entropylab import EntropyLabError
from entropylab.capture.forwards import Forward
from entropylab.capture.tracing import Trace
from entropylab.errors import EntropyLabWarning
from entropylab.measuring import reduce, run
from entropylab.measuring.recorder import Recorder
from entropylab.measuring.steps import DenoiserCall
from entropylab.pipelines.sight import Sight

from ..attention import PlainAttention
from ..sampling import sample
from ..seeds import normal
from .nets import HEADS, TOKENS, WIDTH, Method, Multihead, OwnAttention, agree, net_of, new_joint, run_joint
from .nets import run as run_net

ignored = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.:DeprecationWarning",
    "ignore:.*torch.jit.:FutureWarning",
    "ignore:.*nested tensors:UserWarning",
    "ignore:.*batching rule:UserWarning",
)


class Around(nn.Module):
    """A model around another one, with attention of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.attn = inner, PlainAttention(WIDTH, HEADS)

    def forward(self, hidden_states):
        return self.attn(hidden_states) + self.inner(hidden_states)


def jagged(net):
    parts = [normal(1, tokens, WIDTH)[0] for tokens in (5, 9)]
    return net(torch.nested.nested_tensor(parts, layout=torch.jagged)).values()


def mapped(net):
    return torch.func.vmap(net)(normal(3, 1, TOKENS, WIDTH))


def plain(net):
    return net(normal(1, TOKENS, WIDTH))


def flat():
    torch.manual_seed(0)
    return PlainAttention(WIDTH, HEADS).eval()


def traced():
    return torch.jit.trace(flat(), normal(1, TOKENS, WIDTH))


UNREADABLE = {
    "jagged tensors": (flat, jagged, "model", "nested"),
    "vmap": (flat, mapped, "model", "vmap"),
    "a traced model": (traced, plain, "model", "TorchScript"),
    "a traced part": (lambda: Around(traced()).eval(), plain, "model.inner", "TorchScript"),
}


@ignored
@torch.no_grad()
@pytest.mark.parametrize("case", UNREADABLE)
def test_what_can_not_be_read_is_named_and_not_rescaled(case):
    make, call, layer, reason = UNREADABLE[case]
    net = make()
    alone = call(net)
    with pytest.warns(EntropyLabWarning, match=re.escape(layer)), entropylab.record(net) as rec:
        watched = call(net)
    assert torch.equal(alone, watched)
    assert set(rec.unmeasured) == {layer} and reason in rec.unmeasured[layer]
    with pytest.raises(EntropyLabError, match=reason), entropylab.record(net, strict=True):
        call(net)
    with pytest.warns(EntropyLabWarning, match=f"could not rescale {layer}|rescaled nothing"):
        with entropylab.rescale(net, 1.5) as handle:
            rescaled = call(net)
    assert "inner" in layer or (torch.equal(alone, rescaled) and handle.multipliers == {})


def sample_small(pipe):
    return sample(pipe, (32, 32), ["a red car"], steps=2)


def broken(error):
    def fail(*args, **kwargs):
        raise error

    return fail


PLACES = {
    "statistics": (reduce, "head_sums", "unet.mid_block"),
    "averages": (DenoiserCall, "packed", "unet.mid_block"),
    "what a call is": (Forward, "placed", "unet.mid_block"),
    "inputs": (Sight, "read_inputs", "unet"),
    "a forward's beginning": (Recorder, "on_forward", "unet"),
    "a forward's end": (Recorder, "on_output", "unet"),
    "a step": (Recorder, "on_step", "unet"),
    "the latents": (Recorder, "on_latents", "unet"),
    "the timesteps": (Recorder, "on_timesteps", "unet"),
    "the call": (Recorder, "on_call", "unet"),
    "the call's end": (Recorder, "on_end", "unet"),
}
"""Where it goes wrong, and what is named: a layer, or the denoiser where it is none in particular."""


@pytest.mark.filterwarnings("ignore::entropylab.errors.EntropyLabWarning")
@pytest.mark.parametrize("place", PLACES)
def test_a_failure_ends_no_sampling_and_an_interrupt_does(random_pipe, monkeypatch, place):
    owner, name, named = PLACES[place]
    alone = sample_small(random_pipe)
    for error in (ZeroDivisionError("one"), torch.OutOfMemoryError("none left")):
        monkeypatch.setattr(owner, name, broken(error))
        with entropylab.record(random_pipe) as rec:
            watched = sample_small(random_pipe)
        assert np.array_equal(alone, watched)
        found = {path: reason for path, reason in rec.unmeasured.items() if path.startswith(named)}
        assert found and all(type(error).__name__ in reason and str(error) in reason for reason in found.values())
        monkeypatch.undo()
    monkeypatch.setattr(owner, name, broken(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt), entropylab.record(random_pipe):
        sample_small(random_pipe)
    monkeypatch.undo()
    with entropylab.record(random_pipe) as rec:
        assert np.array_equal(alone, sample_small(random_pipe))
    assert rec.unmeasured == {} and rec.dataset.sizes["layer"] > 1


def test_branches_that_can_not_be_told_cost_no_numbers(random_pipe, monkeypatch):
    with entropylab.record(random_pipe) as rec:
        sample_small(random_pipe)
    whole = rec.dataset
    monkeypatch.setattr(run, "named_by", broken(torch.OutOfMemoryError("none left")))
    with entropylab.record(random_pipe) as rec:
        sample_small(random_pipe)
    assert list(rec.dataset.branch.values) == ["branch 0", "branch 1"]
    assert np.array_equal(rec.dataset.entropy, whole.entropy, equal_nan=True)


@pytest.mark.filterwarnings("ignore:what the tokens stand for could not be told")
@pytest.mark.parametrize("part", ["__init__", "follow", "carried", "give", "inherit"])
def test_following_that_fails_costs_the_roles_alone(monkeypatch, part):
    net = new_joint()
    alone = run_joint(net)
    monkeypatch.setattr(Trace, part, broken(torch.OutOfMemoryError("none left")))
    with entropylab.record(net) as rec:
        watched = run_joint(net)
    assert torch.equal(alone, watched)
    assert rec.unmeasured == {} and rec.dataset.entropy.notnull().any("head").all()


@pytest.mark.parametrize("attn", [OwnAttention, Method, Multihead])
def test_an_observer_that_fails_spoils_no_other(monkeypatch, attn):
    net = net_of(attn)
    alone = run_net(net)
    own, failed = Recorder.on_attention, []

    def first_fails(self, call):
        if not failed or self is failed[0]:
            failed.append(self)
            raise ZeroDivisionError("one")
        return own(self, call)

    monkeypatch.setattr(Recorder, "on_attention", first_fails)
    with pytest.warns(EntropyLabWarning, match="ZeroDivisionError: one"):
        with entropylab.record(net) as outer, entropylab.record(net) as inner:
            assert torch.equal(alone, run_net(net))
    assert len(outer.unmeasured) == 1 and inner.unmeasured == {}
    assert agree(inner, net.attn.logits)


@pytest.mark.parametrize("rule", [lambda tokens, trained: 1 / 0, lambda tokens: 1.1, lambda tokens, trained: "wide"])
def test_a_rule_that_fails_is_the_callers_to_know(random_pipe, rule):
    alone = sample_small(random_pipe)
    with pytest.raises(EntropyLabError, match="<lambda>"), entropylab.rescale(random_pipe, rule):
        sample_small(random_pipe)
    assert np.array_equal(alone, sample_small(random_pipe))


def test_rescaling_that_can_not_see_leaves_the_model_alone(random_pipe, monkeypatch):
    alone = sample_small(random_pipe)
    with entropylab.rescale(random_pipe, 1.5):
        assert not np.array_equal(alone, sample_small(random_pipe))
    for name in ("read_inputs", "meet"):
        monkeypatch.setattr(Sight, name, broken(ZeroDivisionError("one")))
        with pytest.warns(EntropyLabWarning, match="could not rescale .*attn1"):
            with entropylab.rescale(random_pipe, 1.5) as handle:
                assert np.array_equal(alone, sample_small(random_pipe))
        assert handle.multipliers == {}
        monkeypatch.undo()


def test_wrong_arguments_are_the_pipelines_to_refuse(random_pipe):
    with pytest.raises(TypeError) as alone:
        random_pipe("a red car", 1, *range(40))
    with pytest.raises(TypeError) as watched, entropylab.record(random_pipe):
        random_pipe("a red car", 1, *range(40))
    assert str(alone.value) == str(watched.value)
