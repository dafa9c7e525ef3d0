"""The paper's tables from one evaluation, as Markdown and CSV, with the published values alongside.

``make tables``, or python figures/tables.py [MODEL] [--run evaluation.nc]. Table 3 is table3.py's.

What the paper publishes is in figures/published/: Tables 1 to 3 and the supplement's two, sizes as height x width. The
paper does not say which of "512 * 288" is the width; it is taken to be the first. Table 1 has FID of 30,000 pictures
(Stable Diffusion) and 50,000 (latent diffusion), none comparable with distances in other features; Table 2 has CLIP
scores, Table 3 mean ratings from 1 to 10 by 45 people of 50 pairs. At the training size both factors are the same. The
supplement's tables have FID, GPU memory and average time; the second is of 4,000 pictures, says the paper, but its FID
at 768 is to the last digit that of Table 1.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

import entropylab
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

TABLES = {
    "table1": "Table 1: Frechet distance",
    "table2": "Table 2: CLIP score",
    "table_s1": "Supplement, Table 1: resizing",
    "table_s2": "Supplement, Table 2: MultiDiffusion",
    "diversity": "Diversity",
    "defects": "Defects",
}
FIGURES = {
    "table1": ("fid",),
    "table2": ("clip_score",),
    "table_s1": ("fid", "time", "memory", "memory_added"),
    "table_s2": ("fid", "time", "memory", "memory_added"),
    "diversity": ("pairwise_distance", "coverage", "recall"),
    "defects": ("disagreement", "cut", "excess_agreement", "self_similarity"),
}
COSTS = {
    "table_s1": ("original", "sqrt_log", "invariant", "calibrated", "resize"),
    "table_s2": ("sqrt_log", "multidiffusion"),
}
"""Rules in the supplement's tables."""

MODELS = {PRESETS["sd21"].model: "Stable Diffusion 2.1-base", PRESETS["ldm256"].model: "LDM text-to-image 256"}
"""The paper's names of its models."""

