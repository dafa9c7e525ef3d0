"""A table as Markdown and CSV: what a reader must know of its numbers, the numbers, and what the paper publishes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from ..models import PRESETS
from ..plot.style import write_table
from ..quality import published
from ..sizes import Size, size_label

MODELS = {PRESETS["sd21"].model: published.SD, PRESETS["ldm256"].model: published.LDM}
"""The paper's names of its models."""

INTERVALS = {("low", "high"): "95 % interval", ("change_low", "change_high"): "95 % interval of the change"}
"""Pairs of columns that stand in one column of Markdown."""

Frames = Callable[[xr.Dataset], pd.DataFrame]


def paper_by_size(values: dict[str, published.Rows], home: dict[str, tuple[Size, float]]) -> pd.DataFrame:
    """Tables 1 and 2 as published; at the training size both factors are the same."""
    rows = [
        (model, size_label(size), *pair)
        for model, sizes in values.items()
        for size, pair in (sizes | {home[model][0]: (home[model][1],) * 2}).items()
    ]
    return pd.DataFrame(rows, columns=["model", "size", "original (published)", "sqrt_log (published)"])


def paper_costs(values: published.Costs) -> pd.DataFrame:
    """The supplement's tables as published."""
    rows = [(published.SD, size_label(size), rule, *numbers) for (size, rule), numbers in values.items()]
    names = ["fid (published)", "memory [MiB] (published)", "time [s] (published)"]
    return pd.DataFrame(rows, columns=["model", "size", "rule", *names])


def with_published(found: pd.DataFrame, model: str, paper: pd.DataFrame | None) -> pd.DataFrame:
    """A table with the published values of the same model, size and rule beside its own, where there are any."""
    if paper is None or model not in MODELS:
        return found
    values = paper[paper.model == MODELS[model]].drop(columns="model")
    if "rule" not in values:
        values = values.melt("size", var_name="rule", value_name="published")
        values["rule"] = values.rule.str.removesuffix(" (published)")
    return found.merge(values, "left", on=["size", "rule"])


class Table:
    """One table: what it is called, how it follows from an evaluation, and what the paper publishes."""

    def __init__(self, name: str, title: str, frame: Frames, paper: pd.DataFrame | None, note: str = "") -> None:
        self.name, self.title, self.frame, self.paper, self.note = name, title, frame, paper, note

    def files(self, ds: xr.Dataset, out: Path) -> list[Path]:
        """Write NAME.md, NAME.csv and, if the paper has it, NAME_published.csv."""
        found = with_published(self.frame(ds), str(ds.attrs.get("model")), self.paper)
        paths = [out / f"{self.name}.md", write_table(found, out, self.name)]
        if self.paper is not None:
            paths.append(write_table(self.paper, out, f"{self.name}_published"))
        paths[0].write_text(self.markdown(ds, found), encoding="utf-8")
        return paths

    def markdown(self, ds: xr.Dataset, found: pd.DataFrame) -> str:
        """The table, what it was measured with, and the published one."""
        parts = [f"## {self.title}", said(ds, set(found)), as_markdown(found)]
        if self.paper is not None:
            parts += [f"Published by the paper, of other models than the embedded ones. {self.note}".strip()]
            parts += [as_markdown(self.paper)]
        return "\n\n".join(part for part in parts if part) + "\n"


def said(ds: xr.Dataset, columns: set[str]) -> str:
    """What a reader of the numbers must know."""
    attrs = ds.attrs
    steps = f"{attrs['steps']} steps" if "steps" in attrs else "the pipeline's own number of steps"
    parts = [
        f"Model {attrs.get('model', '?')}, {attrs['samples']} pictures of each size and rule, {steps}; "
        "sizes are height x width."
    ]
    if columns & {"fid", "coverage"}:
        what = " and ".join(
            word for name, word in {"fid": "Frechet distance", "coverage": "diversity"}.items() if name in columns
        )
        parts.append(f"{what[0].upper()}{what[1:]} in the features: {attrs.get('features')}.")
    if "fid" in columns:
        parts.append(compared(attrs))
    if columns & {"clip_score", "disagreement"}:
        parts.append(f"Agreement of picture and prompt by: {attrs.get('clip_model')}.")
    if "low" in columns:
        parts.append(
            "95 % intervals by bootstrap over pictures; changes are against the original factor, seed by seed. In the "
            "last column, as many real pictures."
        )
    if "time" in columns:
        parts.append(
            f"Time [s] a picture and peak memory [MiB], in all and added by sampling, in batches of "
            f"{attrs.get('batch_size')}: {attrs['cost']}, {attrs['device']}."
        )
    return " ".join(parts)


def compared(attrs: dict[str, Any]) -> str:
    """What a Frechet distance may be compared with."""
    if not attrs.get("comparable_with_published_fid"):
        return "Not comparable with published FID."
    return (
        "A distance falls with the number of pictures: to be compared with published FID only where that is of as many "
        "(the paper's: 30,000 and 50,000) against the same real pictures."
    )


def as_markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown: numbers with four digits, nothing for NaN, both ends of an interval in one column."""
    shown = frame.astype(object).copy()
    for (low, high), name in INTERVALS.items():
        if {low, high} <= set(shown):
            both = [
                f"{word(a)} to {word(b)}" if pd.notna(a) else "" for a, b in zip(frame[low], frame[high], strict=True)
            ]
            shown.insert(list(shown).index(low), name, both)
            shown = shown.drop(columns=[low, high])
    lines = ["| " + " | ".join(str(name).replace("_", " ") if name in frame else name for name in shown) + " |"]
    lines += ["|" + "|".join("---:" if is_number(shown[name]) else "---" for name in shown) + "|"]
    lines += ["| " + " | ".join(word(value) for value in row) + " |" for row in shown.itertuples(index=False)]
    return "\n".join(lines)


def is_number(column: pd.Series) -> bool:
    """Whether a column holds numbers."""
    return all(isinstance(value, float | int) for value in column)


def word(value: Any) -> str:
    """A cell's text: four digits, but nothing beyond the sixth decimal, which the CSV does not hold either."""
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{round(value, 6) + 0.0:.4g}"
    return str(value)
