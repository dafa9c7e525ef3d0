"""More steps than a scheduler has timesteps are refused before any sampling, where it has no use for them."""

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


def test_the_embedded_pipelines(tmp_path: Any) -> None:
    with pytest.raises(EntropyLabError, match="steps must be at most 1000"):
        entropylab.measure(entropylab.load(), [32], samples=1, steps=5000, out=tmp_path / "run", progress=False)
    assert list(tmp_path.rglob("run.json")) == []
