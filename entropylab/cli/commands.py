"""The command line: ``entropylab measure``, ``status``, ``merge``, ``fit``, ``check``, ``report``,
``figures``, ``layers``, ``generate``.

Importing this file is fast: torch, diffusers and xarray are imported by the commands that need them.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

import entropylab

from ..files import make_folder
from ..quality.commands import add_to as add_ratings_to
from ..sizes import parse_sizes, size_label, split
from .application import (
    Device,
    Dtype,
    Folder,
    Guidance,
    Model,
    Overwrite,
    Quiet,
    Scaling,
    Seed,
    Sizes,
    Steps,
    TakesSizes,
    app,
)
from .reading import add_to, opened
from .words import as_table, is_first, is_run, parse_rules, prompts_of


@app.command(
    cls=TakesSizes,
    short_help="Measure the entropy of attention at several image sizes.",
    help="Sample images at every size and measure the entropy of every attention layer and head on the way, in nats. "
    "Every size and every rule is sampled from the same prompts and seeds. The result is a netCDF file that "
    "`entropylab fit` and `entropylab figures` read, and Python too (entropylab.open, an xarray.Dataset). "
    "N is the number of tokens a query attends to, T that number at the training size. "
    "With a folder for --out, long work is cut into units that are kept as they are finished: the same command goes on "
    "where it was ended, and several processes share the work.",
    epilog="\b\nExamples:\n"
    "  entropylab measure --sizes 32 64 96x128 --samples 8 --out entropy.nc\n"
    "  entropylab measure --sizes 32,64,128 --scaling original,sqrt_log --out both.nc\n"
    "  entropylab measure stabilityai/stable-diffusion-2-1-base --sizes 256 512 768 \\\n"
    "      --prompts captions.txt --samples 100 --rows 256 --dtype float16 --out sd.nc\n"
    "  accelerate launch --num_processes 8 -m entropylab measure sd21 --sizes 256 512 768 \\\n"
    "      --prompts captions.parquet --column caption --samples 5000 --out RUN/",
)
def measure(
    sizes: Sizes,
    model: Model = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Images per size and rule; one a prompt if left out.")
    ] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text file, one prompt a line; csv, tsv, jsonl or parquet; or a data set's id on the hub. If there "
            "are more prompts than samples, the seed decides which. The embedded pipeline has its own.",
        ),
    ] = None,
    column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column of FILE that holds the prompts; found by its name.")
    ] = None,
    scaling: Scaling = ["original"],  # noqa: B006 - typer's defaults are lists, and it copies them
    statistics: Annotated[
        list[str],
        typer.Option(
            metavar="NAME,...",
            help="entropy [nats], sigma2 [nats^2], third [nats^3], fourth [nats^4], sensitivity [nats^2], lse [nats], "
            "mean [nats].",
        ),
    ] = ["entropy", "sigma2"],  # noqa: B006
    batch_size: Annotated[int, typer.Option(min=1, help="Images sampled at once.")] = 4,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Measure a random subset of this many query rows; all if left out.")
    ] = None,
    dtype: Dtype = None,
    device: Device = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE.nc", help="File to write, or a folder for a long run: RUN/.")
    ] = Path("entropy.nc"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """``entropylab measure``: what can be checked is checked before the model is loaded."""
    from ..files import check_writable

    wanted, texts = parse_sizes(sizes), prompts_of(prompts, column, samples, seed)
    long = is_run(out)
    if not long:
        check_writable(out, overwrite)
    else:
        from ..runs.beginning import check_folder
        from ..runs.place import own_device

        check_folder(out)
        device = own_device(device)
    from ..measuring.reduce import check_statistics

    rules, names = parse_rules(scaling), check_statistics(split(statistics))
    further: dict[str, Any] = {"out": out, "overwrite": overwrite} if long else {}
    ds = entropylab.measure(
        entropylab.load(model, dtype=dtype, device=device),
        wanted,
        prompts=texts,
        samples=samples,
        steps=steps,
        guidance_scale=guidance,
        seed=seed,
        scaling=rules,
        statistics=names,
        rows=rows,
        batch_size=batch_size,
        progress=not quiet,
        **further,
    )
    if not long:
        entropylab.save(ds, out, overwrite=overwrite)
    if not long or is_first():
        typer.echo(f"wrote {out}; next: entropylab fit {out}")


@app.command(
    short_help="Tell what is done of a long run.",
    help="Tell what is done of a run that `entropylab measure --out RUN/` wrote or is writing: units and samples of "
    "each size and rule, and which processes are at work.",
    epilog="\b\nExamples:\n  entropylab status RUN/\n  entropylab status RUN/ --check",
)
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")],
    check: Annotated[bool, typer.Option("--check", help="Read every unit and verify its checksum.")] = False,
) -> None:
    """``entropylab status``."""
    from ..runs import status as status_of

    found = status_of(run, check)
    typer.echo("\n".join([as_table(found.table), *found.notes]))


@app.command(
    short_help="Join long runs into one file.",
    help="Join runs of the same configuration, finished or not, into one netCDF file. They may differ in sizes, rules, "
    "seeds and prompts; a unit that several have counts once.",
    epilog="\b\nExamples:\n  entropylab merge RUN/ --out entropy.nc\n  entropylab merge one/ other/ --out both.nc",
)
def merge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of the runs.")],
    out: Annotated[Path, typer.Option(metavar="FILE.nc", help="File to write.")],
    overwrite: Overwrite = False,
) -> None:
    """``entropylab merge``."""
    from ..files import check_writable
    from ..runs import merge as merge_runs

    check_writable(out, overwrite)
    ds = merge_runs(runs)
    entropylab.save(ds, out, overwrite=overwrite)
    typer.echo(f"wrote {out}: {ds.attrs['units_done']} of {ds.attrs['units']} units; next: entropylab fit {out}")


@app.command(
    short_help="Fit the law to measured entropy and print it.",
    help="Fit the law H = slope * log N + intercept to measured entropy and print slope, intercept [nats], their "
    "standard errors and R^2. A straight line proves little (uniform attention has slope 1 as well), so the deficit "
    "log N - H [nats], which should not depend on N, and the measured sigma^2/2 that it should equal stand beside it.",
    epilog="\b\nExamples:\n  entropylab fit entropy.nc\n  entropylab fit entropy.nc --by layer",
)
def fit(
    file: Annotated[Path, typer.Argument(metavar="RUN", help="What `entropylab measure` wrote: a file or a folder.")],
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="A line for each: layer, head, step or branch.")
    ] = None,
) -> None:
    """``entropylab fit``."""
    typer.echo(entropylab.fit(opened(file), by=by).summary())


add_to(app)  # check and report
add_ratings_to(app)


@app.command(
    short_help="Regenerate the figures.",
    help="Regenerate the figures, each as PDF and PNG with the plotted numbers as CSV, entropies in nats: figures 3 "
    "to 6 of the paper under its numbers (3 and 4 are same-seed pictures at half and twice the training size), and our "
    "own: pictures at other sizes, the sweep of the multiplier, checks of the law, single layers and heads, logits, "
    "the ablation of the Gaussian assumption by simulation, and two models side by side. Without --run everything is "
    "measured first, at multiples of the training size, which takes ten to twenty minutes for the embedded pipeline on "
    "two cores; what was measured is kept beside the figures as netCDF, and --run DIR draws it again. --tables adds "
    "the paper's tables 1 to 3 and those of its supplement (table_s1, table_s2), and grids of pictures as in its "
    "figures 1 and 7, which takes about half an hour more and needs entropylab[quality].",
    epilog="\b\nExamples:\n"
    "  entropylab figures\n"
    "  entropylab figures --samples 2 --steps 4 --out quick/\n"
    "  entropylab figures --run entropy.nc --out paper/\n"
    "  entropylab figures --tables",
)
def figures(
    model: Model = None,
    out: Folder = Path("figures/output"),
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.nc",
            help="Draw what `entropylab measure` wrote, instead of measuring; or a folder that this command wrote to.",
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="At most this many images per size and rule; 4 if left out.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps; 6 if left out, and 8 for the pictures.")
    ] = None,
    tables: Annotated[
        bool, typer.Option("--tables", help="Judge pictures too, for the tables; about half an hour.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """``entropylab figures``."""
    make_folder(out)
    from ..figures import regenerate

    for path in regenerate(out, run, model=model, samples=samples, steps=steps, tables=tables, progress=not quiet):
        typer.echo(f"wrote {path}")


@app.command(
    short_help="List the attention layers of a pipeline.",
    help="List the attention layers of a pipeline before any sampling: module path, kind (self or cross), number of "
    "heads, and the processor that computes it. These are the layers that `entropylab measure` measures.",
    epilog="\b\nExamples:\n  entropylab layers\n  entropylab layers stabilityai/stable-diffusion-2-1-base",
)
def layers(model: Model = None, dtype: Dtype = None, device: Device = None) -> None:
    """``entropylab layers``."""
    found = entropylab.layers(entropylab.load(model, dtype=dtype, device=device))
    lines = [("path", "kind", "heads", "processor")]
    lines += [(layer.path, layer.kind, str(layer.heads), layer.processor) for layer in found]
    typer.echo(as_table(lines))


@app.command(
    cls=TakesSizes,
    short_help="Write images of any size with any rule.",
    help="Write PNG images of a prompt, one for each size and rule, all from the same seed, so that what the rule "
    "changes can be seen. They are named HEIGHTxWIDTH_RULE_seedSEED.png, in pixels.",
    epilog="\b\nExamples:\n"
    '  entropylab generate "a red heart" --size 128 --scaling original,sqrt_log\n'
    '  entropylab generate "a red heart" --size 32 64 96x128 --seed 7 --out images/',
)
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.")],
    sizes: Sizes,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Hub id, folder, or preset (sd21, ldm256, emoji-dit); the embedded U-Net if left out.",
        ),
    ] = None,
    scaling: Scaling = ["original"],  # noqa: B006
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    dtype: Dtype = None,
    device: Device = None,
    out: Folder = Path(),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """``entropylab generate``."""
    from ..files import check_writable

    pairs = [(size, size) if isinstance(size, int) else size for size in parse_sizes(sizes)]
    make_folder(out)
    images = {
        (pair, rule): check_writable(out / f"{size_label(pair)}_{rule}_seed{seed}.png", overwrite)
        for pair in pairs
        for rule in parse_rules(scaling)
    }
    pipe = entropylab.load(model, dtype=dtype, device=device)
    from ..models.prompts import default_settings
    from ..pipelines import check_sizes

    check_sizes(pipe, pairs)
    if quiet:
        pipe.set_progress_bar_config(disable=True)
    given = {name: v for name, v in (("num_inference_steps", steps), ("guidance_scale", guidance)) if v is not None}
    for ((height, width), rule), path in images.items():
        image = draw(pipe, rule, seed, prompt=prompt, height=height, width=width, **default_settings(pipe) | given)
        image.save(path)
        typer.echo(str(path))


def draw(pipe: Any, rule: str | float, seed: int, **arguments: Any) -> Any:
    """One PIL image from a pipeline under a scaling rule."""
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)  # the same noise on every device
    with entropylab.rescale(pipe, rule):
        return pipe(generator=generator, **arguments).images[0]