MARK = " (published)"


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
        sizes: in pixels; the paper's, or multiples of the training size, if None.
        scaling: as for `entropylab.evaluate`; "invariant" and "calibrated" are calibrated first, at the same sizes,
            with few pictures.
        prompts: as for `entropylab.evaluate`.
        calibration: file of the calibration: read if it is there, else written.
        options: of `entropylab.evaluate`.
    """
    own = is_embedded(source.pipe)
    papers = {preset.model: preset.sizes for preset in PRESETS.values()}
    sizes = sizes or papers.get(str(source.pipe.name_or_path)) or source.sizes(SIDES)
    pairs = [(size, size) if isinstance(size, int) else size for size in sizes]
    given: dict[str, Any] = {"prompts": captions() if prompts is None and own else prompts}
    given |= {"progress": source.progress, "steps": source.steps or (shared.STEPS if own else None)}
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
    given |= {"samples": source.samples or (SAMPLES if own else None), "batch_size": BATCH, "metrics": METRICS}
    return entropylab.evaluate(source.pipe, pairs, rules, **given, **options)


def table(ds: xr.Dataset, name: str) -> pd.DataFrame:
    """A row for every size and rule: one figure with interval and change against the original factor, or several.

    Last of each size is what as many real pictures have, in a column or a row; in the supplement's tables it is not.
    Rules that have no such size have no row, and in table_s2 sizes have none that one of its rules lacks.
    """
    names = list(FIGURES[name])
    if missing := [figure for figure in names if figure not in ds]:
        have = sorted(map(str, ds))
        raise EntropyLabError(f"run must be what entropylab.evaluate gave, with {missing[0]!r} in it. Got {have}.")
    rules = ds["scaling"].values.tolist()
    if name in COSTS:
        found = rows_of(ds[names], [rule for rule in COSTS[name] if rule in rules]).dropna()
        whole = found.groupby("size")["rule"].transform("size") == len(COSTS[name])
        return (found[whole] if name == "table_s2" else found).reset_index(drop=True)
    if len(names) == 1:
        (figure,) = names
        ends = ds[[f"{figure}_interval", f"{figure}_change_interval"]]
        (low, change_low), (high, change_high) = (ends.sel(bound=b, drop=True).values() for b in ("low", "high"))
        columns = {figure: ds[figure], "low": low, "high": high, "change": ds[f"{figure}_change"]}
        columns |= {"change_low": change_low, "change_high": change_high, "real_pictures": ds[f"{figure}_real"]}
        return rows_of(xr.Dataset(columns), rules).dropna(subset=figure, ignore_index=True)
    real = xr.Dataset({figure: ds[f"{figure}_real"] for figure in names}).expand_dims(scaling=["real pictures"])
    found = rows_of(xr.concat([ds[names], real], "scaling", join="outer"), [*rules, "real pictures"])
    return found[(found["rule"] == "real pictures") | found.notna().all(axis=1)].reset_index(drop=True)


def rows_of(ds: xr.Dataset, rules: Sequence[str]) -> pd.DataFrame:
    """A row for every size and rule, in their order."""
    ds = ds.reset_coords(drop=True).sel(scaling=list(rules)).rename(scaling="rule")
    return ds.to_dataframe(dim_order=["size", "rule"]).reset_index()[["size", "rule", *ds.data_vars]]


def published(name: str) -> pd.DataFrame:
    """A table as published: table1, table2, table3, table_s1 or table_s2; the names of its values say so."""
    found = pd.read_csv(Path(__file__).with_name("published") / f"{name}.csv")
    return found.rename(columns=lambda column: column if column in ("model", "size", "rule") else column + MARK)


def beside(found: pd.DataFrame, model: str, paper: pd.DataFrame) -> pd.DataFrame:
    """A table with the published values of the same model, size and rule beside its own, where there are any."""
    if model not in MODELS:
        return found
    values = paper[paper.model == MODELS[model]].drop(columns="model")
    if "rule" not in values:
        values = values.melt("size", var_name="rule", value_name="published")
        values["rule"] = values.rule.str.removesuffix(MARK)
    return found.merge(values, "left", on=["size", "rule"])


def draw(ds: xr.Dataset, out: Path, names: Sequence[str] = tuple(TABLES)) -> None:
    """Write NAME.md, NAME.csv and, of what the paper has too, NAME_published.csv."""
    for name in names:
        found, last = table(ds, name), []
        if name.startswith("table"):
            paper = published(name)
            found = beside(found, str(ds.attrs.get("model")), paper)
            last = ["Published by the paper, of other models than the embedded ones:", shared.as_markdown(paper)]
            shared.write_table(paper, out, f"{name}_published")
        shared.write_table(found, out, name)
        shared.write_text([f"## {TABLES[name]}", said(ds), shared.as_markdown(found), *last], out, name)


def said(ds: xr.Dataset) -> str:
    """What a reader of the numbers must know."""
    attrs = ds.attrs
    distances = "Not comparable with published FID."
    if attrs.get("comparable_with_published_fid"):
        distances = (
            "A distance falls with the number of pictures: to be compared with published FID only where that is of as "
            "many (the paper's: 30,000 and 50,000) against the same real pictures."
        )
    return (
        f"Model {attrs.get('model', '?')}, {attrs['samples']} pictures of each size and rule, "
        f"{attrs.get('steps', 'as many as the pipeline takes')} steps; sizes are height x width. Frechet distance and "
        f"diversity in the features: {attrs.get('features')}. {distances} Agreement of picture and prompt by: "
        f"{attrs.get('clip_model')}. 95 % intervals (low, high) by bootstrap over pictures; changes are against the "
        f"original factor, seed by seed; real pictures are as many. Time [s] a picture and peak memory [MiB], in all "
        f"and added by sampling, in batches of {attrs.get('batch_size')}: {attrs.get('cost')}, {attrs.get('device')}."
    )


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
