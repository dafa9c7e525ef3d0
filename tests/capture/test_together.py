"""Several watchers at once: in threads, side by side, and one within another."""

import copy
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest
import torch

import entropylab
from entropylab import EntropyLabWarning

from ..conftest import new_random_pipeline
from ..sampling import sample
from ..seeds import normal
from ..state import state
from .nets import EVERY, TOKENS, WIDTH, net_of, new_joint, recorded, run, run_joint, usual


@pytest.mark.parametrize("attn", EVERY)
def test_a_denoiser_that_runs_in_another_thread(attn):
    alone, net = recorded(net_of(attn)), net_of(attn)
    with entropylab.record(net) as rec, ThreadPoolExecutor(1) as pool:
        watched = list(pool.map(partial(run, net), range(2)))
    assert all(torch.equal(one, run(net, seed)) for seed, one in enumerate(watched))
    assert rec.dataset.drop_attrs().equals(alone.dataset.drop_attrs())


def test_two_pipelines_at_once_in_two_threads():
    """Both first forwards, which are followed, run side by side."""

    def new_pipes():
        return new_random_pipeline(), new_random_pipeline(attention_head_dim=(4, 4))

    def sampled(pipe):
        return sample(pipe, size=(32, 32), steps=1)

    alone, plain = [], []
    for pipe in new_pipes():
        with entropylab.record(pipe) as rec:
            plain.append(sampled(pipe))
        alone.append(rec.dataset.drop_attrs())
    pipes = new_pipes()
    with entropylab.record(pipes[0]) as one, entropylab.record(pipes[1]) as two, ThreadPoolExecutor(2) as pool:
        images = list(pool.map(sampled, pipes))
    for index, rec in enumerate((one, two)):
        assert torch.equal(images[index], plain[index])
        assert rec.dataset.drop_attrs().equals(alone[index])
        assert not rec.dataset.drop_attrs().equals(alone[1 - index])


def test_one_denoiser_in_two_threads_at_once_is_named_and_nothing_of_it_is_kept(random_pipe):
    pipes = [random_pipe, copy.copy(random_pipe)]
    pipes[1].scheduler = copy.deepcopy(random_pipe.scheduler)
    plain = sample(random_pipe, steps=2)
    both = threading.Barrier(2, timeout=60)

    with pytest.warns(EntropyLabWarning, match="two threads at once"), entropylab.record(random_pipe) as rec:
        sample(random_pipe, steps=2)
        waiting = random_pipe.unet.mid_block.register_forward_pre_hook(lambda *handed: both.wait() < 0 or None)
        with ThreadPoolExecutor(2) as pool:
            images = list(pool.map(partial(sample, steps=2), pipes))
        waiting.remove()
    assert all(torch.equal(image, plain) for image in images)
    usual = recorded_alone(random_pipe)
    np.testing.assert_array_equal(rec.dataset.entropy, usual.entropy)


def test_a_call_that_ended_by_an_exception_in_another_thread_does_not_run_any_more(random_pipe):
    def fail(*handed):
        raise RuntimeError("of the model's own")

    with entropylab.record(random_pipe, strict=True) as rec:
        failing = random_pipe.unet.mid_block.register_forward_pre_hook(fail)
        with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="own"):
            pool.submit(sample, random_pipe, steps=2).result()
        failing.remove()
        sample(random_pipe, steps=2)
    np.testing.assert_array_equal(rec.dataset.entropy, recorded_alone(random_pipe).entropy)


def test_a_forward_that_failed_in_another_thread_does_not_run_any_more():
    """Of a bare denoiser, whose calls nobody ends; its thread lives on."""
    net = net_of(usual)
    with entropylab.record(net, strict=True) as rec, ThreadPoolExecutor(1) as pool:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            pool.submit(net, normal(1, TOKENS, WIDTH + 1), torch.tensor(1.0)).result()
        run(net)
    assert rec.dataset.drop_attrs().equals(recorded(net_of(usual), forwards=1).dataset.drop_attrs())


def recorded_alone(pipe):
    with entropylab.record(pipe, strict=True) as rec:
        sample(pipe, steps=2)
    return rec.dataset


def test_contexts_that_end_in_another_order():
    net = net_of(usual)
    before = state(net)
    first, second = entropylab.record(net), entropylab.record(net)
    one, two = first.__enter__(), second.__enter__()
    run(net)
    first.__exit__(None, None, None)
    run(net)
    second.__exit__(None, None, None)
    assert (one.dataset.sizes["step"], two.dataset.sizes["step"]) == (1, 2)
    assert state(net) == before


@pytest.mark.parametrize("inside_first", [False, True])
def test_a_model_and_a_block_of_it_at_once(inside_first):
    """Neither loses what tokens stand for, and nothing goes on following."""
    net, other = new_joint(), new_joint()
    with entropylab.record(other) as alone:
        plain = run_joint(other)
    with ExitStack() as stack:
        roots = [net.middle, net] if inside_first else [net, net.middle]
        recorders = {root: stack.enter_context(entropylab.record(root)) for root in roots}
        assert torch.equal(run_joint(net), plain)
        assert torch._C._len_torch_function_stack() == 0
    assert recorders[net].dataset.drop_attrs().equals(alone.dataset.drop_attrs())
    middle = alone.dataset.entropy.sel(layer=[name for name in alone.dataset.layer.values if "middle" in name])
    np.testing.assert_array_equal(recorders[net.middle].dataset.entropy, middle)


def test_who_has_ended_is_let_go_while_another_goes_on():
    net = net_of(usual)
    with entropylab.rescale(net, 1.5, train_size=8):
        with entropylab.record(net) as rec:
            run(net)
        gone = weakref.ref(rec)
        del rec
        gc.collect()
        assert gone() is None
