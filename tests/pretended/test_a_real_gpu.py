"""Where there is a real GPU: a second run waits for nothing of ours, and its numbers are those of the CPU."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import entropylab

from ..measuring.layers import Denoiser
from ..zoo import BY_NAME
from .log import OURS
from .placing import on_gpus

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(params=["cuda:0", "cuda:1"])
def device(request: pytest.FixtureRequest) -> str:
    if torch.device(request.param).index >= torch.cuda.device_count():
        pytest.skip(f"no {request.param}")
    return request.param


@contextmanager
def told_of_waits(mode: str) -> Iterator[None]:
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def steps(model: torch.nn.Module, device: str) -> None:
    tokens = torch.arange(4 * 6 * 8.0, device=device).reshape(4, 6, 8).sin()
    times = torch.tensor([3.0, 2.0, 1.0], device=device).unbind()
    torch.cuda.synchronize(device)
    with torch.no_grad(), told_of_waits("error"):
        for time in times:
            model(tokens, time)


def test_a_denoiser_of_our_own_never_waits(device: str) -> None:
    model = Denoiser().to(device)
    with entropylab.record(model) as recorder:
        with torch.no_grad():
            model(torch.ones(4, 6, 8, device=device), torch.tensor(4.0, device=device))
        steps(model, device)
    assert recorder.dataset.sizes["step"] == 4
    assert recorder.dataset.entropy.notnull().all()


def test_a_wait_is_an_error(device: str) -> None:
    with pytest.raises(RuntimeError, match="synchroniz"), told_of_waits("error"):
        torch.ones(2, device=device).sum().item()


@pytest.mark.parametrize("name", ["Stable Diffusion 2", "FLUX.1", "Wan 2.1"])
def test_pipelines(device: str, name: str) -> None:
    family = BY_NAME[name]
    pipe = family.build()
    with entropylab.record(pipe) as recorder:
        family.sample(pipe)
    wanted = recorder.dataset
    denoiser = next(iter(entropylab.pipelines.denoisers(pipe).values()))
    with on_gpus(pipe, device), entropylab.record(pipe) as recorder:
        family.sample(pipe)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            forwards = []

            def end(*_) -> None:
                forwards.append(len(caught))

            with denoiser.register_forward_hook(end), told_of_waits("warn"):
                family.sample(pipe)
    ours = [each for each in caught[: forwards[-1]] if each.filename.startswith(OURS)]
    assert [f"{each.filename}:{each.lineno}" for each in ours] == []
    found = recorder.dataset.isel(sample=slice(0, wanted.sizes["sample"]))
    assert np.allclose(found.entropy, wanted.entropy, atol=0.02, equal_nan=True)  # TF32 may be at work
