"""The tables of a report, as pandas frames of words: runs stand side by side, or their rows below each other."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import counted
from ..law import samples_of
from ..law.averages import scalings_of
from ..law.names import FLAGS, RESIDUALS
from .views import Run, View
from .words import UNKNOWN, fixed, listed, number, percent, probability, span, whole, with_error

LABELS = ("run", "layer", "scaling", "size")
"""Columns that say what a row is of."""

UNCOUNTED = "not known"
"""What stands for the number of samples of a Dataset in which somebody averaged them, or kept one without its name."""

COUNTS = ("tokens", "tokens_min", "tokens_max", "tokens_law", "tokens_level", "tokens_gaussian", "keys_image", "count")
SHARES = (
    *("share", "mass_image", "skewed", "near_freezing"),
    *("fraction_removed", "fraction_removed_error", "absolute_fraction_removed"),
)

PREDICTIONS = {f"{name}_off": words for name, words in RESIDUALS.items()}
ATTRIBUTES = {
    **{name: name for name in ("model", "pipeline", "scheduler", "dtype", "device")},
    "steps": "denoising steps",
    "guidance_scale": "guidance scale",
    "seed": "seed of the first sample",
}
"""What of a Dataset's provenance is a word or a number, and what it is called."""

COMPARED = ("sizes", "samples", "prompts", "guidance branches", "denoising steps", "guidance scale", "dtype")
"""Settings that should agree where models are compared."""


def stacked(views: Sequence[View], table: str, columns: Mapping[str, str]) -> pd.DataFrame:
    """The rows of every run's table below each other, in words; what says what a row is of is the index.

    Args:
        views: of the runs; if there are several, they are named in front of their rows.
        table: attribute of a view; a run of which it is not known has no rows.
        columns: name -> heading; those that no run has are left out.
    """
    known = {view.label: getattr(view, table) for view in views if getattr(view, table) is not None}
    if not known:
        return pd.DataFrame()
    frame = pd.concat(known, names=["run"]).reset_index("run")
    headings = ({"run": "run"} if len(views) > 1 else {}) | {name: columns[name] for name in columns if name in frame}
    text = pd.DataFrame({name: [cell(name, value) for value in frame[name]] for name in headings})
    text = text.set_index([name for name in headings if name in LABELS])
    return text.rename(columns=headings).rename_axis(index=headings)


def cell(column: str, value: Any) -> str:
    """One value in words."""
    if isinstance(value, str):
        return value or UNKNOWN
    if column == "p":
        return number(value, 2)
    return percent(value) if column in SHARES else whole(value) if column in COUNTS else fixed(value)


def beside(runs: Sequence[Any], numbers: Callable[[Any], dict[str, str]]) -> pd.DataFrame:
    """A row for every quantity, a column for every run or view; ``numbers`` gives its quantities, in words."""
    found = {run.label: numbers(run) for run in runs}
    quantities = list(dict.fromkeys(name for values in found.values() for name in values))
    return pd.DataFrame(found, index=pd.Index(quantities, name="", dtype=object), dtype=object).fillna(UNKNOWN)


def in_short(view: View) -> dict[str, str]:
    """The numbers that matter most of a run."""
    told = {}
    if view.line is not None:
        told["slope of entropy against log N (law: 1)"] = with_error(view.line.slope, view.line.slope_error)
        told["is it 1?"] = probability(view.line.slope_test[1])
        told["R²"] = f"{view.line.r_squared:.4f}"
    if view.check is not None:
        layers, rows = view.layers, view.rows
        told["deficit log N − H, median layer [nats]"] = fixed(layers["deficit"].median())
        told["σ²/2, median layer [nats] (law: the same)"] = fixed(layers["half_sigma2"].median())
        told["deficit / (σ²/2), median row (law: 1)"] = fixed(rows["ratio"].median())
        told["law off by, median layer [nats]"] = fixed(layers["law_off"].median())
        told["law off by, median row without a flag [nats]"] = fixed(rows["off"][rows["free"]].median())
        told["rows without a flag"] = percent(rows["free"].mean())
        told["rows past freezing"] = percent((rows["freezing"] >= 1).mean())
    removed = view.removed.items() if view.removed is not None else ()
    return told | {f"of the layers' drift {rule} removes": percent(part) for rule, part in removed}


