"""Several watchers at once: in threads, side by side, and one within another."""

import copy
import gc
import threading
import weakref
from contextlib import ExitStack

import numpy as np
import pytest
import torch

import entropylab
from entropylab import EntropyLabWarning
from entropylab.capture import roles
from entropylab.capture.forwards import running

from ..conftest import new_random_pipeline
from ..sampling import sample
from ..state import state
from .nets import Flex, Method, Multihead, OwnAttention, agree, in_thread, net_of, new_joint, recorded, run, run_joint

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")


@pytest.mark.usefixtures("quick_flex")
@pytest.mark.parametrize("attn", [OwnAttention, Method, Multihead, Flex])
def test_a_denoiser_that_runs_in_another_thread(attn):
    usual = recorded(net_of(attn))
    net = net_of(attn)
    with entropylab.record(net) as rec:
        watched = [in_thread(lambda seed=seed: run(net, seed)) for seed in range(3)]
    assert all(torch.equal(one, run(net, seed)) for seed, one in enumerate(watched))
    assert rec.dataset.drop_attrs().equals(usual.dataset.drop_attrs())


def test_two_pipelines_at_once_in_two_threads():
    """Both first forwards, which are followed, run side by side."""
    pipes = [new_random_pipeline(), new_random_pipeline(attention_head_dim=(4, 4))]
    usual, plain = [], []
    for pipe in pipes:
        with entropylab.record(pipe) as rec:
            plain.append(sample(pipe, size=(32, 32), steps=2))
        usual.append(rec.dataset)
        roles.forget(pipe.unet)
    images, start = {}, threading.Barrier(2)

    def work(index):
        start.wait()
        images[index] = sample(pipes[index], size=(32, 32), steps=2)

    with entropylab.record(pipes[0]) as one, entropylab.record(pipes[1]) as two:
        threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, rec in enumerate((one, two)):
        assert torch.equal(images[index], plain[index])
        assert rec.dataset.drop_attrs().equals(usual[index].drop_attrs())
    assert not one.dataset.drop_attrs().equals(two.dataset.drop_attrs())


def test_one_denoiser_in_two_threads_at_once_is_named_and_nothing_of_it_is_kept(random_pipe):
    pipes = [random_pipe, copy.copy(random_pipe)]
    pipes[1].scheduler = copy.deepcopy(random_pipe.scheduler)
    plain = sample(random_pipe, steps=2)
    images, both = {}, threading.Barrier(2, timeout=60)

    def work(index):
        images[index] = sample(pipes[index], steps=2)

    with pytest.warns(EntropyLabWarning, match="two threads at once"), entropylab.record(random_pipe) as rec:
        sample(random_pipe, steps=2)
        waiting = random_pipe.unet.mid_block.register_forward_pre_hook(lambda *handed: both.wait() < 0 or None)
        threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        waiting.remove()
    assert all(torch.equal(image, plain) for image in images.values()) and len(images) == 2
    usual = recorded_alone(random_pipe)
    np.testing.assert_array_equal(rec.dataset.entropy, usual.entropy)


def test_a_call_that_ended_by_an_exception_in_another_thread_does_not_run_any_more(random_pipe):
    def fail(*handed):
        raise RuntimeError("of the model's own")

    def work():
        with pytest.raises(RuntimeError, match="own"):
            sample(random_pipe, steps=2)

    with entropylab.record(random_pipe, strict=True) as rec:
        failing = random_pipe.unet.mid_block.register_forward_pre_hook(fail)
        in_thread(work)
        failing.remove()
        sample(random_pipe, steps=2)
    np.testing.assert_array_equal(rec.dataset.entropy, recorded_alone(random_pipe).entropy)


def recorded_alone(pipe):
    with entropylab.record(pipe, strict=True) as rec:
        sample(pipe, steps=2)
    return rec.dataset


# One within another


def test_record_in_rescale_in_record():
    net = net_of(OwnAttention)
    plain = run(net)
    with entropylab.record(net) as outer:
        with entropylab.rescale(net, 1.5, train_size=8), entropylab.record(net) as inner:
            scaled = run(net)
        logits = net.attn.logits
        again = run(net)
    assert agree(outer, 1.5 * logits, step=0) and agree(inner, 1.5 * logits)
    assert agree(outer, logits, step=1) and not agree(outer, logits, step=0)
    assert torch.equal(plain, again) and not torch.equal(plain, scaled)


def test_contexts_that_end_in_another_order():
    net = net_of(OwnAttention)
    before = state(net)
    first, second = entropylab.record(net), entropylab.record(net)
    one = first.__enter__()
    two = second.__enter__()
    run(net)
    first.__exit__(None, None, None)
    run(net)
    second.__exit__(None, None, None)
    assert (one.dataset.sizes["step"], two.dataset.sizes["step"]) == (1, 2)
    assert state(net) == before


@pytest.mark.parametrize("inside_first", [False, True])
def test_a_model_and_a_block_of_it_at_once(inside_first):
    """Neither loses what tokens stand for, and nothing goes on following."""
    net = new_joint()
    plain = run_joint(net)
    with entropylab.record(net) as usual:
        run_joint(net)
    roles.forget(net)
    with ExitStack() as stack:
        contexts = [entropylab.record(net.middle), entropylab.record(net)]
        recorders = [stack.enter_context(context) for context in (contexts if inside_first else contexts[::-1])]
        assert torch.equal(run_joint(net), plain)
        assert torch._C._len_torch_function_stack() == 0
        assert running() is None
    inner, outer = recorders if inside_first else recorders[::-1]
    assert outer.dataset.drop_attrs().equals(usual.dataset.drop_attrs())
    middle = usual.dataset.entropy.sel(layer=[name for name in usual.dataset.layer.values if "middle" in name])
    np.testing.assert_array_equal(inner.dataset.entropy, middle)


def test_who_has_ended_is_let_go_while_another_goes_on():
    net = net_of(OwnAttention)
    with entropylab.rescale(net, 1.5, train_size=8):
        with entropylab.record(net) as rec:
            run(net)
        gone = weakref.ref(rec)
        del rec
        gc.collect()
        assert gone() is None
