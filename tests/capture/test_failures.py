"""Whatever goes wrong in looking, the model goes on with its own numbers, and what was not measured is named."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import entropylab
from entropylab import EntropyLabError
from entropylab.capture.tracing import Trace
from entropylab.errors import EntropyLabWarning
from entropylab.measuring.recorder import Recorder
from entropylab.pipelines.sight import Sight

from ..attention import PlainAttention, together
from ..sampling import sample
from ..seeds import normal
from .nets import HEADS, TOKENS, WIDTH, Multihead, agree, by_hand, net_of, new_joint, run, run_joint, usual


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


class HalfMapped(PlainAttention):
    """Takes its softmax in ``torch.vmap``, where a tensor has no memory of its own."""

    def forward(self, hidden_states):
        query, key, value = self.sides(hidden_states)
        return together(torch.vmap(lambda q, k: (q @ k.mT).softmax(-1))(query, key) @ value)


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
    "half in vmap": (lambda: HalfMapped(WIDTH, HEADS).eval(), plain, "model", "vmap"),
    "a traced model": (traced, plain, "model", "TorchScript"),
    "a traced part": (lambda: Around(traced()).eval(), plain, "model.inner", "TorchScript"),
}


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.:DeprecationWarning",
    "ignore:.*torch.jit.:FutureWarning",
    "ignore:.*nested tensors:UserWarning",
    "ignore:.*batching rule:UserWarning",
)
@torch.no_grad()
@pytest.mark.parametrize("case", UNREADABLE)
def test_what_can_not_be_read_is_named_and_not_rescaled(case):
    make, call, layer, reason = UNREADABLE[case]
    net = make()
    alone = call(net)
    with pytest.warns(EntropyLabWarning, match=re.escape(layer)), entropylab.record(net) as rec:
        assert torch.equal(alone, call(net))
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


UNCALLED = ("on_failure",)  # in these samplings
PLACES = [(Recorder, name) for name in dir(Recorder) if name.startswith("on_") and name not in UNCALLED]
PLACES += [(Sight, "read_inputs")]
"""All that a recorder is told of, and what reads the inputs of the denoiser."""


@pytest.mark.filterwarnings("ignore::entropylab.errors.EntropyLabWarning")
@pytest.mark.parametrize(("owner", "name"), PLACES, ids=lambda value: getattr(value, "__name__", value))
def test_a_failure_ends_no_sampling_and_an_interrupt_does(random_pipe, monkeypatch, owner, name):
    alone = sample_small(random_pipe)
    error = torch.OutOfMemoryError("none left") if name in ("on_attention", "on_step") else ZeroDivisionError("one")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, broken(error))
        with entropylab.record(random_pipe) as rec:
            assert torch.equal(alone, sample_small(random_pipe))
        assert rec.unmeasured and all(path.startswith("unet") for path in rec.unmeasured)
        if name == "on_attention":
            assert set(rec.unmeasured) == {layer.path for layer in entropylab.layers(random_pipe)}
        for reason in rec.unmeasured.values():
            assert type(error).__name__ in reason and str(error) in reason
        patch.setattr(owner, name, broken(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt), entropylab.record(random_pipe):
            sample_small(random_pipe)
    with entropylab.record(random_pipe, strict=True):
        assert torch.equal(alone, sample_small(random_pipe))


def test_branches_that_can_not_be_told_cost_no_numbers(random_pipe, monkeypatch):
    with entropylab.record(random_pipe) as whole:
        sample_small(random_pipe)
    monkeypatch.setattr("entropylab.measuring.run.named_by", broken(torch.OutOfMemoryError("none left")))
    with entropylab.record(random_pipe) as rec:
        sample_small(random_pipe)
    assert list(rec.dataset.branch.values) == ["branch 0", "branch 1"]
    np.testing.assert_array_equal(rec.dataset.entropy, whole.dataset.entropy)


@pytest.mark.filterwarnings("ignore:what the tokens stand for could not be told")
def test_following_that_fails_costs_the_roles_alone(monkeypatch):
    net = new_joint()
    alone = run_joint(net)
    monkeypatch.setattr(Trace, "__init__", broken(torch.OutOfMemoryError("none left")))
    with entropylab.record(net) as rec:
        assert torch.equal(alone, run_joint(net))
    assert set(rec.dataset.part.values) == {"unknown"}
    assert rec.unmeasured == {} and rec.dataset.entropy.notnull().any("head").all()


@pytest.mark.parametrize("attn", [usual, by_hand, Multihead])
def test_an_observer_that_fails_spoils_no_other(monkeypatch, attn):
    net = net_of(attn)
    alone, own, failed = run(net), Recorder.on_attention, []

    def first_fails(self, call):
        if not failed or self is failed[0]:
            failed.append(self)
            raise ZeroDivisionError("one")
        return own(self, call)

    monkeypatch.setattr(Recorder, "on_attention", first_fails)
    with pytest.warns(EntropyLabWarning, match="ZeroDivisionError: one"):
        with entropylab.record(net) as outer, entropylab.record(net) as inner:
            assert torch.equal(alone, run(net))
    assert len(outer.unmeasured) == 1 and inner.unmeasured == {}
    assert agree(inner, net.attn.logits)


def test_rescaling_that_can_not_see_leaves_the_model_alone(random_pipe, monkeypatch):
    alone = sample_small(random_pipe)
    with entropylab.rescale(random_pipe, 1.5):
        assert not torch.equal(alone, sample_small(random_pipe))
    monkeypatch.setattr(Sight, "read_inputs", broken(ZeroDivisionError("one")))
    with pytest.warns(EntropyLabWarning, match="could not rescale .*attn1"):
        with entropylab.rescale(random_pipe, 1.5) as handle:
            assert torch.equal(alone, sample_small(random_pipe))
    assert handle.multipliers == {}


def test_wrong_arguments_are_the_pipelines_to_refuse(random_pipe):
    with pytest.raises(TypeError) as alone:
        random_pipe("a red car", 1, *range(40))
    with pytest.raises(TypeError) as watched, entropylab.record(random_pipe):
        random_pipe("a red car", 1, *range(40))
    assert str(alone.value) == str(watched.value)