def line_numbers(view: View) -> dict[str, str]:
    """The numbers of a line."""
    line = view.line
    if line is None:
        return {}
    half = {"σ²/2, mean over sizes [nats]": fixed(line.overall("half_sigma2"))} if "half_sigma2" in line.dataset else {}
    return {
        "slope ± standard error": with_error(line.slope, line.slope_error),
        "95% interval of the slope": span(line.slope_interval),
        "slope = 1?": probability(line.slope_test[1]),
        "intercept ± standard error [nats]": with_error(line.intercept, line.intercept_error),
        "R²": f"{line.r_squared:.5f}",
        "deficit, mean over sizes [nats]": fixed(line.overall("deficit")),
        **half,
        "samples": str(line.dataset.attrs["samples"] or UNCOUNTED),
        "errors": line.errors,
    }


def check_numbers(view: View) -> dict[str, str]:
    """The overall numbers of a check."""
    if view.check is None:
        return {}
    layers, rows = view.layers, view.rows
    free = rows["off"][rows["free"]]
    told = {}
    for name, what in PREDICTIONS.items():
        if name in layers:
            told[f"{what}, median layer [nats]"] = fixed(layers[name].median())
            told[f"{what}, worst layer [nats]"] = fixed(layers[name].max())
    told |= {f"rows flagged {words}": percent(rows[name].mean()) for name, words in FLAGS.items() if name in rows}
    return told | {
        "rows without a flag": f"{len(free)} of {len(rows)}",
        "the law in rows without a flag, median [nats]": fixed(free.median()),
        "the law in rows without a flag, worst [nats]": fixed(free.max()),
        "slope of deficit against σ²/2, all rows": fixed(view.check.slope()),
        "slope of deficit against σ²/2, rows without a flag": fixed(view.check.slope(unflagged=True)),
    }


def provenance(run: Run) -> dict[str, str]:
    """What is needed to measure a Dataset again."""
    ds = run.ds
    kinds = np.atleast_1d(ds["kind"].values).astype(str)
    modules = np.atleast_1d(ds["module" if "module" in ds.coords else "layer"].values).tolist()
    each = [kind for _, kind in dict.fromkeys(zip(modules, kinds.tolist(), strict=True))]  # joint layers have parts
    tokens = ds["tokens"].isel(layer=kinds != "cross") if "layer" in ds["tokens"].dims else ds["tokens"]
    prompts = ds["prompt"].values.ravel().tolist() if "prompt" in ds.coords else []
    prompts = [text for text in prompts if isinstance(text, str)]  # where Datasets were joined there may be gaps
    versions = dict(loaded(run, "versions") or {})
    return {words: str(ds.attrs[name]) for name, words in ATTRIBUTES.items() if str(ds.attrs.get(name, ""))} | {
        "sizes": listed(np.atleast_1d(ds["size"].values), 12),
        "scalings": listed(scalings_of(ds), 12),
        "layers": listed(f"{each.count(kind)} {kind}" for kind in dict.fromkeys(each)),
        "keys of a row, N": span(tokens.values.ravel(), "whole"),
        "samples": str(samples_of(ds) or UNCOUNTED),
        "prompts": listed(dict.fromkeys(f"“{text}”" for text in prompts), 8) if prompts else "not kept",
        "guidance branches": listed(sorted(np.atleast_1d(ds["branch"]))) if "branch" in ds.coords else "averaged",
        "statistics": listed(loaded(run, "statistics"), 12),
        "query rows": "a random subset" if is_subset(run) else "all",
        "not measured": counted(len(loaded(run, "unmeasured")), "layer"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or UNKNOWN,
    }


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings in which runs differ, each with its values; what differs in results may be due to that."""
    known = [provenance(run) for run in runs]
    values = {name: [words.get(name, "not said") for words in known] for name in COMPARED}
    return [f"{name} ({'; '.join(words)})" for name, words in values.items() if len(set(words)) > 1]


def is_subset(run: Run) -> bool:
    """Whether only some query rows were looked at."""
    return any(str(name).endswith("_se") for name in run.ds.data_vars)


def loaded(run: Run, name: str) -> Any:
    """An attribute that is JSON, "unmeasured" for one; empty if it is not there or no JSON."""
    value = run.ds.attrs.get(name, ())
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return ()
