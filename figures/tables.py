"""The paper's tables from one evaluation, as Markdown and CSV, with the published values alongside.

The evaluation is of the embedded pipeline, or what `entropylab evaluate` wrote of any. Table 3 is table3.py's.

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
from entropylab import EntropyLabError
from entropylab.errors import check_count
from entropylab.models import PRESETS
from entropylab.quality.evaluation import captions

EVALUATION = "evaluation.nc"
SIDES = ((0.5, 0.5), (0.875, 0.875), (1, 1), (1.5, 1.5), (0.625, 1), (0.75, 1))
"""Sizes as multiples of the training size, near the paper's: half, seven eighths, one and a half, wide, less wide."""

SAMPLES, BATCH = 64, 8
CALIBRATED_WITH = 3
"""Pictures of each Newton step of the calibration."""

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


def measure(source: shared.Source, pictures: Path | None = None) -> xr.Dataset:
    """Every size under every rule and baseline, judged; the rules that need it are calibrated with few pictures."""
    sizes, samples = source.sizes(SIDES), check_count("samples", source.samples, SAMPLES)
    away = [size for size in sizes if size != source.trained]
    given: dict[str, Any] = {"prompts": captions(), "steps": source.steps or shared.STEPS}
    given |= {"progress": source.progress}
    found = entropylab.calibrate(source.pipe, away, iterations=shared.ITERATIONS, samples=CALIBRATED_WITH, **given)
    rules = ["original", "sqrt_log", found.invariant, found.calibrated, "resize", "multidiffusion"]
    given |= {"samples": samples, "batch_size": BATCH, "metrics": METRICS, "pictures": pictures}
    return entropylab.evaluate(source.pipe, sizes, rules, **given)


def table(ds: xr.Dataset, name: str) -> pd.DataFrame:
    """A row for every size and rule: one figure with interval and change against the original factor, or several.

    Last of each size is what as many real pictures have, in a column or a row; in the supplement's tables it is not.
    Rules that have no such size have no row, and in table_s2 sizes have none that one of its rules lacks.
    """
    names = list(FIGURES[name])
    if missing := [figure for figure in names if figure not in ds]:
        have = sorted(map(str, ds))
        raise EntropyLabError(
            f"run must be what entropylab.evaluate gave, with {missing[0]!r} in it for {name} (--only names tables, "
            f"`entropylab evaluate --metrics` figures). Got {have}."
        )
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
    for name, found in {name: table(ds, name) for name in names}.items():
        last = []
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
    add("--only", choices=list(TABLES), nargs="+", default=list(TABLES), metavar="TABLE", help=", ".join(TABLES))
    add("--run", type=Path, metavar="FILE.nc", help="read this evaluation instead of sampling")
    add("--samples", type=int, metavar="N", help=f"pictures of every size and rule ({SAMPLES})")
    add("--steps", type=int, metavar="N", help=f"denoising steps ({shared.STEPS})")
    kept = "keep every picture there, for grids and ratings, and to go on where an earlier run was stopped"
    add("--pictures", type=Path, metavar="DIR", help=kept)
    given = parser.parse_args(arguments)

    def work() -> None:
        if given.run:
            ds = entropylab.open(given.run)
        else:
            ds = measure(shared.Source(samples=given.samples, steps=given.steps), given.pictures)
            entropylab.save(ds, given.out / EVALUATION, overwrite=True)
        draw(ds, given.out, given.only)

    shared.run(parser, given.out, work)


if __name__ == "__main__":
    command()
