"""Where a result comes from: enough to repeat it."""

import importlib.metadata
import json
from typing import Any

from torch import nn

from .models.prompts import is_embedded
from .pipelines import denoisers

PACKAGES = ("entropylab", "torch", "diffusers", "transformers", "numpy")


def versions() -> dict[str, str]:
    """Installed versions of what decides the numbers."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def provenance(pipe: Any) -> dict[str, str]:
    """Model, scheduler, dtype, device and versions, as attributes of a Dataset."""
    (first, *_) = denoisers(pipe).values()
    parameter = next(first.parameters(), None)
    config = getattr(pipe, "config", None)
    name = (
        "embedded"
        if is_embedded(pipe)
        else getattr(pipe, "name_or_path", None) or getattr(config, "_name_or_path", None)
    )
    found = versions()
    return {
        "model": str(name or type(pipe).__name__),
        "pipeline": type(pipe).__name__,
        "scheduler": "" if isinstance(pipe, nn.Module) else type(getattr(pipe, "scheduler", None)).__name__,
        "dtype": str(getattr(parameter, "dtype", "")).removeprefix("torch."),
        "device": str(getattr(parameter, "device", "")),
        "versions": json.dumps(found),
        "entropylab_version": found["entropylab"],
    }
