"""The paper's tables from one evaluation, as Markdown and CSV, with the published values alongside.

``make tables``, or python figures/tables.py, or figures/table1.py for one of them.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from ..calibration import Calibration, calibrate
from ..errors import EntropyLabError
from ..files import make_folder
from ..models import PRESETS
from ..models.prompts import is_embedded
from ..netcdf import save
from ..opening import open_dataset
from ..pipelines import check_sizes
from ..quality import published
from ..quality.evaluation import captions, evaluate
from ..quality.methods import BASELINES
from ..quality.results import COSTS, FIGURES
from ..scaling import NEEDS_CALIBRATION, named_rule
from ..scaling.rules import number
from ..sizes import Size, parse_sizes, split
from .command import add_out, run
from .measuring import EVALUATION, ITERATIONS, RULES, STEPS, Source, new_source
from .table_text import Frames, Table, paper_by_size, paper_costs

SIDES = ((0.5, 0.5), (0.875, 0.875), (1, 1), (1.5, 1.5), (0.625, 1), (0.75, 1))
"""Sizes as multiples of the training size, near the paper's: half, seven eighths, one and a half, wide, less wide."""

SAMPLES, BATCH = 64, 8
CALIBRATED_WITH = 3
"""Pictures of each Newton step of the calibration."""

ALL_RULES = (*RULES, *NEEDS_CALIBRATION, *BASELINES)

SIDE_NOTE = "Where the sides differ, the paper is taken to name the width first."


def measured(
    source: Source,
    *,
    sizes: Sequence[Any] | None = None,
    scaling: Sequence[Any] = ALL_RULES,
    prompts: Any = None,
    calibration: Path | None = None,
    **options: Any,
) -> xr.Dataset:
    """Every size under every rule and baseline, judged: what all tables are made from.

    Args:
        source: the pipeline, and how much to sample of it.
        sizes: in pixels; the paper's if None.
        scaling: as for `entropylab.evaluate`; "invariant" and "calibrated" are calibrated first, at the same sizes,
            with few pictures.
        prompts: as for `entropylab.evaluate`.
        calibration: file of the calibration: read if it is there, else written.
        options: of `entropylab.evaluate`.
    """
    own = is_embedded(source.pipe)
    texts = captions() if prompts is None and own else prompts
    pairs = check_sizes(source.pipe, sizes or sizes_of(source))
    given: dict[str, Any] = {"prompts": texts, "progress": source.progress}
    given["steps"] = source.steps or (STEPS if own else None)
    rules = list(scaling)
    if set(rules) & set(NEEDS_CALIBRATION):
        away = [size for size in pairs if size != source.trained]
        found = calibrated(source.pipe, away, calibration, given)
        rules = [getattr(found, rule) if rule in NEEDS_CALIBRATION else rule for rule in rules]
    count = source.samples or (SAMPLES if own else None)
    metrics = tuple(FIGURES)
    return evaluate(source.pipe, pairs, rules, samples=count, batch_size=BATCH, metrics=metrics, **given, **options)


def calibrated(pipe: Any, sizes: Sequence[Size], file: Path | None, given: dict[str, Any]) -> Calibration:
    """A calibration with few pictures, or the one that a file holds."""
    if file is not None and file.is_file():
        return Calibration.open(file)
    found = calibrate(pipe, sizes, iterations=ITERATIONS, samples=CALIBRATED_WITH, **given)
    if file is not None:
        found.save(file)
    return found


def sizes_of(source: Source) -> list[Size]:
    """The paper's sizes for its models, else multiples of the training size."""
    name = str(getattr(source.pipe, "name_or_path", ""))
    known = {preset.model: list(preset.sizes) for preset in PRESETS.values()}
    return known.get(name) or source.sizes(SIDES)


def by_size(figure: str) -> Frames:
    """A table of one figure: sizes down, a row for every rule, with interval and change against the original factor."""

    def frame(ds: xr.Dataset) -> pd.DataFrame:
        check_has(ds, figure)
        rows = [row_of(ds, figure, size, rule) for size in ds["size"].values for rule in ds["scaling"].values]
        return pd.DataFrame([row for row in rows if pd.notna(row[figure])])

    return frame


def row_of(ds: xr.Dataset, figure: str, size: str, rule: str) -> dict[str, Any]:
    """One cell of the evaluation as a row."""
    cell = ds.sel(size=size, scaling=rule)
    low, high = cell[f"{figure}_interval"].values
    change_low, change_high = cell[f"{figure}_change_interval"].values
    return {
        "size": size,
        "rule": rule,
        figure: float(cell[figure]),
        "low": low,
        "high": high,
        "change": float(cell[f"{figure}_change"]),
        "change_low": change_low,
        "change_high": change_high,
        "real_pictures": float(cell[f"{figure}_real"]),
    }


