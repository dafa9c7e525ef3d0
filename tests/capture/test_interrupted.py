"""What is put back, also where the first forward is interrupted while it is followed."""

import warnings
from contextlib import ExitStack

import pytest
import torch
from torch import nn

import entropylab
from entropylab.capture import roles
from entropylab.errors import EntropyLabWarning

from ..sampling import sample
from ..state import state
from .nets import HEADS, WIDTH, Flex, Joint, Method, Multihead, OwnAttention, net_of, run, run_joint

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")


class JointMultihead(Joint):
    class Middle(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

        def forward(self, hidden_states, timestep):
            return self.attn(hidden_states, hidden_states, hidden_states, need_weights=False)[0] + hidden_states


def stop_in_layer(net, error, monkeypatch):
    stop_once(net.two.to_k, "forward", error, monkeypatch)


def stop_in_multihead(net, error, monkeypatch):
    stop_once(torch, "_native_multi_head_attention", error, monkeypatch)


def stop_in_attention(net, error, monkeypatch):
    stop_once(torch.nn.functional, "scaled_dot_product_attention", error, monkeypatch)


def stop_once(owner, name, error, monkeypatch):
    """Let a function fail at its first call."""
    original, armed = getattr(owner, name), [True]

    def failing(*args, **more):
        if armed:
            armed.clear()
            raise error("stop")
        return original(*args, **more)

    monkeypatch.setattr(owner, name, failing)


INTERRUPTIONS = [
    (stop_in_layer, KeyboardInterrupt, True),
    (stop_in_layer, KeyboardInterrupt, False),
    (stop_in_multihead, RuntimeError, True),
    (stop_in_attention, KeyboardInterrupt, True),
]


@pytest.mark.parametrize(("stop", "error", "caught_inside"), INTERRUPTIONS)
def test_a_first_forward_that_is_interrupted(stop, error, caught_inside, monkeypatch):
    torch.manual_seed(0)
    net = JointMultihead().eval()
    with entropylab.record(net) as usual:
        plain = run_joint(net)
    roles.forget(net)
    with monkeypatch.context() as patch:
        stop(net, error, patch)
        before = state(net)
        with ExitStack() as stack:
            if caught_inside:
                rec = stack.enter_context(entropylab.record(net))
                with pytest.raises(error):
                    run_joint(net)
            else:
                with pytest.raises(error), entropylab.record(net):
                    run_joint(net)
                assert state(net) == before
                rec = stack.enter_context(entropylab.record(net))
            images = [run_joint(net) for _ in range(2)]
        assert state(net) == before
    assert all(torch.equal(one, plain) for one in images)
    assert rec.dataset.sizes["step"] == 2
    for step in range(2):
        found = rec.dataset.isel(step=step).drop_attrs()
        assert found.equals(usual.dataset.isel(step=0).drop_attrs().assign_coords(step=step))


def test_an_interrupted_pipeline_can_be_recorded_again(random_pipe, monkeypatch):
    with entropylab.record(random_pipe) as usual:
        plain = sample(random_pipe, size=(32, 32), steps=1)
    roles.forget(random_pipe.unet)
    block = random_pipe.unet.up_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
    before = state(random_pipe.unet)
    with entropylab.record(random_pipe) as rec:
        with monkeypatch.context() as patch:
            stop_once(block, "forward", KeyboardInterrupt, patch)
            with pytest.raises(KeyboardInterrupt):
                sample(random_pipe, size=(32, 32), steps=1)
        assert torch._C._len_torch_function_stack() == 0
        assert torch.equal(sample(random_pipe, size=(32, 32), steps=1), plain)
    assert state(random_pipe.unet) == before
    assert rec.dataset.drop_attrs().equals(usual.dataset.drop_attrs())


@pytest.mark.usefixtures("quick_flex")
@pytest.mark.parametrize("attn", [OwnAttention, Method, Multihead, Flex])
@pytest.mark.parametrize("context", [entropylab.record, lambda net: entropylab.rescale(net, 1.1, train_size=8)])
def test_everything_is_put_back(attn, context):
    net = net_of(attn)
    before = state(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EntropyLabWarning)
        with context(net):
            run(net)
            assert state(net) != before
    assert state(net) == before
