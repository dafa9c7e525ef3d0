"""The paper's tables from one evaluation, as Markdown and CSV, with the published values alongside.

``make tables``, or python figures/tables.py [MODEL] [--run evaluation.nc]. Table 3 is table3.py's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

import entropylab
import published
import shared
from entropylab import Calibration, EntropyLabError
from entropylab.cli.words import rule_of
from entropylab.models import PRESETS
from entropylab.models.prompts import is_embedded
from entropylab.quality.evaluation import captions
from entropylab.sizes import parse_sizes, split

EVALUATION = "evaluation.nc"
SIDES = ((0.5, 0.5), (0.875, 0.875), (1, 1), (1.5, 1.5), (0.625, 1), (0.75, 1))
"""Sizes as multiples of the training size, near the paper's: half, seven eighths, one and a half, wide, less wide."""

SAMPLES, BATCH = 64, 8
CALIBRATED_WITH = 3
"""Pictures of each Newton step of the calibration."""

RULES = ("original", "sqrt_log", "invariant", "calibrated", "resize", "multidiffusion")
METRICS = ("fid", "clip", "diversity", "defects", "time", "memory")


def measure(
    source: shared.Source,
    *,
    sizes: Sequence[Any] | None = None,
    scaling: Sequence[Any] = RULES,
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
    prompts = captions() if prompts is None and own else prompts
    pairs = [(size, size) if isinstance(size, int) else size for size in sizes or sizes_of(source)]
    steps = source.steps or (shared.STEPS if own else None)
    given: dict[str, Any] = {"prompts": prompts, "progress": source.progress, "steps": steps}
    rules = list(scaling)
    if {"invariant", "calibrated"} & set(rules):
        if calibration is not None and calibration.is_file():
            found = Calibration.open(calibration)
        else:
            away = [size for size in pairs if size != source.trained]
            few = {"iterations": shared.ITERATIONS, "samples": CALIBRATED_WITH}
            found = entropylab.calibrate(source.pipe, away, **few, **given)
            if calibration is not None:
                found.save(calibration)
        rules = [getattr(found, rule) if rule in ("invariant", "calibrated") else rule for rule in rules]
    count = source.samples or (SAMPLES if own else None)
    return entropylab.evaluate(
        source.pipe, pairs, rules, samples=count, batch_size=BATCH, metrics=METRICS, **given, **options
    )


def sizes_of(source: shared.Source) -> list[Any]:
    """The paper's sizes for its models, else multiples of the training size."""
    known = {preset.model: list(preset.sizes) for preset in PRESETS.values()}
    return known.get(str(source.pipe.name_or_path)) or source.sizes(SIDES)


def check_has(ds: xr.Dataset, *figures: str) -> None:
    """Raise an EntropyLabError if an evaluation lacks a figure."""
    for figure in figures:
        if figure not in ds:
            have = sorted(map(str, ds))
            raise EntropyLabError(f"run must be what entropylab.evaluate gave, with {figure!r} in it. Got {have}.")


def by_size(figure: str) -> Callable[[xr.Dataset], pd.DataFrame]:
    """A table of one figure: sizes down, a row for every rule, with interval and change against the original factor."""

    def frame(ds: xr.Dataset) -> pd.DataFrame:
        check_has(ds, figure)
        found = {
            figure: ds[figure],
            "low": ds[f"{figure}_interval"].sel(bound="low", drop=True),
            "high": ds[f"{figure}_interval"].sel(bound="high", drop=True),
            "change": ds[f"{figure}_change"],
            "change_low": ds[f"{figure}_change_interval"].sel(bound="low", drop=True),
            "change_high": ds[f"{figure}_change_interval"].sel(bound="high", drop=True),
            "real_pictures": ds[f"{figure}_real"],
        }
        return rows_of(xr.Dataset(found)).dropna(subset=figure, ignore_index=True)

    return frame


def costs(*rules: str, every: bool = False) -> Callable[[xr.Dataset], pd.DataFrame]:
    """A table of Frechet distance, time and memory of some rules; with ``every``, of sizes that all of them have."""

    def frame(ds: xr.Dataset) -> pd.DataFrame:
        names = ["fid", "time", "memory", "memory_added"]
        check_has(ds, *names)
        known = [rule for rule in rules if rule in ds["scaling"].values]
        found = rows_of(ds[names].sel(scaling=known)).dropna(ignore_index=True)
        whole = found.groupby("size").rule.transform("size") == len(known)
        return found[whole] if every else found

    return frame


def others(*figures: str) -> Callable[[xr.Dataset], pd.DataFrame]:
    """A table of several figures side by side, and last of each size what as many real pictures have."""

    def frame(ds: xr.Dataset) -> pd.DataFrame:
        check_has(ds, *figures)
        real = ds[[f"{name}_real" for name in figures]].rename({f"{name}_real": name for name in figures})
        joined = xr.concat([ds[list(figures)], real.expand_dims(scaling=["real pictures"])], "scaling", join="outer")
        found = rows_of(joined.sel(scaling=[*ds["scaling"].values, "real pictures"]))
        return found[(found["rule"] == "real pictures") | found.notna().all(axis=1)].reset_index(drop=True)

    return frame


def rows_of(ds: xr.Dataset) -> pd.DataFrame:
    """A row for every size and rule, in their order."""
    frame = ds.reset_coords(drop=True).to_dataframe(dim_order=["size", "scaling"]).reset_index()
    return frame.rename(columns={"scaling": "rule"})[["size", "rule", *ds.data_vars]]


SIDE_NOTE = "Where the sides differ, the paper is taken to name the width first."
TABLES: dict[str, tuple[str, Callable[[xr.Dataset], pd.DataFrame], pd.DataFrame | None, str]] = {
    "table1": (
        "Table 1: Frechet distance",
        by_size("fid"),
        published.table("table1"),
        SIDE_NOTE,
    ),
    "table2": (
        "Table 2: CLIP score",
        by_size("clip_score"),
        published.table("table2"),
        SIDE_NOTE,
    ),
    "table_s1": (
        "Supplement, Table 1: resizing",
        costs("original", "sqrt_log", "invariant", "calibrated", "resize"),
        published.table("table_s1"),
        "",
    ),
    "table_s2": (
        "Supplement, Table 2: MultiDiffusion",
        costs("sqrt_log", "multidiffusion", every=True),
        published.table("table_s2"),
        "FID of 4,000 pictures, as the paper says; its 28.1372 is also what Table 1 has of 30,000.",
    ),
    "diversity": ("Diversity", others("pairwise_distance", "coverage", "recall"), None, ""),
    "defects": ("Defects", others("disagreement", "cut", "excess_agreement", "self_similarity"), None, ""),
}
"""Title, how the table follows from an evaluation, what the paper publishes, and a note on that."""


def draw(ds: xr.Dataset, out: Path, names: Sequence[str] = tuple(TABLES)) -> None:
    """Write NAME.md, NAME.csv and, of what the paper has too, NAME_published.csv."""
    for name in names:
        title, frame, paper, note = TABLES[name]
        found = published.beside(frame(ds), str(ds.attrs.get("model")), paper)
        parts = [f"## {title}", said(ds, set(found)), shared.as_markdown(found)]
        shared.write_table(found, out, name)
        if paper is not None:
            shared.write_table(paper, out, f"{name}_published")
            parts += [f"Published by the paper, of other models than the embedded ones. {note}".strip()]
            parts += [shared.as_markdown(paper)]
        shared.write_text("\n\n".join(parts) + "\n", out, name)


def said(ds: xr.Dataset, columns: set[str]) -> str:
    """What a reader of the numbers must know."""
    attrs = ds.attrs
    steps = f"{attrs['steps']} steps" if "steps" in attrs else "the pipeline's own number of steps"
    parts = [
        f"Model {attrs.get('model', '?')}, {attrs['samples']} pictures of each size and rule, {steps}; "
        "sizes are height x width."
    ]
    judged = [word for name, word in {"fid": "Frechet distance", "coverage": "diversity"}.items() if name in columns]
    if judged:
        what = " and ".join(judged)
        parts.append(f"{what[0].upper()}{what[1:]} in the features: {attrs.get('features')}.")
    if "fid" in columns:
        comparable = attrs.get("comparable_with_published_fid")
        parts.append(
            "A distance falls with the number of pictures: to be compared with published FID only where that is of as "
            "many (the paper's: 30,000 and 50,000) against the same real pictures."
            if comparable
            else "Not comparable with published FID."
        )
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


def command(arguments: Sequence[str] | None = None) -> None:
    """Evaluate, or read an evaluation, and write and print the tables."""
    parser = shared.new_parser(__doc__)
    add = parser.add_argument
    add("model", nargs="?", help="hub id, folder, or preset (sd21, ldm256); the embedded pipeline if left out")
    add("--only", choices=list(TABLES), nargs="+", default=list(TABLES), metavar="TABLE", help=", ".join(TABLES))
    add("--run", type=Path, metavar="FILE.nc", help="read this evaluation instead of sampling")
    few = f"{SAMPLES}, or for other models as many as a distance needs"
    add("--samples", type=int, metavar="N", help=f"pictures of every size and rule ({few})")
    add("--steps", type=int, metavar="N", help=f"denoising steps ({shared.STEPS}, or other models' own)")
    add("--prompts", type=Path, metavar="FILE", help="text file, a prompt a line; for other models")
    add("--reference", type=Path, metavar="DIR", help="folder of real pictures; for other models")
    add("--sizes", metavar="SIZE,...", help="in pixels, 64 or 96x128 (height x width); the paper's if left out")
    add("--scaling", metavar="RULE,...", default=",".join(RULES), help="(%(default)s)")
    kept = "keep every picture there, for grids and ratings, and to go on where an earlier run was stopped"
    add("--pictures", type=Path, metavar="DIR", help=kept)
    add("--calibration", type=Path, metavar="FILE.nc", help="calibration: read if it is there, else written")
    add("--resamples", type=int, default=300, metavar="N", help="bootstrap draws (%(default)s)")
    given = parser.parse_args(arguments)

    def work() -> None:
        if given.run:
            ds = entropylab.open(given.run)
        else:
            sizes = given.sizes and parse_sizes([given.sizes])
            rules = [rule_of(text) for text in split([given.scaling])]
            if unknown := [rule for rule in rules if isinstance(rule, str) and rule not in RULES]:
                raise EntropyLabError(f"scaling must be some of {', '.join(RULES)}, or numbers. Got {unknown[0]!r}.")
            options = {name: getattr(given, name) for name in ("prompts", "reference", "pictures", "calibration")}
            source = shared.Source(given.model, given.samples, given.steps)
            ds = measure(source, sizes=sizes, scaling=rules, resamples=given.resamples, **options)
            entropylab.save(ds, given.out / EVALUATION, overwrite=True)
        draw(ds, given.out, given.only)

    shared.run(parser, given.out, work)


if __name__ == "__main__":
    command()
