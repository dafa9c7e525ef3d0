"""Errors that no other test meets: each is one, names what was wrong, and says what came."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import entropylab
from entropylab import EntropyLabError
from entropylab.calibration import ByLayer
from entropylab.measuring.logits import sampled_logits
from entropylab.quality.features import features_of
from entropylab.quality.saving import read_picture
from tests.datasets import synthetic


def refuses(message: str, call: Callable[[], Any]) -> None:
    """That a call raises an EntropyLabError of one line that says so, and prints nothing of Python's own."""
    with pytest.raises(EntropyLabError) as caught:
        call()
    said = str(caught.value)
    assert message in said, said
    assert "\n" not in said
    assert "Traceback" not in said


def test_what_a_fit_can_not_be_asked() -> None:
    ds = synthetic(samples=2, steps=1)
    refuses("kind must be a kind of layers, or several. Got 3", lambda: entropylab.fit(ds, kind=3))  # type: ignore[arg-type]
    refuses("kind must be a kind of layers, or several. Got []", lambda: entropylab.fit(ds, kind=[]))
    refuses("by must be None, or some of layer, head, step, branch. Got 3", lambda: entropylab.fit(ds, by=3))  # type: ignore[arg-type]


def test_layers_that_are_not_there() -> None:
    rule = ByLayer({"unet.one": np.zeros(1)}, {"unet.one": np.zeros((1, 2))})
    refuses("it has no layer 'unet.two', but 1 layer such as unet.one", lambda: rule.factor("unet.two", 64, 64))
    averaged = synthetic().mean("step", keep_attrs=True)
    refuses("ds must have a dim step, not averaged", lambda: entropylab.plot.entropy_vs_step(averaged))


def test_what_a_calibration_can_not_be_asked(random_pipe: Any) -> None:
    def call(**options: Any) -> Any:
        return lambda: entropylab.calibrate(random_pipe, [32], **options)

    refuses("tolerance must be a positive number [nats]. Got 'small'", call(tolerance="small"))
    refuses("iterations must be an int >= 1. Got 0", call(iterations=0))


@pytest.mark.parametrize("names", [3, None, [], [["entropy"]], {"entropy": 1}])
def test_names_that_are_none(random_pipe: Any, names: Any) -> None:
    q = torch.zeros(1, 5, 8)
    for argument, call in {
        "statistics": lambda: entropylab.row_statistics(q, q, statistics=names),
        "kinds": lambda: entropylab.rescale(random_pipe, kinds=names).__enter__(),
        "layers": lambda: sampled_logits(random_pipe, lambda: None, names),
        "metrics": lambda: entropylab.evaluate(random_pipe, [32], metrics=names),
    }.items():
        refuses(f"{argument} must be ", call)
        refuses(f"Got {names!r}.", call)


def test_a_pipeline_without_a_denoiser() -> None:
    pipe = types.SimpleNamespace(components={"vae": nn.Linear(2, 2)})
    refuses(
        "has no denoiser: none of its components ['vae'] is a module that takes a timestep",
        lambda: entropylab.layers(pipe),
    )


def test_pictures_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    refuses(
        "bad.png can't be read as a picture: cannot identify image file", lambda: read_picture(tmp_path / "bad.png")
    )


def test_what_judges_and_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")

    def absent(**_: Any) -> None:
        raise ModuleNotFoundError("no torch-fidelity")

    monkeypatch.setattr(fid, "FrechetInceptionDistance", absent)
    refuses("features 'inception' need torchmetrics and torch-fidelity", lambda: features_of("inception", False))
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    refuses("features 'inception' need torchmetrics and torch-fidelity", lambda: features_of("inception", False))
