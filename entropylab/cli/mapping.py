"""``entropylab map``: where in the picture attention looks widely."""

from pathlib import Path
from typing import Annotated, Any

import typer

import entropylab

from ..errors import EntropyLabError
from ..files import check_writable
from ..sizes import parse_sizes, split
from .application import (
    Device,
    Dtype,
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
from .drawing import draw
from .words import named_path, say, trained_at

WIDE = 3.0
"""Of a map in the figure [inches]."""


@app.command(
    "map",
    cls=TakesSizes,
    short_help="Draw where in the picture attention looks widely.",
    help="Draw an image of a prompt at every size with every rule, all from the same seed, and over it the entropy of "
    "attention of each token in its place, divided by log N (1 is uniform): sizes down, rules across.",
    epilog="\b\nExamples:\n"
    '  entropylab map --size 64 --prompt "a red heart" --out map.png\n'
    '  entropylab map --size 64 128 --prompt "a red heart" --scaling original,sqrt_log --layers "*up_blocks*attn1"',
)
def draw_maps(
    sizes: Sizes,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What to draw.")],
    model: Model = None,
    scaling: Scaling = ["original"],  # noqa: B006
    layers: Annotated[
        list[str],
        typer.Option(metavar="NAME,...", help="Kinds (self, cross, joint) or patterns of layer paths; their mean."),
    ] = ["self", "joint"],  # noqa: B006
    nats: Annotated[bool, typer.Option("--nats", help="Draw entropy in nats, not divided by log N.")] = False,
    train_size: TrainSize = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    dtype: Dtype = None,
    device: Device = None,
    out: Annotated[
        Path, typer.Option(parser=named_path, metavar="FILE", help="Figure to write: .png, .pdf or .svg.")
    ] = Path("map.png"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """``entropylab map``."""
    from ..scaling import parse_rules

    pairs = [(size, size) if isinstance(size, int) else size for size in parse_sizes(sizes)]
    rules, chosen, trained = parse_rules(scaling), split(layers), trained_at(train_size)
    if out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise EntropyLabError(f"out must name a figure: .png, .pdf or .svg. Got {out}.")
    check_writable(out, overwrite)
    pipe = entropylab.load(model, dtype=dtype, device=device)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from ..measuring.checks import check_steps
    from ..models.prompts import default_settings
    from ..pipelines import check_sizes

    check_sizes(pipe, pairs)
    check_steps(pipe, steps or 1)
    if quiet:
        pipe.set_progress_bar_config(disable=True)
    given: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance}
    given = default_settings(pipe) | {name: value for name, value in given.items() if value is not None}
    with entropylab.record(pipe, maps=True, layers=chosen) as rec:
        images = [
            [draw(pipe, rule, seed, trained, prompt=prompt, height=h, width=w, **given) for rule in rules]
            for h, w in pairs
        ]
    tall = sum(height / width for height, width in pairs)
    with rc_context(entropylab.plot.PAPER):
        figure = Figure(figsize=(WIDE * len(rules) + 1.2, WIDE * tall + 0.4), layout="constrained")
        entropylab.plot.entropy_maps(rec.maps, images, figure.subplots(), layer=chosen, normalised=not nats)
        figure.savefig(out)
    say(f"wrote {out}")
