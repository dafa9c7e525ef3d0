"""Commands that find rules for a model and judge them: ``entropylab calibrate``, ``evaluate`` and ``ratings``."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import entropylab

from ..files import check_writable
from ..sizes import as_pair, size_label
from . import options as opt
from .application import TakesSizes, app
from .words import is_first, prompts_of, say, write_csv


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
    texts = prompts_of(prompts, column, None if samples is None else 2 * samples, seed)
    given = opt.handed_on(ctx, "prompts", "column", "out", "overwrite") | ({"prompts": texts} if texts else {})
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
    metrics: opt.Metrics = [
        "fid",
        "clip",
        "diversity",
        "time",
        "memory",
    ],
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
    from ..runs.place import own_device

    texts = prompts_of(prompts, None, None, seed)
    given = opt.handed_on(ctx, "prompts", "out", "overwrite") | ({"prompts": texts} if texts else {})
    check_writable(out, overwrite)
    if engine and device == "cpu":
        given.setdefault("resources", {"num_cpus": 1})
    device = own_device(device) if pictures is not None and not engine else device
    load = partial(entropylab.load, model, dtype=dtype, device=device)
    ds = entropylab.evaluate(load if engine else load(), **given)
    if not is_first():  # of processes that shared the pictures
        return
    entropylab.save(ds, out, overwrite=overwrite)
    shown = [name for name, value in ds.data_vars.items() if value.dims == ("size", "scaling")]
    shown = [name for name in shown if not str(name).endswith(("_error", "_change"))]
    table = ds[shown].to_dataframe(dim_order=["size", "scaling"])[shown].dropna(how="all")
    say(f"{table.to_string(float_format='{:.4g}'.format)}\n\nwrote {out}")


ABOUT = "Ask people to rate pictures blindly, and analyse what they rated."

ratings = typer.Typer(help=ABOUT, no_args_is_help=True, rich_markup_mode=None)
app.add_typer(ratings, name="ratings", short_help=ABOUT)


@ratings.command(
    short_help="Write a page of blinded pairs of pictures.",
    help="Write one HTML page that shows pairs of pictures of the same prompt, shuffled and without the names of their "
    "methods, and asks for a rating from 1 to 10 of each. It needs no server and no network; raters save a file. "
    "PICTURES are two or more folders, one a method, with pictures of the same names.",
    epilog="\b\nExamples:\n  entropylab ratings make pictures/96x96/original pictures/96x96/sqrt_log --out page.html",
)
def make(
    pictures: Annotated[list[Path], opt.argument("PICTURES...", "Folders of pictures, one a method.")],
    out: opt.Page = Path("ratings.html"),
    prompts: Annotated[
        Path | None,
        opt.path_option("FILE", "Text file, a prompt a line, in the order of names; the PNGs' own if left out."),
    ] = None,
    pairs: Annotated[int, opt.option("N", "Pairs on the page at most, a random choice.", min=1)] = 50,
    seed: Annotated[int, opt.option("N", "Seed of the choice.", min=0)] = 0,
    overwrite: opt.Overwrite = False,
) -> None:
    """``entropylab ratings make``."""
    from ..quality.ratings import make_page

    path = make_page(pictures, out, prompts=prompts, pairs=pairs, seed=seed, overwrite=overwrite)
    say(f"wrote {path}; next: entropylab ratings analyse FILE..., the files that raters saved")


@ratings.command(
    short_help="Analyse the files that raters saved.",
    help="Read the files that raters saved and print mean ratings with 95 % intervals (over raters; over pairs "
    "if there is one rater) by method, differences between methods pair by pair with Wilcoxon's signed-rank test, and "
    "how far raters agree (Krippendorff's alpha). Files that can't be used are named and left out.",
    epilog="\b\nExamples:\n  entropylab ratings analyse ratings-*.json --out table3.csv",
)
def analyse(
    files: Annotated[list[Path], opt.argument("FILES...", "What the page saved.")],
    out: opt.Table = None,
    overwrite: opt.Overwrite = False,
) -> None:
    """``entropylab ratings analyse``."""
    from ..quality.ratings import analyse as analysed

    if out is not None:
        check_writable(out, overwrite)
    found = analysed(files)
    say(found.summary())
    if out is not None:
        write_csv(found.methods, out, "%.4f")
