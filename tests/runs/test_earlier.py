"""Folders that an earlier version began: they open, and go on."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import entropylab
from entropylab.errors import EntropyLabWarning
from entropylab.runs import status

from .stub import SAMPLES, Stub, bare, files, judged, measure

EARLIER = Path(__file__).with_name("earlier")
"""Made by ``begin`` and ``judge``, of version 0.1.0 in November 2026. Of the runs the second unit was removed then, and
the third damaged; the pictures were stopped before the third of three units."""

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
    found = begin(out, name, pipe)
    assert pipe.calls == 2
    assert first.read_bytes() == before
    expected = bare(begin(tmp_path / "now", name))
    assert bare(found).equals(expected) or bare(found).broadcast_equals(expected)


def paint(pipe: Stub, size: Any, prompts: list[str], generators: Any) -> torch.Tensor:
    """Pictures that are the same on every machine, by their seeds."""
    pipe.calls += 1
    seeds = torch.tensor([float(one.initial_seed()) for one in generators])[:, None, None, None]
    return (seeds * 7 + torch.arange(3 * size[0] * size[1]).view(3, *size)) % 32 / 32


def judge(pictures: Path, pipe: Stub) -> Any:
    """The call that made a folder of pictures."""
    return judged(pipe, sizes=[8], scaling="original", prompts=["a", "b"], call=paint, pictures=pictures, batch_size=4)


def test_pictures_that_an_earlier_version_began_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entropylab.quality.evaluation.TOGETHER", 4)
    out, pipe = Path(shutil.copytree(EARLIER / "pictures", tmp_path / "earlier")), exact()
    found = judge(out, pipe)
    assert pipe.calls == 1
    assert found.fid.equals(judge(tmp_path / "now", exact()).fid)
