"""Results are read once their own GPU has delivered them, and CUDA is left alone where nothing is on a GPU."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

import entropylab
from entropylab.measuring import run
from entropylab.pipelines import denoisers
from entropylab.pipelines.guidance import Branch, Handed, Texts, evidence

from ..measuring.test_words import lumina
from ..sampling import sample
from ..zoo import BY_NAME
from .examining import followed, on_cpu
from .log import Log
from .placing import on_gpus, on_host, pretended

FAMILY = BY_NAME["FLUX.1"]


def same(dataset, wanted) -> bool:
    return np.allclose(dataset.entropy.values, wanted.entropy.values, atol=2e-5, equal_nan=True)


@pytest.fixture
def wanted():
    return on_cpu(FAMILY.name)


def test_on_streams_of_its_own_and_moved_to_another_gpu_midway(wanted) -> None:
    pipe = FAMILY.build()
    with pretended(), entropylab.record(pipe) as recorder:
        for place in ("cuda:0", "cuda:1"):
            with on_gpus(pipe, place), torch.cuda.stream(torch.cuda.Stream(place)):
                FAMILY.sample(pipe)
    assert same(recorder.dataset, wanted)


def test_read_while_it_samples(wanted) -> None:
    pipe, forwards, seen = FAMILY.build(), [], []

    def look(*_) -> None:
        forwards.append(1)
        if len(forwards) == 2:
            seen.append(recorder.dataset)

    with pretended(), on_gpus(pipe, "cuda:1"), entropylab.record(pipe) as recorder:
        with pipe.transformer.register_forward_hook(look):
            FAMILY.sample(pipe)
    assert same(seen[0], wanted.isel(sample=slice(0, 1), step=slice(0, 1)))


def test_what_nobody_waits_for_is_not_there(monkeypatch) -> None:
    monkeypatch.setattr(run, "departures", lambda tensors: [])
    pipe = FAMILY.build()
    with pretended(), on_gpus(pipe, "cuda:1"), entropylab.record(pipe) as recorder:
        FAMILY.sample(pipe)
    assert not recorder.dataset.entropy.notnull().any()


def test_words_of_masked_texts_are_not_waited_for() -> None:
    """Each call encodes texts anew, and the model itself reads how many tokens a mask leaves."""
    waits, maps, options = [], [], {"system_prompt": "a", "max_sequence_length": 48, "steps": 2}
    for place in ("cuda:1", "cpu"):
        pipe = lumina()
        with pretended() as gpus, on_gpus(pipe, place) if place != "cpu" else nullcontext():
            for words in (None, "house"):
                with entropylab.record(pipe, maps=True, words=words) as recorder:
                    for _ in range(2):
                        gpus.log = Log()
                        with gpus.log.following(denoisers(pipe).values()):
                            sample(pipe, (96, 128), **options)
                waits.append(gpus.log.while_sampling.waits)
            maps.append(recorder.maps["96x128/6x8"].words)
    assert waits[0] == waits[1]
    assert maps[0].notnull().any()
    np.testing.assert_allclose(*maps, atol=1e-5)


def test_branches_from_two_gpus_are_told_apart() -> None:
    torch.manual_seed(0)
    uncond, cond, sample = torch.randn(3, 1, 8, 8).unbind()
    combined = uncond + 3 * (cond - uncond)
    with pretended():
        branches = [
            Branch(output.to(place), Handed([torch.full((1, 2), text).to(place)], 1))
            for output, place, text in ((uncond, "cuda:0", 0.0), (cond, "cuda:1", 1.0))
        ]
        found = evidence(branches, combined.to("cuda:0"), sample.to("cuda:0"), 1, None, Texts()).names()
    assert found == ["uncond", "cond"]


def test_cuda_is_left_alone_by_what_runs_on_the_cpu(monkeypatch) -> None:
    def touched(*_, **__):
        raise AssertionError("CUDA was touched")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("_lazy_init", "synchronize", "current_stream", "current_device", "Event"):
        monkeypatch.setattr(torch.cuda, name, touched)
    pipe = FAMILY.build()
    with entropylab.record(pipe) as recorder:
        FAMILY.sample(pipe)
    assert recorder.dataset.sizes["step"] == 2


@pytest.mark.parametrize(("rule", "waits"), [("arithmetic", False), ("float", True)])
def test_nothing_waits_for_the_timestep_but_a_rule_that_wants_a_number(rule, waits) -> None:
    def fading(tokens, train_tokens, timestep):
        return 1 + (timestep if rule == "arithmetic" else float(timestep)) / 1000

    family, found = BY_NAME["FLUX.1"], {}
    for place in ("cpu", "cuda:1"):
        pipe = family.build()
        with pretended() as gpus, on_gpus(pipe, place) if place != "cpu" else nullcontext():
            _, plain = followed(gpus, family, pipe)
            with entropylab.rescale(pipe, fading, train_size=64), entropylab.record(pipe):
                family.sample(pipe)
                image, rescaled = followed(gpus, family, pipe)
            found[place] = on_host(image) if place != "cpu" else image
    assert bool((rescaled.while_sampling.waits - plain.while_sampling.waits).total()) is waits
    torch.testing.assert_close(found["cuda:1"], found["cpu"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["FLUX.1", "Stable Diffusion 1"])  # the second has branches to be told apart
def test_steps_are_handed_over_when_they_have_arrived(name: str) -> None:
    family, found, known, waits = BY_NAME[name], [], [], []
    pipe, wanted = family.build(), on_cpu(name)
    (denoiser,) = denoisers(pipe).values()

    def land(*_) -> None:
        known.append(len(found))
        for stream in gpus.streams.known:
            stream.land()
        waits[:] = [gpus.log.waits]

    def tell(ds) -> None:
        found.append(ds)
        waits.append(gpus.log.waits)

    with pretended() as gpus, on_gpus(pipe, "cuda:1"):
        with entropylab.record(pipe):
            family.sample(pipe)
            _, alone = followed(gpus, family, pipe)
        with entropylab.record(pipe, on_step=tell):
            family.sample(pipe)
            _, log = followed(gpus, family, pipe)
            assert log.while_sampling.waits == alone.while_sampling.waits
            with denoiser.register_forward_hook(land):
                family.sample(pipe)
            assert waits[0] == waits[1], "what has arrived is handed over without a wait"
    steps = wanted.sizes["step"]
    assert known == [2 * steps + max(0, number - 1) for number in range(steps)]
    for number, ds in enumerate(found[: 2 * steps]):
        first = number // steps * ds.sizes["sample"]
        alike = wanted.isel(step=[number % steps], sample=slice(first, first + ds.sizes["sample"]))
        assert ds.branch.values.tolist() == alike.branch.values.tolist()
        assert same(ds, alike)
