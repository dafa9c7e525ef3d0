"""The options and arguments that commands share, each said once: its help, and what is made of its words.

Those that a function of the library takes have its name there, and are handed on by `handed_on`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

import entropylab

from ..errors import EntropyLabError
from ..sizes import Size, as_pair, parse_sizes, split
from .words import rule_of


def named_path(text: str) -> Path:
    """A file or folder that an option names; not the current folder because a variable is unset, as in --out=$RUN."""
    if not str(text).strip():
        raise typer.BadParameter("it must be the name of a file or folder. Got nothing: is a variable unset?")
    return Path(text)


def option(metavar: str, text: str, *names: str, **further: Any) -> Any:
    """An option: what stands for its value in the help, what it is for, and its names if they are not the obvious."""
    return typer.Option(*names, metavar=metavar, help=text, **further)


def path_option(metavar: str, text: str) -> Any:
    """An option that names a file or folder."""
    return option(metavar, text, parser=named_path)


def argument(metavar: str, text: str) -> Any:
    """An argument, likewise."""
    return typer.Argument(metavar=metavar, help=text)


def switch(name: str, text: str) -> Any:
    """An option without a value."""
    return typer.Option(name, help=text)


def handed_on(ctx: typer.Context, *but: str) -> dict[str, Any]:
    """What was given of a command's options, as its function in the library takes them."""
    but = (*but, "model", "dtype", "device")
    given = {name: value for name, value in ctx.params.items() if name not in but and value is not None}
    on_cpu = {"resources": {"num_cpus": 1}} if "engine" in given and ctx.params["device"] == "cpu" else {}
    return on_cpu | given


def loaded(ctx: typer.Context, shared: bool) -> Any:
    """The pipeline that a command names, or what loads it, if workers of a cluster do.

    Of several processes that share the work each has a GPU of its own.
    """
    from ..runs.processes import own_device

    model, dtype, device, engine = (ctx.params[name] for name in ("model", "dtype", "device", "engine"))
    if engine:
        return partial(entropylab.load, model, dtype=dtype, device=device)
    return entropylab.load(model, dtype=dtype, device=own_device(device) if shared else device)


def words(texts: list[str] | None) -> list[str] | None:
    """The words of an option that takes several, with commas between them."""
    return split(texts) if texts else None


def checked_by(module: str, name: str) -> Callable[[list[str] | None], Any]:
    """What makes something of such words: a function of the package, which is imported when it is needed."""

    def checked(texts: list[str] | None) -> Any:
        check = getattr(import_module(f"..{module}", __package__), name)
        return check(tuple(split(texts))) if texts else None

    return checked


def one_size(param: typer.CallbackParam, text: str | None) -> Size | None:
    """The size of an option that takes one, or None."""
    if text is None:
        return None
    size, *more = parse_sizes([text])
    if more:
        raise EntropyLabError(f"{param.opts[0].strip('-')} must be one size. Got {text!r}.")
    return as_pair(size)


def rules_for(module: str, name: str) -> Callable[[Sequence[str]], list[Any]]:
    """What makes rules of ``--scaling``, names, multipliers and files of calibrations, if ``name`` takes each."""

    def rules_of(texts: Sequence[str]) -> list[Any]:
        check = getattr(import_module(f"..{module}", __package__), name)
        rules = [rule_of(text) for text in split(texts)]
        for rule in rules:
            check(rule)
        return rules

    return rules_of


def resources_of(text: str | None) -> dict[str, float] | None:
    """What ``--resources`` says."""
    try:
        pairs = [part.split("=") for part in split([text])] if text is not None else []
        return {name.strip(): float(value) for name, value in pairs} or None
    except ValueError:
        raise EntropyLabError(f"resources must be such as num_gpus=0.5,num_cpus=4. Got {text!r}.") from None


PIPELINE = "Hub id, folder, or preset (sd21, ldm256, emoji-joint) of a pipeline; the embedded U-Net if left out."
WRITTEN = "What `entropylab measure` wrote: a file or a folder."

# What is sampled.
Model = Annotated[str | None, argument("MODEL", PIPELINE)]
ModelOption = Annotated[str | None, option("MODEL", PIPELINE, "--model")]
Prompt = Annotated[str, argument("PROMPT", "What to draw.")]
PromptOption = Annotated[str, option("TEXT", "What to draw.", "--prompt")]
Prompts = Annotated[
    Path | None,
    path_option(
        "FILE",
        "Text file, one prompt a line; csv, tsv, jsonl or parquet; or a data set's id on the hub. If there are more "
        "prompts than samples, the seed decides which. The embedded pipeline has its own.",
    ),
]
Samples = Annotated[
    int | None,
    option(
        "N",
        "Images per size and rule. If left out one for each prompt (40 with an embedded pipeline); in `calibrate` less "
        "those kept back, in `evaluate` as many as a distance needs.",
        min=1,
    ),
]
Column = Annotated[str | None, option("NAME", "Column of FILE that holds the prompts; found by its name.")]
Seed = Annotated[int, option("N", "Seed of the first sample's noise.", min=0)]

