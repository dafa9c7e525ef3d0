"""The library's functions, replaced by ones that write down what they were called with."""

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import entropylab
from entropylab.dataset import ATTRIBUTE


def little(**values: list[list[float]]) -> xr.Dataset:
    """A Dataset of one size and two rules."""
    both = {"size": ["64x64"], "scaling": ["original", "resize"]}
    return xr.Dataset({name: (("size", "scaling"), value) for name, value in values.items()}, both, {ATTRIBUTE: "0"})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the library's functions were called with; they give a little of what they would."""
    made: dict[str, Any] = {}
    one = xr.DataArray(np.ones((1, 1, 1)), dims=("size", "layer", "head"))
    removed = xr.DataArray([[0.875]], {"rule": ["calibrated"], "size": ["64x64"]}, ("rule", "size"))
    calibration = xr.Dataset({"held_out": removed, "calibrated": one}, attrs={ATTRIBUTE: "0"})
    found = {
        "measure": little(),
        "evaluate": little(fid=[[1.5, 2.5]], fid_error=[[0.1, 0.1]]),
        "calibrate": entropylab.Calibration(calibration),
        "layers": [types.SimpleNamespace(path="unet.mid_block.attn1", kind="self", heads=8, processor="AttnProcessor")],
    }

    def load(model: str | None = None, **arguments: Any) -> None:
        made["load"] = {"model": model, **arguments}

    def stand_in(name: str) -> Any:
        def called(pipe: Any, **arguments: Any) -> Any:
            made[name] = arguments
            return found[name]

        return called

    def save(ds: xr.Dataset, path: Path, overwrite: bool = False) -> None:
        made["save"] = {"path": path, "overwrite": overwrite}

    for name in found:
        monkeypatch.setattr(entropylab, name, stand_in(name), raising=False)
    for function in (load, save):
        monkeypatch.setattr(entropylab, function.__name__, function, raising=False)
    monkeypatch.setattr("entropylab.calibration.save", save)
    return made
