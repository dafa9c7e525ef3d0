"""Recordings at once of one denoiser, and calls of a pipeline in its calls: each gives what it gives alone."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

import entropylab
from entropylab import EntropyLabError

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


OUTER, INNER = "a red house", "a blue house"


def call_in_call(pipe, size):
    """A call that makes another one after its first step, as a callback that shows a preview does."""

    def preview(pipe, step, timestep, kwargs):
        if step == 0:
            sample(pipe, size, [INNER])
        return {}

    return sample(pipe, prompts=[OUTER], callback_on_step_end=preview)


@pytest.mark.parametrize("size", [(64, 64), (32, 48)])
def test_a_call_in_a_call_is_a_run_of_its_own(random_pipe, size):
    def recorded(work):
        with entropylab.record(random_pipe, maps=True, words="house") as rec:
            images = work()
        return rec, images

    outer, plain = recorded(lambda: sample(random_pipe, prompts=[OUTER]))
    inner, _ = recorded(lambda: sample(random_pipe, size, [INNER]))
    both, images = recorded(lambda: call_in_call(random_pipe, size))
    assert torch.equal(images, plain)
    assert list(both.dataset["size"].values) == (["64x64"] if size == (64, 64) else ["32x48", "64x64"])
    if size == (64, 64):
        assert list(both.dataset.prompt.values) == [INNER, OUTER]
    for alone, place in ((inner, 0), (outer, int(size == (64, 64)))):
        label = alone.dataset["size"].item()
        ours = both.dataset.entropy.sel(size=label).isel(sample=place)
        theirs = alone.dataset.entropy.isel(size=0, sample=0)
        np.testing.assert_array_equal(ours, theirs)
        with pytest.raises(AssertionError):
            np.testing.assert_array_equal(ours, theirs[:, ::-1])
        for name, group in alone.maps[label].children.items():
            for variable in group.data_vars:
                each = both.maps[label][name][variable]
                np.testing.assert_array_equal(each.isel(sample=place), group[variable].isel(sample=0))


def test_what_was_measured_can_be_read_in_a_call_in_a_call(random_pipe):
    seen = []

    def look(pipe, step, timestep, kwargs):
        seen.append(dict(rec.dataset.sizes))
        return {}

    def preview(pipe, step, timestep, kwargs):
        if step == 1:
            sample(pipe, prompts=[INNER], callback_on_step_end=look)
        return {}

    with entropylab.record(random_pipe) as rec:
        sample(random_pipe, prompts=[OUTER], callback_on_step_end=preview)
    assert [(sizes["sample"], sizes["step"]) for sizes in seen] == [(2, 2), (2, 2), (2, 3)]


def test_a_call_in_a_call_that_is_refused(random_pipe):
    """The call around it goes on if it likes, as one run, in all recordings."""

    def preview(pipe, step, timestep, kwargs):
        with pytest.raises(EntropyLabError, match="words must be in the prompt"):
            sample(pipe, prompts=[INNER])
        return {}

    with entropylab.record(random_pipe, words="red") as rec, entropylab.record(random_pipe) as other:
        sample(random_pipe, prompts=[OUTER], callback_on_step_end=preview)
    for ds in (rec.dataset, other.dataset):
        assert (ds.sizes["sample"], ds.sizes["step"], list(ds.prompt.values)) == (1, 3, [OUTER])


class Twice(StableDiffusionPipeline):
    """A pipeline that samples coarsely first, by what it inherits."""

    def __call__(self, text, **options):
        super().__call__(text, **options | {"height": 32, "width": 32})
        return super().__call__(text, **options)


def test_what_a_pipeline_inherits_is_no_call_of_its_own(random_pipe):
    pipe = Twice(**random_pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    for others in ([], [random_pipe]):
        with ExitStack() as stack:
            for other in others:
                stack.enter_context(entropylab.record(other))
            rec = stack.enter_context(entropylab.record(pipe))
            pipe(OUTER, height=64, width=64, num_inference_steps=2, output_type="latent")
            assert (rec.dataset.sizes["sample"], rec.dataset.sizes["step"]) == (1, 4)
