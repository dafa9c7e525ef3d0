"""Errors that no other test meets: each is one, and names what was wrong; and names that no file can have."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import entropylab
from entropylab import EntropyLabError
from entropylab.prompts import read_prompts
from entropylab.quality.features import features_of
from entropylab.quality.saving import read_picture
from entropylab.runs import merge, status

from .datasets import synthetic


def refuses(message: str, call: Callable[[], Any]) -> None:
    """That a call raises an EntropyLabError of one line that says so, and prints nothing of Python's own."""
    with pytest.raises(EntropyLabError) as caught:
        call()
    said = str(caught.value)
    assert message in said, said
    assert "\n" not in said and "Traceback" not in said


def test_what_a_fit_can_not_be_asked() -> None:
    ds: Any = synthetic(samples=2, steps=1)
    refuses("kind must be a kind of layers, or several. Got 3", lambda: entropylab.fit(ds, kind=3))  # type: ignore[arg-type]
    refuses("kind must be a kind of layers, or several. Got []", lambda: entropylab.fit(ds, kind=[]))
    refuses("by must be None, or some of layer, head, step, branch. Got 3", lambda: entropylab.fit(ds, by=3))  # type: ignore[arg-type]
    averaged = ds.mean("step", keep_attrs=True)
    refuses("ds must have a dim step, not averaged", lambda: entropylab.plot.entropy_vs_step(averaged))


@pytest.mark.parametrize("names", [3, None, [], [["entropy"]], {"entropy": 1}])
def test_names_that_are_none(random_pipe: Any, names: Any) -> None:
    q = torch.zeros(1, 5, 8)
    for argument, call in {
        "statistics": lambda: entropylab.row_statistics(q, q, statistics=names),
        "kinds": lambda: entropylab.rescale(random_pipe, kinds=names),
        "metrics": lambda: entropylab.evaluate(random_pipe, [32], metrics=names),
    }.items():
        refuses(f"{argument} must be ", call)
        refuses(f"Got {names!r}.", call)


def test_a_pipeline_without_a_denoiser() -> None:
    pipe = types.SimpleNamespace(components={"vae": nn.Linear(2, 2)})
    said = "has no denoiser: none of its components ['vae'] is a module that takes a timestep"
    refuses(said, lambda: entropylab.layers(pipe))


def test_what_judges_and_is_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    refuses("bad.png can't be read as a picture: cannot identify", lambda: read_picture(tmp_path / "bad.png"))
    fid = pytest.importorskip("torchmetrics.image.fid")

    def absent(**_: Any) -> None:
        raise ModuleNotFoundError("no torch-fidelity")

    monkeypatch.setattr(fid, "FrechetInceptionDistance", absent)
    refuses("features 'inception' need torchmetrics and torch-fidelity", lambda: features_of("inception", False))
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    refuses("features 'inception' need torchmetrics and torch-fidelity", lambda: features_of("inception", False))


TAKERS: dict[str, Callable[[Any, Any], Any]] = {
    "save": lambda path, pipe: entropylab.save(synthetic(samples=1, steps=1), path),
    "open": lambda path, pipe: entropylab.open(path),
    "report": lambda path, pipe: entropylab.report(synthetic(samples=1, steps=1), f"{path}.html"),
    "load": lambda path, pipe: entropylab.load(path),
    "measure": lambda path, pipe: entropylab.measure(pipe, [32], samples=1, out=path),
    "measure prompts": lambda path, pipe: entropylab.measure(pipe, [32], samples=1, prompts=path),
    "evaluate": lambda path, pipe: entropylab.evaluate(pipe, [32], samples=8, metrics=["diversity"], pictures=path),
    "evaluate reference": lambda path, pipe: entropylab.evaluate(pipe, [32], metrics=["fid"], reference=path),
    "read_prompts": lambda path, pipe: read_prompts(path),
    "calibration": lambda path, pipe: entropylab.Calibration.open(path),
    "status": lambda path, pipe: status(path),
    "merge": lambda path, pipe: merge([path]),
}


@pytest.mark.parametrize("taker", TAKERS)
def test_what_no_file_can_be_called_is_one_clear_error(
    taker: str, embedded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a\0b", "a\ud800b", "x" * 300, Path("a\0b")):
        with pytest.raises(EntropyLabError):
            TAKERS[taker](name, embedded)
    assert list(tmp_path.iterdir()) == []
