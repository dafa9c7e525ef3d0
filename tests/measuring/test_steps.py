"""More steps than a scheduler has timesteps are refused before any sampling, where it has no use for them."""

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest

import entropylab
from entropylab import EntropyLabError
from entropylab.measuring.checks import check_steps

from ..runs.stub import Stub, measure


@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler"])
def test_schedulers_that_have_no_more(name: str) -> None:
    pipe: Any = Stub()
    pipe.scheduler = getattr(diffusers, name)()
    with pytest.raises(EntropyLabError, match=f"steps must be at most 1000, as many as {name} has timesteps. Got 1001"):
        measure(None, pipe, steps=1001)
    assert pipe.calls == 0
    check_steps(pipe, 1000)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.EulerDiscreteScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),  # wants more than a number of steps
        diffusers.UniPCMultistepScheduler(),
        SimpleNamespace(config={"num_train_timesteps": 1000}),
        None,
    ],
)
def test_schedulers_that_go_between_their_timesteps(scheduler: Any) -> None:
    check_steps(SimpleNamespace(scheduler=scheduler), 1001)


def test_the_embedded_pipelines(tmp_path: Any) -> None:
    with pytest.raises(EntropyLabError, match="steps must be at most 1000"):
        entropylab.measure(entropylab.load(), [32], samples=1, steps=5000, out=tmp_path / "run", progress=False)
    assert list(tmp_path.rglob("run.json")) == []
