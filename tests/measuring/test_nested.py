"""Recordings at once of one denoiser, and calls of a pipeline in its calls: each gives what it gives alone."""

from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

import entropylab
from entropylab import EntropyLabError

from ..sampling import sample
from ..state import state_of_pipeline


def at_once(work, contexts):
    """What several recordings say of ``work``, begun in this order, and what it returns."""
    with ExitStack() as stack:
        recorders = [stack.enter_context(context()) for context in contexts]
        images = work()
    assert all(recorder.unmeasured == {} for recorder in recorders)
    return [recorder.dataset.drop_attrs() for recorder in recorders], images


def agree(work, pipes, *contexts):
    """That recordings begun in either order say what each says alone, and nothing is disturbed."""
    before, plain = [state_of_pipeline(pipe) for pipe in pipes], work()
    expected = [at_once(work, [context])[0][0] for context in contexts]
    for order in (1, -1):
        found, images = at_once(work, contexts[::order])
        assert torch.equal(images, plain)
        assert all(one.identical(other) for one, other in zip(found[::order], expected, strict=True))
    assert not expected[0].identical(expected[1])
    assert [state_of_pipeline(pipe) for pipe in pipes] == before


def test_two_recordings_of_one_pipeline(random_pipe):
    options = {"statistics": ["entropy", "sensitivity"], "keep": ("layer", "head")}
    contexts = [partial(entropylab.record, random_pipe, **each) for each in ({"rows": 20}, options)]
    agree(lambda: sample(random_pipe, (32, 48), steps=2), [random_pipe], *contexts)


def test_recordings_of_two_pipelines_that_share_a_denoiser(random_pipe):
    """Text to image, and image to image: two of three steps, from the same noise whenever it is called."""
    other = StableDiffusionImg2ImgPipeline(**random_pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def work():
        redrawn = other(
            "a red car", image, strength=0.7, num_inference_steps=3, guidance_scale=2.0, output_type="latent",
            generator=torch.Generator().manual_seed(0),
        ).images  # fmt: skip
        return torch.cat([redrawn.flatten(), sample(random_pipe, (32, 32), steps=2).flatten()])

    contexts = [partial(entropylab.record, random_pipe), partial(entropylab.record, other, rows=20)]
    agree(work, (random_pipe, other), *contexts)


OUTER, INNER = "a red house", "a blue house"


def in_a_call(pipe, step, inner, **options):
    """A call that does something after a step, as a callback that shows a preview does."""

    def preview(pipe, at, timestep, kwargs):
        if at == step:
            inner(pipe)
        return {}

    return sample(pipe, prompts=[OUTER], callback_on_step_end=preview, **options)


@pytest.mark.parametrize("size", [(64, 64), (32, 48)])
def test_a_call_in_a_call_is_a_run_of_its_own(random_pipe, size):
    def recorded(work):
        with entropylab.record(random_pipe, maps=True, words="house") as rec:
            images = work()
        return rec, images

    outer, plain = recorded(lambda: sample(random_pipe, prompts=[OUTER], steps=2))
    inner, _ = recorded(lambda: sample(random_pipe, size, [INNER], steps=2))
    preview = partial(sample, size=size, prompts=[INNER], steps=2)
    both, images = recorded(lambda: in_a_call(random_pipe, 0, preview, steps=2))
    assert torch.equal(images, plain)
    same = size == (64, 64)
    assert list(both.dataset["size"].values) == (["64x64"] if same else ["32x48", "64x64"])
    assert not same or list(both.dataset.prompt.values) == [INNER, OUTER]
    for alone, place in ((inner, 0), (outer, int(same))):
        label = alone.dataset["size"].item()
        ours = both.dataset.entropy.sel(size=label).isel(sample=place)
        theirs = alone.dataset.entropy.isel(size=0, sample=0)
        np.testing.assert_array_equal(ours, theirs)
        assert not np.array_equal(ours, theirs[:, ::-1])
        for name, group in alone.maps[label].children.items():
            for variable in group.data_vars:
                each = both.maps[label][name][variable]
                np.testing.assert_array_equal(each.isel(sample=place), group[variable].isel(sample=0))


def test_what_was_measured_can_be_read_in_a_call_in_a_call(random_pipe):
    seen = []

    def look(pipe, step, timestep, kwargs):
        seen.append(dict(rec.dataset.sizes))
        return {}

    with entropylab.record(random_pipe) as rec:
        in_a_call(random_pipe, 1, partial(sample, prompts=[INNER], callback_on_step_end=look))
    assert [(sizes["sample"], sizes["step"]) for sizes in seen] == [(2, 2), (2, 2), (2, 3)]


def test_a_call_in_a_call_that_is_refused(random_pipe):
    """The call around it goes on if it likes, as one run, in all recordings."""

    def refused(pipe):
        with pytest.raises(EntropyLabError, match="words must be in the prompt"):
            sample(pipe, prompts=[INNER])

    with entropylab.record(random_pipe, words="red") as rec, entropylab.record(random_pipe) as other:
        in_a_call(random_pipe, 0, refused)
    for ds in (rec.dataset, other.dataset):
        assert (ds.sizes["sample"], ds.sizes["step"], list(ds.prompt.values)) == (1, 3, [OUTER])


class Twice(StableDiffusionPipeline):
    """A pipeline that samples first, by what it inherits, at a size that may be another one."""

    def __call__(self, text, first, **options):
        super().__call__(text, **options | {"height": first, "width": first})
        return super().__call__(text, **options)


def test_what_a_pipeline_inherits_is_no_call_of_its_own(random_pipe):
    pipe = Twice(**random_pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    for others in ([], [random_pipe]):
        with ExitStack() as stack:
            for other in others:
                stack.enter_context(entropylab.record(other))
            rec = stack.enter_context(entropylab.record(pipe))
            pipe(OUTER, 64, height=64, width=64, num_inference_steps=2, output_type="latent")
            assert (rec.dataset.sizes["sample"], rec.dataset.sizes["step"]) == (1, 4)
    with entropylab.record(pipe) as rec:
        pipe(OUTER, 32, height=64, width=64, num_inference_steps=2, output_type="latent")
    assert rec.dataset["size"].values.tolist() == ["32x32", "64x64"]
    assert rec.dataset.tokens.max("layer").values.tolist() == [64, 256]
