"""What was measured: provenance, and what that much can answer."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ...law import samples_of
from ...law.averages import finite, scalings_of
from ...wording import counted
from ..blocks import Section, reading
from ..readings import measured as say
from ..tables import side_by_side
from ..views import Run
from ..words import UNKNOWN, listed, whole_span

TEXTS = {
    "model": "model",
    "pipeline": "pipeline",
    "scheduler": "scheduler",
    "steps": "denoising steps",
    "guidance_scale": "guidance scale",
    "seed": "seed of the first sample",
    "dtype": "dtype",
    "device": "device",
}
"""Attributes of a Dataset, and what they are called."""

COMPARED = ("sizes", "samples", "prompts", "guidance branches", "denoising steps", "guidance scale", "dtype")
"""Settings that should agree where models are compared."""


def measured_section(runs: Sequence[Run]) -> Section:
    """A table of every run's provenance, and how much it can answer."""
    tables = {run.label: about(run.ds) for run in runs}
    said = [
        reading(run.label, [own_amount(run), say.missing(unmeasured(run.ds), is_subset(run.ds), run.partial)])
        for run in runs
    ]
    if len(runs) > 1:
        settings = {label: {name: words[name] for name in COMPARED if name in words} for label, words in tables.items()}
        said.append(reading("", [say.differences(settings)]))
    table = side_by_side("Provenance: enough to measure it again.", tables)
    return Section(
        "What was measured", "Which numbers is this report about, and what can so many of them answer?", (*said, table)
    )


def own_amount(run: Run) -> list[str]:
    """How much was measured of the layers that the report is about."""
    view = run.own or run.image
    assert view is not None
    entropy = view.data["entropy"]
    heads = int(finite(entropy).any([d for d in entropy.dims if d not in ("layer", "head")]).sum())
    return say.amount(
        samples_of(view.data), view.sizes, view.data.sizes["layer"], heads if "head" in entropy.dims else 0
    )


def about(ds: xr.Dataset) -> dict[str, str]:
    """The provenance of a Dataset: quantity -> value in words."""
    texts = {words: str(ds.attrs[name]) for name, words in TEXTS.items() if str(ds.attrs.get(name, ""))}
    return texts | {
        "sizes": listed(map(str, np.atleast_1d(ds["size"].values)), 12),
        "scalings": listed(scalings_of(ds), 12),
        "layers": layers(ds),
        "keys of a row, N": tokens(ds),
        "samples": str(samples_of(ds)),
        "prompts": prompts(ds),
        "guidance branches": branches(ds),
        "statistics": listed(loaded(ds, "statistics"), 12),
        "query rows": "a random subset" if is_subset(ds) else "all",
        "not measured": counted(len(unmeasured(ds)), "layer"),
        "versions": ", ".join(f"{name} {version}" for name, version in dict(loaded(ds, "versions", {})).items())
        or UNKNOWN,
    }


def layers(ds: xr.Dataset) -> str:
    """How many layers of each kind."""
    kinds = np.atleast_1d(ds["kind"].values).astype(str).tolist()
    modules = np.atleast_1d(ds["module" if "module" in ds.coords else "layer"].values).tolist()
    each = list(dict.fromkeys(zip(modules, kinds, strict=True)))  # joint layers have rows of several parts
    return listed(f"{sum(own == kind for _, own in each)} {kind}" for kind in dict.fromkeys(kinds))


def tokens(ds: xr.Dataset) -> str:
    """N of self and joint layers, smallest to largest."""
    kinds = np.atleast_1d(ds["kind"].values).astype(str)
    counts = (
        ds["tokens"] if "layer" not in ds["tokens"].dims else ds["tokens"].isel(layer=np.flatnonzero(kinds != "cross"))
    )
    return whole_span(float(counts.min()), float(counts.max())) if counts.size else UNKNOWN


def prompts(ds: xr.Dataset) -> str:
    """The prompts, or that they are not known."""
    if "prompt" not in ds.coords:
        return "not kept"
    return listed(dict.fromkeys(f"“{text}”" for text in np.atleast_1d(ds["prompt"].values).tolist()), 8)


def branches(ds: xr.Dataset) -> str:
    """The branches of guidance, or that they were averaged."""
    return listed(np.atleast_1d(ds["branch"].values).astype(str)) if "branch" in ds.coords else "averaged"


def unmeasured(ds: xr.Dataset) -> list[str]:
    """Layers that ran and were not measured, each with the reason."""
    return [str(name) for name in loaded(ds, "unmeasured")]


def is_subset(ds: xr.Dataset) -> bool:
    """Whether only some query rows were looked at."""
    return any(str(name).endswith("_se") for name in ds.data_vars)


def loaded(ds: xr.Dataset, name: str, default: Any = ()) -> Any:
    """An attribute that is JSON; ``default`` if it is not there or no JSON."""
    value = ds.attrs.get(name, default)
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return default
