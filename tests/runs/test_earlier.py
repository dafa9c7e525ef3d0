"""Folders that an earlier version began: they open, and go on."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import entropylab
from entropylab.errors import EntropyLabWarning
from entropylab.runs import status

from .short import SAMPLES, bare, files
from .stub import Stub, measure

EARLIER = Path(__file__).with_name("earlier")
"""Made by ``begin``, of version 0.1.0 in November 2026; then the second unit was removed, and the third damaged."""

KEEPS = {"averaged": ("branch", "step", "layer", "head"), "apart": SAMPLES}


def exact() -> Stub:
    """A stub with weights that are the same on every machine, whatever it makes of random numbers."""
    pipe = Stub()
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.copy_(((5 * torch.arange(parameter.numel()) % 7 - 3) / 8).view(parameter.shape))
    return pipe


def begin(out: Path, name: str, pipe: Stub | None = None) -> Any:
    """The command that made a folder."""
    return measure(out, pipe or exact(), sizes=[32], keep=KEEPS[name])


@pytest.mark.parametrize("name", KEEPS)
def test_a_run_that_an_earlier_version_began_goes_on(name: str, tmp_path: Path) -> None:
    out = Path(shutil.copytree(EARLIER / name, tmp_path / name))
    first, *_ = kept = files(out)
    assert list(status(out, check=True).damaged) == [kept[1].stem]
    kept[1].unlink()
    with pytest.warns(EntropyLabWarning, match="it has 6 of 8 units"):
        assert entropylab.open(out).attrs["units_done"] == 6
    (out / "run.json").unlink()
    before, pipe = first.read_bytes(), exact()
    with pytest.warns(EntropyLabWarning, match="found in the units"):
        found = begin(out, name, pipe)
    assert pipe.calls == 2
    assert first.read_bytes() == before
    expected = bare(begin(tmp_path / "now", name))
    assert bare(found).equals(expected) or bare(found).broadcast_equals(expected)
