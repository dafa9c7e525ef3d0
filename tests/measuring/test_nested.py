"""Recordings of one denoiser at once: on one pipeline, and on two that share it; each gives what it gives alone."""

from contextlib import ExitStack

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline

import entropylab

from ..conftest import new_random_pipeline
from ..sampling import sample
from ..state import state_of_pipeline


def told(recorder):
    """What a recording says, without where it comes from."""
    return recorder.dataset.drop_attrs()


def at_once(work, *contexts):
    """What several recordings say of ``work``, begun in this order, and what it returns."""
    with ExitStack() as stack:
        recorders = [stack.enter_context(context()) for context in contexts]
        found = work()
    assert all(recorder.unmeasured == {} for recorder in recorders)
    return [told(recorder) for recorder in recorders], found


def alone(work, *contexts):
    """What each recording says where no other one looks, and what ``work`` returns."""
    found = [at_once(work, context) for context in contexts]
    return [datasets[0] for datasets, _ in found], found[0][1]


OPTIONS = {
    "the same": ({}, {}),
    "some rows, other statistics": (
        {"rows": 20},
        {"statistics": ["entropy", "sensitivity"], "keep": ("layer", "head")},
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_two_recordings_of_one_pipeline(random_pipe, name):
    def work():
        return sample(random_pipe, (32, 48), steps=2)

    contexts = [lambda options=options: entropylab.record(random_pipe, **options) for options in OPTIONS[name]]
    before, plain = state_of_pipeline(random_pipe), work()
    expected, _ = alone(work, *contexts)
    for order in (1, -1):
        found, images = at_once(work, *contexts[::order])
        assert torch.equal(images, plain)
        assert all(one.identical(other) for one, other in zip(found[::order], expected, strict=True))
    assert state_of_pipeline(random_pipe) == before


@pytest.fixture
def pair():
    """Two pipelines that share everything, text to image and image to image."""
    pipe = new_random_pipeline()
    other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    return pipe, other


def redraw(pipe):
    """Image to image: two of three steps, from the same noise whenever it is called."""
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return pipe(
        "a red car", image, strength=0.7, num_inference_steps=3, guidance_scale=2.0, output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip


WORKS = {
    "the second": lambda pipe, other: [redraw(other)],
    "both, the second first": lambda pipe, other: [redraw(other), sample(pipe, (32, 32), steps=2)],
}


@pytest.mark.parametrize("name", WORKS)
def test_recordings_of_two_pipelines_that_share_a_denoiser(pair, name):
    def work():
        return WORKS[name](*pair)

    contexts = [lambda pipe=pipe: entropylab.record(pipe) for pipe in pair]
    before, plain = [state_of_pipeline(pipe) for pipe in pair], work()
    expected, _ = alone(work, *contexts)
    for order in (1, -1):
        found, images = at_once(work, *contexts[::order])
        assert all(torch.equal(one, other) for one, other in zip(images, plain, strict=True))
        assert all(one.identical(other) for one, other in zip(found[::order], expected, strict=True))
    assert [state_of_pipeline(pipe) for pipe in pair] == before