# How it is sampled.
Sizes = Annotated[
    list[str],
    option(
        "SIZE...",
        "Image sizes in pixels: 64 is a square, 96x128 is HEIGHTxWIDTH; several in a row, or with commas.",
        "--sizes",
        "--size",
        callback=parse_sizes,
    ),
]
Rules = Annotated[
    list[str],
    option(
        "RULE,...",
        "Rules for the softmax scale: original (as trained), sqrt_log (times sqrt(log N / log T)), "
        "scalable_softmax (log N / log T), yarn, proportional, a number, or FILE.nc that `entropylab calibrate` wrote "
        "(its calibrated multipliers; FILE.nc:predicted and FILE.nc:invariant are its other rules).",
        callback=rules_for("scaling", "named_rule"),
    ),
]
TrainSize = Annotated[
    str | None,
    option("SIZE", "Size that the pipeline was trained at, for rules; its config says if left out.", callback=one_size),
]
Steps = Annotated[int | None, option("N", "Denoising steps; the pipeline's own number if left out.", min=1)]
Guidance = Annotated[
    float | None,
    option("SCALE", "Guidance scale; the pipeline's own if left out.", "--guidance-scale", "--guidance"),
]
BatchSize = Annotated[int, option("N", "Images sampled at once.", min=1)]
Dtype = Annotated[str | None, option("DTYPE", "float32, float16, bfloat16; what suits the device if left out.")]
Device = Annotated[str | None, option("DEVICE", "cpu, cuda, cuda:1, mps; the fastest there is if left out.")]
Progress = Annotated[bool, switch("--progress/--quiet", "Whether to show a progress bar.")]
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
        "NAME=N,...",
        "What a worker takes: num_gpus=0.5, num_cpus=4; one GPU if the cluster has any, else one CPU.",
        callback=resources_of,
    ),
]

# What is measured.
Statistics = Annotated[
    list[str],
    option(
        "NAME,...",
        "entropy [nats], sigma2 [nats^2], third [nats^3], fourth [nats^4], sensitivity [nats^2], lse [nats], "
        "mean [nats], gaussian [nats], slope, rarefied [nats].",
        callback=checked_by("measuring.reduce", "check_statistics"),
    ),
]
Rows = Annotated[int | None, option("N", "Look at a random subset of this many query rows; all if left out.", min=1)]
Layers = Annotated[
    list[str] | None,
    option(
        "NAME,...",
        "Kinds (self, cross, joint) or patterns of layer paths. If left out all; of `map` the mean of self,joint, or "
        "with --words of cross,joint.",
        callback=words,
    ),
]
Keep = Annotated[
    list[str] | None,
    option(
        "NAME,...",
        "What to keep apart of branch, sample, step, layer, head; the rest is averaged. All if left out, in a long run "
        "all but sample.",
        callback=checked_by("measuring.cells", "check_keep"),
    ),
]
Strict = Annotated[bool, switch("--strict", "End with an error if a layer ran that could not be measured.")]
Maps = Annotated[Path | None, path_option("FILE.nc", "Write entropy maps too, where in the picture attention looks.")]
Nats = Annotated[bool, switch("--nats", "Draw entropy in nats, not divided by log N.")]
Received = Annotated[
    bool, switch("--received", "Map received attention: how much each token is looked at, mean over rows.")
]
Words = Annotated[
    list[str] | None,
    option("WORD,...", "Map the weight on words of the prompt in the picture.", callback=words),
]

# How rules are found, and pictures judged.
Iterations = Annotated[int, option("N", "Newton steps at most, a pass each.", min=1)]
Nearness = Annotated[float, option("NATS", "Stop when entropies are as near [nats].", "--tolerance")]
Kinds = Annotated[
    list[str],
    option(
        "KIND,...",
        "Kinds of layers to calibrate: self, joint, temporal; others stay.",
        callback=checked_by("scaling.rescaling", "check_kinds"),
    ),
]
HeldOut = Annotated[bool, switch("--held-out/--no-held-out", "Judge the rules on other prompts and seeds.")]
Methods = Annotated[
    list[str],
    option(
        "RULE,...",
        "Rules as of `entropylab measure`, and baselines: resize, multidiffusion.",
        "--scaling",
        callback=rules_for("quality.methods", "as_method"),
    ),
]
Reference = Annotated[Path | None, path_option("DIR", "Folder of real pictures; the embedded ones if left out.")]
Metrics = Annotated[
    list[str],
    option(
        "NAME,...",
        "Of fid, clip, diversity, defects, time, memory.",
        callback=checked_by("quality.evaluation", "check_metrics"),
    ),
]
Features = Annotated[str | None, option("inception", "Where distances are measured; the model's own if left out.")]
Clip = Annotated[str | None, option("MODEL", "Hub id or folder of a CLIP model; the model's own if left out.")]
Pictures = Annotated[Path | None, path_option("DIR", "Write every picture there; the same command goes on.")]
Resamples = Annotated[int, option("N", "Bootstrap draws.", min=1)]

# What was measured.
Run = Annotated[Path, argument("RUN", WRITTEN)]
Runs = Annotated[list[Path], argument("RUN...", WRITTEN)]
Other = Annotated[Path, argument("OTHER", "Another, or the same with another rule or size.")]
By = Annotated[
    list[str] | None,
    option(
        "NAME,...",
        "A line for each layer or head, in `fit` also for each step or branch, in `check` for each size; or for each "
        "of several of them.",
        callback=words,
    ),
]
OneSize = Annotated[str | None, option("SIZE", "Which size; all of both if left out.", callback=one_size)]
OtherSize = Annotated[str | None, option("SIZE", "Which size of OTHER; that of --size if left out.", callback=one_size)]
OtherScaling = Annotated[str | None, option("RULE", "Which rule of OTHER; that of --scaling if left out.")]
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
FileOrFolder = Annotated[Path, path_option("FILE.nc", "File to write, or a folder for a long run: RUN/.")]
Folder = Annotated[Path, path_option("DIR", "Folder to write to; made if need be.")]
Figure = Annotated[Path, path_option("FILE", "Figure to write: .png, .pdf or .svg.")]
Page = Annotated[Path, path_option("FILE.html", "File to write; a report's Markdown is beside it.")]
Table = Annotated[
    Path | None, path_option("FILE.csv", "CSV to write; of `check` without --by every layer, head, size.")
]
Overwrite = Annotated[bool, switch("--overwrite", "Replace what is there already.")]
