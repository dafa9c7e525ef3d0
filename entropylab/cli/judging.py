"""Commands that find rules for a model and judge them: ``entropylab calibrate`` and ``evaluate``."""

from pathlib import Path

import typer

import entropylab

from ..files import check_writable
from ..sizes import as_pair, size_label
from . import options as opt
from .application import TakesSizes, app
from .words import is_first, prompts_of, say


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
    ctx: typer.Context,
    sizes: opt.Sizes,
    model: opt.Model = None,
    samples: opt.Samples = None,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    seed: opt.Seed = 0,
    prompts: opt.Prompts = None,
    column: opt.Column = None,
    rows: opt.Rows = 256,
    iterations: opt.Iterations = 6,
    tolerance: opt.Nearness = 0.01,
    kinds: opt.Kinds = ["self", "joint"],
    held_out: opt.HeldOut = True,
    batch_size: opt.BatchSize = 4,
    train_size: opt.TrainSize = None,
    dtype: opt.Dtype = None,
    device: opt.Device = None,
    out: opt.File = Path("calibration.nc"),
    overwrite: opt.Overwrite = False,
    progress: opt.Progress = True,
) -> None:
    """``entropylab calibrate``."""
    given = opt.handed_on(ctx, "prompts", "column", "out", "overwrite")
    given |= prompts_of(prompts, column, None if samples is None else 2 * samples, seed)
    check_writable(out, overwrite)
    found = entropylab.calibrate(entropylab.load(model, dtype=dtype, device=device), **given)
    found.save(out, overwrite=overwrite)
    if "held_out" in found.dataset:
        removed = found.dataset["held_out"].to_pandas().to_string(float_format="{:.3f}".format)
        say(f"part of the drift that each rule removes on other prompts and seeds:\n{removed}\n")
    labels = " ".join(size_label(as_pair(size)) for size in sizes)
    say(f"wrote {out}; next: entropylab measure --sizes {labels} --scaling original,{out}")


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
    ctx: typer.Context,
    sizes: opt.Sizes,
    model: opt.Model = None,
    scaling: opt.Methods = ["original", "sqrt_log"],
    samples: opt.Samples = None,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    seed: opt.Seed = 0,
    prompts: opt.Prompts = None,
    reference: opt.Reference = None,
    metrics: opt.Metrics = ["fid", "clip", "diversity", "time", "memory"],
    features: opt.Features = None,
    clip: opt.Clip = None,
    pictures: opt.Pictures = None,
    resamples: opt.Resamples = 300,
    batch_size: opt.BatchSize = 4,
    train_size: opt.TrainSize = None,
    dtype: opt.Dtype = None,
    device: opt.Device = None,
    out: opt.File = Path("evaluation.nc"),
    overwrite: opt.Overwrite = False,
    engine: opt.Engine = None,
    address: opt.Address = None,
    resources: opt.Resources = None,
    progress: opt.Progress = True,
) -> None:
    """``entropylab evaluate``."""
    given = opt.handed_on(ctx, "prompts", "out", "overwrite") | prompts_of(prompts, None, None, seed)
    check_writable(out, overwrite)
    pipe = opt.loaded(ctx, shared=pictures is not None)
    ds = entropylab.evaluate(pipe, **given)
    if not is_first():  # of processes that shared the pictures
        return
    by_another = pictures is not None and not overwrite and out.exists()  # it was not there at the start
    if not by_another:
        entropylab.save(ds, out, overwrite=overwrite)
    shown = [name for name, value in ds.data_vars.items() if value.dims == ("size", "scaling")]
    shown = [name for name in shown if not str(name).endswith(("_error", "_change"))]
    table = ds[shown].to_dataframe(dim_order=["size", "scaling"])[shown].dropna(how="all")
    last = f"{out} stays: another process has written it meanwhile" if by_another else f"wrote {out}"
    say(f"{table.to_string(float_format='{:.4g}'.format)}\n\n{last}")
