"""What is put back, and what Ctrl-C leaves behind, also where the first forward is interrupted while it is followed."""

import warnings
from contextlib import ExitStack

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import entropylab
from entropylab.capture import roles, session
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
    torch.manual_seed(0)
    net = JointMultihead().eval()
    with entropylab.record(net) as usual:
        plain = run_joint(net)
    roles.forget(net)
    with monkeypatch.context() as patch:
        stop_once(*where(net), error, patch)
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
    before = state(random_pipe.unet)
    with entropylab.record(random_pipe) as rec:
        with monkeypatch.context() as patch:
            stop_once(random_pipe.unet.up_blocks[0].attentions[0].proj_in, "forward", KeyboardInterrupt, patch)
            with pytest.raises(KeyboardInterrupt):
                sample(random_pipe, size=(32, 32), steps=1)
        assert torch._C._len_torch_function_stack() == 0
        assert torch.equal(sample(random_pipe, size=(32, 32), steps=1), plain)
    assert state(random_pipe.unet) == before
    assert rec.dataset.drop_attrs().equals(usual.dataset.drop_attrs())


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
    assert not session.observers and not session.places


def test_ctrl_c_caught_inside_a_record_loses_its_forward_alone():
    net = net_of(OwnAttention)
    with entropylab.record(net, strict=True) as rec:
        run(net)
        handle = net.attn.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(net)
        handle.remove()
        F.scaled_dot_product_attention(*torch.randn(3, 1, 2, 5, 4))
        run(net)
    assert rec.dataset.sizes["step"] == 2 and rec.dataset.entropy.notnull().all()


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
