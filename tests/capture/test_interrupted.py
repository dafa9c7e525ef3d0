"""What is put back, and what Ctrl-C leaves behind, also where the first forward is interrupted while it is followed."""

import signal
from contextlib import ExitStack

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import entropylab
from entropylab.capture import functions, session

from ..state import state
from .nets import EVERY, HEADS, WIDTH, Joint, net_of, new_joint, run, run_joint, usual


class JointMultihead(Joint):
    class Middle(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

        def forward(self, hidden_states, timestep):
            return self.attn(hidden_states, hidden_states, hidden_states, need_weights=False)[0] + hidden_states


def stop_once(owner, name, error, monkeypatch):
    """Let a function fail at its first call."""
    original, armed = getattr(owner, name), [True]

    def failing(*args, **more):
        if armed:
            armed.clear()
            raise error("stop")
        return original(*args, **more)

    monkeypatch.setattr(owner, name, failing)


IN_LAYER = (lambda net: (net.two.to_k, "forward"), KeyboardInterrupt)
IN_MULTIHEAD = (lambda net: (torch, "_native_multi_head_attention"), RuntimeError)
IN_ATTENTION = (lambda net: (F, "scaled_dot_product_attention"), KeyboardInterrupt)


@pytest.mark.parametrize(
    ("where", "error", "caught_inside"),
    [(*IN_LAYER, True), (*IN_LAYER, False), (*IN_MULTIHEAD, True), (*IN_ATTENTION, True)],
)
def test_a_first_forward_that_is_interrupted(where, error, caught_inside, monkeypatch):
    net, other = new_joint(JointMultihead), new_joint(JointMultihead)
    with entropylab.record(other) as alone:
        plain = run_joint(other)
    with ExitStack() as stack:
        with monkeypatch.context() as patch:
            stop_once(*where(net), error, patch)
            before = state(net)
            if caught_inside:
                rec = stack.enter_context(entropylab.record(net))
                with pytest.raises(error):
                    run_joint(net)
            else:
                with pytest.raises(error), entropylab.record(net):
                    run_joint(net)
                assert state(net) == before
                rec = stack.enter_context(entropylab.record(net))
            assert all(torch.equal(run_joint(net), plain) for _ in range(2))
            assert torch._C._len_torch_function_stack() == 0
            stack.close()
            assert state(net) == before
    for step in range(2):
        found = rec.dataset.isel(step=step).drop_attrs()
        assert found.equals(alone.dataset.isel(step=0).drop_attrs().assign_coords(step=step))


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("what", ["prompt", "timesteps"])
def test_what_runs_after_ctrl_c_is_not_rescaled(random_pipe, what):
    """PyTorch's hooks do not hear of Ctrl-C: the layer that it ended must not seem to run for ever."""
    query = torch.randn(1, 2, 9, 4)
    plain = F.scaled_dot_product_attention(query, query, query)
    text = random_pipe.encode_prompt("a red car", "cpu", 1, False)[0]
    with entropylab.rescale(random_pipe, 3.0):
        handle = random_pipe.unet.mid_block.attentions[0].register_forward_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            if what == "prompt":
                random_pipe("a red car", height=64, width=64, num_inference_steps=1)
            else:
                random_pipe.unet(torch.randn(1, 4, 16, 16), 1, encoder_hidden_states=text)
        handle.remove()
        if what == "timesteps":
            random_pipe.scheduler.set_timesteps(2)
        assert torch.equal(plain, F.scaled_dot_product_attention(query, query, query))
        assert torch.equal(text, random_pipe.encode_prompt("a red car", "cpu", 1, False)[0])


def test_ctrl_c_caught_inside_a_record_loses_its_forward_alone():
    net = net_of(usual)
    with entropylab.record(net, strict=True) as rec:
        run(net)
        handle = net.attn.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(net)
        handle.remove()
        F.scaled_dot_product_attention(*torch.randn(3, 1, 2, 5, 4))
        run(net)
    assert rec.dataset.sizes["step"] == 2 and rec.dataset.entropy.notnull().all()


@pytest.mark.parametrize(("owner", "name"), [(functions, "seen_flex"), (session, "end")])
def test_ctrl_c_while_looking_begins_or_ends_finds_all_changed_or_all_put_back(owner, name, monkeypatch):
    net = net_of(usual)
    before, original = state(net), getattr(owner, name)

    def interrupted(given):
        signal.raise_signal(signal.SIGINT)
        return original(given)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may ignore it
    try:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupted)
            with pytest.raises(KeyboardInterrupt), entropylab.record(net):
                run(net)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert state(net) == before


@pytest.mark.filterwarnings("ignore:rule '1.1' rescaled nothing")
@pytest.mark.parametrize("attn", EVERY)
@pytest.mark.parametrize("context", [entropylab.record, lambda net: entropylab.rescale(net, 1.1, train_size=8)])
def test_everything_is_put_back(attn, context):
    net = net_of(attn)
    before = state(net)
    with context(net):
        run(net)
        assert state(net) != before
    assert state(net) == before
