"""``record`` on pipelines: the same images, and everything put back."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler

import entropylab

from ..sampling import sample
from ..state import state_of_pipeline


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_images_are_bit_identical(random_pipe, guidance):
    plain = sample(random_pipe, guidance=guidance, kind="pt")
    with entropylab.record(random_pipe) as rec:
        watched = sample(random_pipe, guidance=guidance, kind="pt")
    assert torch.equal(plain, watched)
    assert all(layer.startswith("unet.") for layer in rec.dataset.layer.values), "nor text encoder nor VAE"


@pytest.mark.parametrize("scheduler", [EulerAncestralDiscreteScheduler, DDPMScheduler, HeunDiscreteScheduler])
def test_images_are_bit_identical_with_schedulers_that_draw_noise(random_pipe, scheduler):
    """They draw from the generator that a pipeline hands over only if ``step`` says that it takes one."""
    random_pipe.scheduler = scheduler.from_config(random_pipe.scheduler.config)
    plain = sample(random_pipe)
    with entropylab.record(random_pipe) as rec:
        watched = sample(random_pipe)
    assert torch.equal(plain, watched)
    assert rec.dataset.sizes["step"] == (5 if scheduler is HeunDiscreteScheduler else 3)
    assert type(random_pipe.scheduler) is scheduler


def test_identity_of_images_would_notice_a_changed_scale(random_pipe):
    plain = sample(random_pipe)
    with entropylab.rescale(random_pipe, 1.001):
        changed = sample(random_pipe)
    assert not torch.equal(plain, changed)


def test_embedded_images_are_bit_identical(embedded):
    plain = sample(embedded, (48, 64), steps=2, kind="pt")
    with entropylab.record(embedded, statistics=["entropy", "sigma2", "third", "sensitivity"]):
        watched = sample(embedded, (48, 64), steps=2, kind="pt")
    assert torch.equal(plain, watched)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_pipeline_is_as_it_was_after_an_exception(random_pipe, error):
    before, plain = state_of_pipeline(random_pipe), sample(random_pipe)

    def fail(pipe, step, timestep, tensors):
        raise error("in the middle of sampling")

    with pytest.raises(error), entropylab.record(random_pipe) as rec:
        random_pipe("a red car", height=64, width=64, num_inference_steps=3, callback_on_step_end=fail)
    assert state_of_pipeline(random_pipe) == before
    assert torch.equal(plain, sample(random_pipe))
    assert rec.dataset.sizes["step"] == 1


def test_state_would_notice_a_hook_left_behind(random_pipe):
    before = state_of_pipeline(random_pipe)
    random_pipe.unet.mid_block.register_forward_hook(lambda *args: None)
    assert state_of_pipeline(random_pipe) != before


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


def test_a_replacement_of_sdpa_by_somebody_else_is_used_and_put_back(random_pipe, monkeypatch):
    original, calls = F.scaled_dot_product_attention, []

    def theirs(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", theirs)
    with entropylab.record(random_pipe, layers="self"):
        sample(random_pipe, steps=1)
    assert len(calls) >= 14
    assert F.scaled_dot_product_attention is theirs
