"""The options and arguments that commands share, each said once."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import EntropyLabError
from ..sizes import Size, as_pair, parse_sizes, split


def named_path(text: str) -> Path:
    """A file or folder that an option names; not the current folder because a variable is unset, as in --out=$RUN."""
    if not str(text).strip():
        raise typer.BadParameter("it must be the name of a file or folder. Got nothing: is a variable unset?")
    return Path(text)


def option(metavar: str, text: str, **further: Any) -> Any:
    """An option: what stands for its value in the help, and what it is for."""
    return typer.Option(metavar=metavar, help=text, **further)


def path_option(metavar: str, text: str) -> Any:
    """An option that names a file or folder."""
    return option(metavar, text, parser=named_path)


def argument(metavar: str, text: str) -> Any:
    """An argument, likewise."""
    return typer.Argument(metavar=metavar, help=text)


def switch(name: str, text: str) -> Any:
    """An option without a value."""
    return typer.Option(name, help=text)


PIPELINE = "Hub id, folder, or preset (sd21, ldm256, emoji-joint)"
WRITTEN = "What `entropylab measure` wrote: a file or a folder."
ONE_PROMPT_A_LINE = "Text file, one prompt a line; csv, tsv, jsonl or parquet"

# What is sampled.
Model = Annotated[str | None, argument("MODEL", f"{PIPELINE} of a pipeline; the embedded U-Net if left out.")]
Prompts = Annotated[Path | None, path_option("FILE", f"{ONE_PROMPT_A_LINE}. The embedded pipeline has its own.")]
Column = Annotated[str | None, option("NAME", "Column of FILE that holds the prompts; found by its name.")]
Seed = Annotated[int, option("N", "Seed of the first sample's noise.", min=0)]

# How it is sampled.
Sizes = Annotated[
    list[str],
    typer.Option(
        "--sizes",
        "--size",
        metavar="SIZE...",
        help="Image sizes in pixels: 64 is a square, 96x128 is HEIGHTxWIDTH; several in a row, or with commas.",
    ),
]
Rules = Annotated[
    list[str],
    typer.Option(
        "--scaling",
        metavar="RULE,...",
        help="Rules for the softmax scale: original (as trained), sqrt_log (times sqrt(log N / log T)), "
        "scalable_softmax (log N / log T), yarn, proportional, a number, or FILE.nc that `entropylab calibrate` wrote "
        "(its calibrated multipliers; FILE.nc:predicted and FILE.nc:invariant are its other rules).",
    ),
]
TrainSize = Annotated[
    str | None, option("SIZE", "Size that the pipeline was trained at, for rules; its config says if left out.")
]
Steps = Annotated[int | None, option("N", "Denoising steps; the pipeline's own number if left out.", min=1)]
Guidance = Annotated[float | None, option("SCALE", "Guidance scale; the pipeline's own if left out.")]
BatchSize = Annotated[int, option("N", "Images sampled at once.", min=1)]
Dtype = Annotated[str | None, option("DTYPE", "float32, float16, bfloat16; what suits the device if left out.")]
Device = Annotated[str | None, option("DEVICE", "cpu, cuda, cuda:1, mps; the fastest there is if left out.")]
Quiet = Annotated[bool, switch("--quiet", "No progress bar.")]
Engine = Annotated[
    str | None,
    option("ray", "Sample on a Ray cluster, whose workers load the pipeline themselves (a long run, or --pictures)."),
]
Address = Annotated[
    str | None,
    option(
        "HOST:PORT",
        "Address of the cluster; if left out RAY_ADDRESS, one that runs here, or a new one on this machine.",
    ),
]
Resources = Annotated[
    str | None,
    option(
        "NAME=N,...", "What a worker takes: num_gpus=0.5, num_cpus=4; one GPU if the cluster has any, else one CPU."
    ),
]

# What is mapped beside entropy.
Received = Annotated[
    bool, switch("--received", "Map received attention: how much each token is looked at, mean over rows.")
]
Words = Annotated[list[str] | None, option("WORD,...", "Map the weight on words of the prompt in the picture.")]

# What was measured.
Run = Annotated[Path, argument("RUN", WRITTEN)]
Kind = Annotated[
    str | None,
    option(
        "KIND",
        "self, cross, joint, temporal; or image, the image rows of joint layers among keys of the image. If "
        "left out self, or what the model has instead.",
    ),
]
Scaling = Annotated[
    str | None, option("RULE", "Which rule; if left out the only one, or original where there are several.")
]
Tolerance = Annotated[float, option("NATS", "What the law may be off by where it is said to hold [nats].")]

# What is written.
File = Annotated[Path, path_option("FILE.nc", "File to write.")]
Overwrite = Annotated[bool, switch("--overwrite", "Replace what is there already.")]


def one_size(name: str, text: str | None) -> Size | None:
    """The size of an option that takes one, or None."""
    if text is None:
        return None
    size, *more = parse_sizes([text])
    if more:
        raise EntropyLabError(f"{name} must be one size. Got {text!r}.")
    return as_pair(size)


def resources_of(text: str | None, engine: str | None, device: str | None) -> dict[str, float] | None:
    """What ``--resources`` says; a CPU if the pipeline is wanted on one, though the cluster may have GPUs."""
    if text is None:
        return {"num_cpus": 1} if engine and device == "cpu" else None
    try:
        pairs = [part.split("=") for part in split([text])]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise EntropyLabError(f"resources must be such as num_gpus=0.5,num_cpus=4. Got {text!r}.") from None
