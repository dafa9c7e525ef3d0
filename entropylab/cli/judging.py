"""Commands that find rules for a model and judge them: ``entropylab calibrate`` and ``evaluate``."""

from pathlib import Path
from typing import Annotated, Any

import typer

import entropylab

from ..files import check_writable
from ..sizes import parse_sizes, split
from .application import (
    Device,
    Dtype,
    Guidance,
    Model,
    Overwrite,
    Quiet,
    Seed,
    Sizes,
    Steps,
    TakesSizes,
    TrainSize,
    app,
)
from .words import named_path, prompts_of, say, trained_at

Prompts = Annotated[
    Path | None,
    typer.Option(
        parser=named_path,
        metavar="FILE",
        help="Text file, one prompt a line; csv, tsv, jsonl or parquet. The embedded pipeline has its own.",
    ),
]
Column = Annotated[
    str | None, typer.Option(metavar="NAME", help="Column of FILE that holds the prompts; found by its name.")
]
BatchSize = Annotated[int, typer.Option(min=1, metavar="N", help="Images sampled at once.")]


@app.command(
    cls=TakesSizes,
    short_help="Find the multipliers that hold the entropy of every layer and head.",
    help="Find, for every layer and head, the multiplier of the softmax scale that gives it the entropy [nats] at each "
    "size that it has at the training size, and judge it on prompts and seeds that it was not found with. "
    "entropylab.Calibration.open reads the file; its `calibrated` is a rule for entropylab.rescale.",
    epilog="\b\nExamples:\n  entropylab calibrate --sizes 32 96 128 --out calibration.nc\n"
    "  entropylab calibrate sd21 --sizes 512 1024 --prompts captions.txt --samples 16 --out sd21.nc",
)
def calibrate(
    sizes: Sizes,
    model: Model = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Images per size and pass; if left out one for each prompt, less those kept back."
        ),
    ] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    prompts: Prompts = None,
    column: Column = None,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="Query rows of every map to look at, at random.")] = 256,
    iterations: Annotated[int, typer.Option(min=1, metavar="N", help="Newton steps at most, a pass each.")] = 6,
    tolerance: Annotated[float, typer.Option(metavar="NATS", help="Stop when entropies are as near [nats].")] = 0.01,
    kinds: Annotated[
        list[str],
        typer.Option(metavar="KIND,...", help="Kinds of layers to calibrate: self, joint, temporal; others stay."),
    ] = ["self", "joint"],  # noqa: B006 - typer's defaults are lists, and it copies them
    held_out: Annotated[
        bool, typer.Option("--held-out/--no-held-out", help="Judge the rules on other prompts and seeds.")
    ] = True,
    batch_size: BatchSize = 4,
    train_size: TrainSize = None,
    dtype: Dtype = None,
    device: Device = None,
    out: Annotated[Path, typer.Option(parser=named_path, metavar="FILE.nc", help="File to write.")] = Path(
        "calibration.nc"
    ),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """``entropylab calibrate``."""
    from ..scaling.rescaling import check_kinds

    wanted, trained, chosen = parse_sizes(sizes), trained_at(train_size), check_kinds(tuple(split(kinds)))
    texts = prompts_of(prompts, column, None if samples is None else 2 * samples, seed)
    check_writable(out, overwrite)
    found = entropylab.calibrate(
        entropylab.load(model, dtype=dtype, device=device),
        wanted,
        train_size=trained,
        rows=rows,
        iterations=iterations,
        tolerance=tolerance,
        kinds=chosen,
        held_out=held_out,
        prompts=texts,
        samples=samples,
        steps=steps,
        guidance_scale=guidance,
        seed=seed,
        batch_size=batch_size,
        progress=not quiet,
    )
    found.save(out, overwrite=overwrite)
    if "held_out" in found.dataset:
        removed = found.dataset["held_out"].to_pandas().to_string(float_format="{:.3f}".format)
        say(f"part of the drift that each rule removes on other prompts and seeds:\n{removed}\n")
    say(f"wrote {out}; in Python: entropylab.rescale(pipe, entropylab.Calibration.open({str(out)!r}).calibrated)")


@app.command(
    cls=TakesSizes,
    short_help="Judge the pictures of every size and rule.",
    help="Sample every size under every rule and baseline from the same prompts and seeds, and judge the pictures: "
    "Frechet distance, CLIP score, diversity, time [s] and memory [MiB], with 95 % intervals in the file.",
    epilog="\b\nExamples:\n  entropylab evaluate --sizes 32 64 96 --out evaluation.nc\n"
    "  entropylab evaluate sd21 --sizes 512 1024 --scaling original,sqrt_log,resize --reference coco/ \\\n"
    "      --prompts captions.txt --samples 5000 --pictures PICTURES/ --out sd21.nc",
)
def evaluate(
    sizes: Sizes,
    model: Model = None,
    scaling: Annotated[
        list[str],
        typer.Option(
            metavar="RULE,...",
            help="Rules as of `entropylab measure`, and baselines: resize, multidiffusion.",
        ),
    ] = ["original", "sqrt_log"],  # noqa: B006
    samples: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Pictures of every size and rule; what a distance needs.")
    ] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    prompts: Prompts = None,
    reference: Annotated[
        Path | None,
        typer.Option(parser=named_path, metavar="DIR", help="Folder of real pictures; the embedded ones if left out."),
    ] = None,
    metrics: Annotated[
        list[str], typer.Option(metavar="NAME,...", help="Of fid, clip, diversity, defects, time, memory.")
    ] = ["fid", "clip", "diversity", "time", "memory"],  # noqa: B006
    features: Annotated[
        str | None, typer.Option(metavar="inception", help="Where distances are measured; the model's own if left out.")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Hub id or folder of a CLIP model; the model's own if left out.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(parser=named_path, metavar="DIR", help="Write every picture there; the same command goes on."),
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, metavar="N", help="Bootstrap draws.")] = 300,
    batch_size: BatchSize = 4,
    train_size: TrainSize = None,
    dtype: Dtype = None,
    device: Device = None,
    out: Annotated[Path, typer.Option(parser=named_path, metavar="FILE.nc", help="File to write.")] = Path(
        "evaluation.nc"
    ),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """``entropylab evaluate``."""
    from ..quality.evaluation import check_metrics
    from ..quality.methods import as_method
    from ..scaling.rules import number

    wanted, trained = parse_sizes(sizes), trained_at(train_size)
    rules: Any = tuple(number(text) for text in split(scaling))
    for rule in rules:
        as_method(rule, trained)
    names, texts = check_metrics(tuple(split(metrics))), prompts_of(prompts, None, None, seed)
    check_writable(out, overwrite)
    ds = entropylab.evaluate(
        entropylab.load(model, dtype=dtype, device=device),
        wanted,
        rules,
        prompts=texts,
        samples=samples,
        steps=steps,
        guidance_scale=guidance,
        seed=seed,
        reference=reference,
        metrics=names,
        features=features,
        clip=clip,
        batch_size=batch_size,
        train_size=trained,
        pictures=pictures,
        resamples=resamples,
        progress=not quiet,
    )
    entropylab.save(ds, out, overwrite=overwrite)
    shown = [name for name, value in ds.data_vars.items() if value.dims == ("size", "scaling")]
    shown = [name for name in shown if not str(name).endswith(("_error", "_change"))]
    table = ds[shown].to_dataframe(dim_order=["size", "scaling"])[shown].dropna(how="all")
    say(f"{table.to_string(float_format='{:.4g}'.format)}\n\nwrote {out}")