def costs(*rules: str, every: bool = False) -> Frames:
    """A table of Frechet distance, memory and time of some rules; with ``every``, of sizes that all of them have."""

    def frame(ds: xr.Dataset) -> pd.DataFrame:
        names = ("fid", *COSTS)
        for name in names:
            check_has(ds, name)
        known = [rule for rule in rules if rule in ds["scaling"].values]
        rows = [
            {"size": size, "rule": rule} | {name: float(ds[name].sel(size=size, scaling=rule)) for name in names}
            for size in ds["size"].values
            for rule in known
        ]
        found = pd.DataFrame(rows, columns=["size", "rule", *names]).dropna()
        whole = found.groupby("size").rule.transform("size") == len(known)
        return found[whole] if every else found

    return frame


def others(*figures: str) -> Frames:
    """A table of several figures side by side."""

    def frame(ds: xr.Dataset) -> pd.DataFrame:
        for name in figures:
            check_has(ds, name)
        found = ds[list(figures)].to_dataframe()[list(figures)].dropna().reset_index()
        real = pd.DataFrame({name: ds[f"{name}_real"].values for name in figures}).assign(size=ds["size"].values)
        both = pd.concat([found.rename(columns={"scaling": "rule"}), real.assign(rule="real pictures")])
        both["size"] = pd.Categorical(both["size"], categories=list(ds["size"].values), ordered=True)
        return both.sort_values("size", kind="stable").reset_index(drop=True)

    return frame


def check_has(ds: xr.Dataset, figure: str) -> None:
    """Raise an EntropyLabError if an evaluation lacks a figure."""
    if figure not in ds:
        raise EntropyLabError(
            f"run must be what entropylab.evaluate gave, with {figure!r} in it. Got {sorted(map(str, ds))}."
        )


TABLES = {
    table.name: table
    for table in (
        Table(
            "table1",
            "Table 1: Frechet distance",
            by_size("fid"),
            paper_by_size(published.FID, published.FID_AT_HOME),
            SIDE_NOTE,
        ),
        Table(
            "table2",
            "Table 2: CLIP score",
            by_size("clip_score"),
            paper_by_size(published.CLIP, published.CLIP_AT_HOME),
            SIDE_NOTE,
        ),
        Table(
            "table_s1",
            "Supplement, Table 1: resizing",
            costs("original", "sqrt_log", "invariant", "calibrated", "resize"),
            paper_costs(published.RESIZING),
        ),
        Table(
            "table_s2",
            "Supplement, Table 2: MultiDiffusion",
            costs("sqrt_log", "multidiffusion", every=True),
            paper_costs(published.MULTIDIFFUSION),
            "FID of 4,000 pictures, as the paper says; its 28.1372 is also what Table 1 has of 30,000.",
        ),
        Table("diversity", "Diversity", others(*FIGURES["diversity"]), None),
        Table("defects", "Defects", others(*FIGURES["defects"]), None),
    )
}
"""All tables but the third, which is made from people's ratings."""


def command(names: Sequence[str] = tuple(TABLES), arguments: Sequence[str] | None = None) -> None:
    """The command line of the tables' scripts: evaluate, or read an evaluation, and write and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", nargs="?", help="hub id, folder, or preset (sd21, ldm256); the embedded pipeline if left out"
    )
    add_out(parser)
    parser.add_argument("--run", type=Path, metavar="FILE.nc", help="read this evaluation instead of sampling")
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help=f"pictures of every size and rule ({SAMPLES}, or for other models as many as a distance needs)",
    )
    parser.add_argument("--steps", type=int, metavar="N", help=f"denoising steps ({STEPS}, or other models' own)")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="text file, a prompt a line; for other models")
    parser.add_argument("--reference", type=Path, metavar="DIR", help="folder of real pictures; for other models")
    parser.add_argument(
        "--sizes", metavar="SIZE,...", help="in pixels, 64 or 96x128 (height x width); the paper's if left out"
    )
    parser.add_argument("--scaling", metavar="RULE,...", default=",".join(ALL_RULES), help="(%(default)s)")
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="keep every picture there, for grids and ratings, and to go on where an earlier run was stopped",
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE.nc", help="calibration: read if it is there, else written"
    )
    parser.add_argument("--resamples", type=int, default=300, metavar="N", help="bootstrap draws (%(default)s)")
    given = parser.parse_args(arguments)

    def write() -> Iterator[Path]:
        out = make_folder(given.out)
        ds = open_dataset(given.run) if given.run else evaluated(given)
        if not given.run:
            save(ds, out / EVALUATION, overwrite=True)
        for name in names:
            yield from TABLES[name].files(ds, out)

    run(parser, write, shows_text=True)


def evaluated(given: argparse.Namespace) -> xr.Dataset:
    """Evaluate what the command line names."""
    sizes = parse_sizes([given.sizes]) if given.sizes else None
    rules = split([given.scaling])
    for rule in set(rules) - set(ALL_RULES):
        named_rule(number(rule))
    source = new_source(given.model, samples=given.samples, steps=given.steps)
    names = ("prompts", "reference", "pictures", "calibration", "resamples")
    options = {name: getattr(given, name) for name in names}
    return measured(source, sizes=sizes, scaling=[number(rule) for rule in rules], **options)
