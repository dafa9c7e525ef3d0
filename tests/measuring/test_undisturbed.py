"""``record`` on pipelines: the same images, and everything put back."""

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, HeunDiscreteScheduler

import entropylab

from ..sampling import sample
from ..state import state_of_pipeline


@pytest.mark.parametrize("scheduler", [EulerAncestralDiscreteScheduler, HeunDiscreteScheduler, None])
def test_images_are_bit_identical(random_pipe, scheduler):
    """Schedulers draw from the generator that a pipeline hands over only if ``step`` says that it takes one."""
    if scheduler is not None:
        random_pipe.scheduler = scheduler.from_config(random_pipe.scheduler.config)
    kind, guidance = type(random_pipe.scheduler), 2.0 if scheduler else 1.0
    plain = sample(random_pipe, guidance=guidance, kind="pt")
    with entropylab.record(random_pipe) as rec:
        assert torch.equal(sample(random_pipe, guidance=guidance, kind="pt"), plain)
    assert rec.dataset.sizes["step"] == (5 if scheduler is HeunDiscreteScheduler else 3)
    assert type(random_pipe.scheduler) is kind
    with entropylab.rescale(random_pipe, 1.001):
        assert not torch.equal(sample(random_pipe, guidance=guidance, kind="pt"), plain)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_pipeline_is_as_it_was_after_an_exception(random_pipe, error):
    before, plain = state_of_pipeline(random_pipe), sample(random_pipe, steps=2)

    def fail(pipe, step, timestep, tensors):
        raise error("in the middle of sampling")

    with pytest.raises(error), entropylab.record(random_pipe) as rec:
        random_pipe("a red car", height=64, width=64, num_inference_steps=3, callback_on_step_end=fail)
    assert state_of_pipeline(random_pipe) == before
    assert torch.equal(plain, sample(random_pipe, steps=2))
    assert rec.dataset.sizes["step"] == 1
    random_pipe.unet.mid_block.register_forward_hook(lambda *args: None)
    assert state_of_pipeline(random_pipe) != before, "a hook left behind would be noticed"


def test_a_forward_that_failed_leaves_nothing_behind(random_pipe):
    """Sampling that ran out of memory, say, is caught, and a smaller size is tried in the same recording."""
    module, fail, before = random_pipe.unet.mid_block.attentions[0], [True], state_of_pipeline(random_pipe)

    def maybe_fail(*args):
        if fail:
            raise RuntimeError("out of memory")

    handle = module.register_forward_hook(maybe_fail)
    with entropylab.record(random_pipe) as rec:
        with pytest.raises(RuntimeError):
            sample(random_pipe, (64, 64))
        fail.clear()
        sample(random_pipe, (32, 32))
    handle.remove()
    assert state_of_pipeline(random_pipe) == before
    with entropylab.record(random_pipe) as clean:
        sample(random_pipe, (32, 32))
    assert rec.dataset.equals(clean.dataset)
