"""Commands that find rules for a model and judge them: ``entropylab calibrate`` and ``evaluate``."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import entropylab

from ..files import check_writable
from ..sizes import parse_sizes, split
from . import options as opt
from .application import TakesSizes, app
from .words import is_first, prompts_of, rule_of, say


@app.command(
    cls=TakesSizes,
    short_help="Find the multipliers that hold the entropy of every layer and head.",
    help="Find, for every layer and head, the multiplier of the softmax scale that gives it the entropy [nats] at each "
    "size that it has at the training size, and judge it on prompts and seeds that it was not found with. "
    "The file is a rule for --scaling of other commands; in Python entropylab.Calibration.open reads it.",
    epilog="\b\nExamples:\n  entropylab calibrate --sizes 32 96 128 --out calibration.nc\n"
    "  entropylab measure --sizes 32 64 96 128 --scaling original,calibration.nc,calibration.nc:predicted\n"
    "  entropylab calibrate sd21 --sizes 512 1024 --prompts captions.txt --samples 16 --out sd21.nc",
)
def calibrate(
    sizes: opt.Sizes,
    model: opt.Model = None,
    samples: Annotated[
        int | None,
        opt.option("N", "Images per size and pass; if left out one for each prompt, less those kept back.", min=1),
    ] = None,
    steps: opt.Steps = None,
    guidance: opt.Guidance = None,
    seed: opt.Seed = 0,
    prompts: opt.Prompts = None,
    column: opt.Column = None,
    rows: Annotated[int, opt.option("N", "Query rows of every map to look at, at random.", min=1)] = 256,
    iterations: Annotated[int, opt.option("N", "Newton steps at most, a pass each.", min=1)] = 6,
    tolerance: Annotated[float, opt.option("NATS", "Stop when entropies are as near [nats].")] = 0.01,
    kinds: Annotated[
        list[str], opt.option("KIND,...", "Kinds of layers to calibrate: self, joint, temporal; others stay.")
    ] = ["self", "joint"],
    held_out: Annotated[
        bool, opt.switch("--held-out/--no-held-out", "Judge the rules on other prompts and seeds.")
    ] = True,
    batch_size: opt.BatchSize = 4,
    train_size: opt.TrainSize = None,
    dtype: opt.Dtype = None,
    device: opt.Device = None,
    out: opt.File = Path("calibration.nc"),
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """``entropylab calibrate``."""
    from ..scaling.rescaling import check_kinds

    wanted, trained, chosen = (
        parse_sizes(sizes),
        opt.one_size("train-size", train_size),
        check_kinds(tuple(split(kinds))),
    )
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
    say(f"wrote {out}; next: entropylab measure --sizes {' '.join(sizes)} --scaling original,{out}")


@app.command(
    cls=TakesSizes,
    short_help="Judge the pictures of every size and rule.",
    help="Sample every size under every rule and baseline from the same prompts and seeds, and judge the pictures: "
    "Frechet distance, CLIP score, diversity, time [s] and memory [MiB], with 95 % intervals in the file.",
    epilog="\b\nExamples:\n  entropylab evaluate --sizes 32 64 96 --out evaluation.nc\n"
    "  entropylab evaluate sd21 --sizes 512 1024 --scaling original,sqrt_log,resize --reference coco/ \\\n"
    "      --prompts captions.txt --samples 5000 --pictures PICTURES/ --out sd21.nc\n"
    "  entropylab evaluate sd21 --sizes 512 1024 --reference coco/ --pictures PICTURES/ --engine ray --out sd21.nc",
)
def evaluate(
    sizes: opt.Sizes,
    model: opt.Model = None,
    scaling: Annotated[
        list[str], opt.option("RULE,...", "Rules as of `entropylab measure`, and baselines: resize, multidiffusion.")
    ] = ["original", "sqrt_log"],
    samples: Annotated[
        int | None, opt.option("N", "Pictures of every size and rule; what a distance needs.", min=1)
    ] = None,
    steps: opt.Steps = None,
    guidance: opt.Guidance = None,
    seed: opt.Seed = 0,
    prompts: opt.Prompts = None,
    reference: Annotated[
        Path | None, opt.path_option("DIR", "Folder of real pictures; the embedded ones if left out.")
    ] = None,
    metrics: Annotated[list[str], opt.option("NAME,...", "Of fid, clip, diversity, defects, time, memory.")] = [
        "fid",
        "clip",
        "diversity",
        "time",
        "memory",
    ],
    features: Annotated[
        str | None, opt.option("inception", "Where distances are measured; the model's own if left out.")
    ] = None,
    clip: Annotated[
        str | None, opt.option("MODEL", "Hub id or folder of a CLIP model; the model's own if left out.")
    ] = None,
    pictures: Annotated[
        Path | None, opt.path_option("DIR", "Write every picture there; the same command goes on.")
    ] = None,
    resamples: Annotated[int, opt.option("N", "Bootstrap draws.", min=1)] = 300,
    batch_size: opt.BatchSize = 4,
    train_size: opt.TrainSize = None,
    dtype: opt.Dtype = None,
    device: opt.Device = None,
    out: opt.File = Path("evaluation.nc"),
    overwrite: opt.Overwrite = False,
    engine: opt.Engine = None,
    address: opt.Address = None,
    resources: opt.Resources = None,
    quiet: opt.Quiet = False,
) -> None:
    """``entropylab evaluate``."""
    from ..quality.evaluation import check_metrics
    from ..quality.methods import as_method
    from ..runs.place import own_device

    wanted, trained = parse_sizes(sizes), opt.one_size("train-size", train_size)
    rules = tuple(rule_of(text) for text in split(scaling))
    for rule in rules:
        as_method(rule, trained)
    names, texts = check_metrics(tuple(split(metrics))), prompts_of(prompts, None, None, seed)
    check_writable(out, overwrite)
    device = own_device(device) if pictures is not None and not engine else device
    load = partial(entropylab.load, model, dtype=dtype, device=device)
    cluster: dict[str, Any] = {
        "engine": engine,
        "address": address,
        "resources": opt.resources_of(resources, engine, device),
    }
    ds = entropylab.evaluate(
        load if engine else load(),
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
        **{name: value for name, value in cluster.items() if value is not None},
    )
    if not is_first():  # of processes that shared the pictures
        return
    entropylab.save(ds, out, overwrite=overwrite)
    shown = [name for name, value in ds.data_vars.items() if value.dims == ("size", "scaling")]
    shown = [name for name in shown if not str(name).endswith(("_error", "_change"))]
    table = ds[shown].to_dataframe(dim_order=["size", "scaling"])[shown].dropna(how="all")
    say(f"{table.to_string(float_format='{:.4g}'.format)}\n\nwrote {out}")
