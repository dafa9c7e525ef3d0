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
    Received,
    Scaling,
    Seed,
    Sizes,
    Steps,
    TakesSizes,
    TrainSize,
    Words,
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
    "attention of each token in its place, divided by log N (1 is uniform): sizes down, rules across. Or how much each "
    "token is looked at, or how much it looks at words of the prompt.",
    epilog="\b\nExamples:\n"
    '  entropylab map --size 64 --prompt "a red heart" --out map.png\n'
    '  entropylab map --size 64 128 --prompt "a red heart" --words red,heart\n'
    '  entropylab map --size 64 128 --prompt "a red heart" --scaling original,sqrt_log --layers "*up_blocks*attn1"',
)
def draw_maps(
    sizes: Sizes,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What to draw.")],
    model: Model = None,
    scaling: Scaling = ["original"],  # noqa: B006
    layers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...",
            help="Kinds (self, cross, joint) or patterns of layer paths; their mean. self,joint if left out, or with "
            "--words cross,joint.",
        ),
    ] = None,
    nats: Annotated[bool, typer.Option("--nats", help="Draw entropy in nats, not divided by log N.")] = False,
    received: Received = False,
    words: Words = None,
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
    rules, trained = parse_rules(scaling), trained_at(train_size)
    chosen = split(layers) if layers else ["cross" if words else "self", "joint"]
    spoken = split(words) if words else None
    if spoken and (received or len(rules) > 1):
        raise EntropyLabError(
            "words are drawn across, in the place of rules: leave --received out, or all rules but one."
        )
    if out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise EntropyLabError(f"out must name a figure: .png, .pdf or .svg. Got {out}.")
    check_writable(out, overwrite)
    if spoken:
        from ..pipelines.words import check_spoken, check_words

        check_spoken(check_words(spoken), [prompt])
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
    variable = "words" if spoken else "received" if received else "entropy"
    kept: dict[str, Any] = {"maps": variable == "entropy", "received": received, "words": spoken}
    with entropylab.record(pipe, layers=chosen, **kept) as rec:
        images = [
            [draw(pipe, rule, seed, trained, prompt=prompt, height=h, width=w, **given) for rule in rules]
            for h, w in pairs
        ]
    tall, across = sum(height / width for height, width in pairs), len(spoken or rules)
    with rc_context(entropylab.plot.PAPER):
        figure = Figure(figsize=(WIDE * across + 1.2, WIDE * tall + 0.4), layout="constrained")
        shown: dict[str, Any] = {"variable": variable, "columns": "word" if spoken else "scaling"}
        pictures = [line * (across // len(line)) for line in images]
        entropylab.plot.entropy_maps(rec.maps, pictures, figure.subplots(), layer=chosen, normalised=not nats, **shown)
        figure.savefig(out)
    say(f"wrote {out}")
