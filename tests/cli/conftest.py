"""The library's functions, replaced by ones that write down what they were called with."""

import types
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import entropylab
from entropylab.dataset import ATTRIBUTE


class Image:
    def __init__(self, text: str) -> None:
        self.text = text

    def save(self, path: Path) -> None:
        Path(path).write_text(self.text)


class Pipe:
    """Stands for a pipeline: an "image" is the text of the call that made it."""

    vae_scale_factor = 4
    rule: object = "original"

    def __call__(self, *, generator: Any, **arguments: Any) -> Any:
        call = {"rule": self.rule, "seed": generator.initial_seed(), **arguments}
        return types.SimpleNamespace(images=[Image(repr(call))])

    def set_progress_bar_config(self, **arguments: Any) -> None:
        self.bar = arguments


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The library's functions, replaced by ones that write down what they were called with."""
    made: dict[str, Any] = {}

    def load(model: str | None = None, **arguments: Any) -> Pipe:
        made["load"] = {"model": model, **arguments}
        return Pipe()

    def measure(pipe: Pipe, **arguments: Any) -> xr.Dataset:
        made["measure"] = arguments
        return xr.Dataset(attrs={ATTRIBUTE: "0"})

    def save(ds: xr.Dataset, path: Path, overwrite: bool = False) -> None:
        made["save"] = {"path": path, "overwrite": overwrite}

    def layers(pipe: Pipe) -> list[Any]:
        return [types.SimpleNamespace(path="unet.mid_block.attn1", kind="self", heads=8, processor="AttnProcessor2_0")]

    def fit(ds: xr.Dataset, **options: Any) -> Any:
        return types.SimpleNamespace(summary=lambda: f"slope 0.96 of {ds} with {options}")

    @contextmanager
    def rescale(pipe: Pipe, rule: object = "sqrt_log", *, train_size: Any = None) -> Any:
        pipe.rule = rule if train_size is None else (rule, train_size)
        yield
        pipe.rule = "original"

    for function in (load, measure, save, layers, fit, rescale):
        monkeypatch.setattr(entropylab, function.__name__, function, raising=False)
    monkeypatch.setattr(entropylab, "open", lambda path: f"<{path}>", raising=False)
    return made
