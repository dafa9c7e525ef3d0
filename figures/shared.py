"""What the figures share: what is sampled, at which sizes and how much of it, their command line, and their files."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib.figure import Figure

import entropylab
from entropylab import Calibration, EntropyLabError
from entropylab.errors import check_count, one_line
from entropylab.law.averages import kind_in
from entropylab.models.prompts import default_settings, embedded_prompts
from entropylab.scaling import check_train_size

Sides = tuple[float, float]

LOWER: Sides = (0.5, 0.5)
HIGHER: Sides = (2, 2)
SIDES: tuple[Sides, ...] = (LOWER, (0.75, 0.75), (1, 1), (1.5, 1.5), HIGHER, (3, 3), (1.5, 1), (1, 2))
"""Sizes as multiples of the training size's height and width: 32 to 192 pixels for the embedded pipeline."""

RULES = ("original", "sqrt_log")

KINDS = ("self", "joint")

SAMPLES, STEPS = 4, 6
"""Of every size and rule, each sample with its own prompt. With 20 steps mean entropies are 0.02 to 0.03 nats less."""

FEW = 3
"""Samples of a calibration, and of the sweep, which sample once for every Newton step and every multiplier."""

HELD_OUT = 1000
"""First seed of a calibration, whose prompts are the last ones: figures are of other prompts and other seeds."""

WIDTH = 0.85
"""Of a picture in a grid of them [inches]."""

BATCH = 4
"""Pictures that are sampled at once."""

ITERATIONS = 3
"""Newton steps of a calibration, which starts from the second-order solution."""


@dataclass
class Source:
    """A pipeline, loaded when it is first needed, and how much to sample of it; None is each figure's own number."""

    model: str | None = None
    samples: int | None = None
    steps: int | None = None
    progress: bool = True
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "steps"):
            check_count(name, getattr(self, name), 1)

    @cached_property
    def pipe(self) -> Any:
        """The pipeline, silent."""
        pipe = entropylab.load(self.model)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def trained(self) -> tuple[int, int]:
        """The training size (height, width) [pixels]."""
        return check_train_size(self.pipe, None)

    def sizes(self, sides: Sequence[Sides] | None = None) -> list[tuple[int, int]]:
        """Sizes in pixels of multiples of the training size; of `SIDES` by default."""
        height, width = self.trained
        return [(round(height * tall), round(width * wide)) for tall, wide in sides or SIDES]

    def sampling(self, samples: int = SAMPLES, steps: int = STEPS) -> dict[str, Any]:
        """How to sample, as arguments of `entropylab.measure`; at most ``samples`` samples of each."""
        samples = samples if self.samples is None else min(samples, self.samples)
        steps = self.steps or steps
        return {"prompts": mixed_prompts(), "samples": samples, "steps": steps, "progress": self.progress}

    def measure(self, sizes: Sequence[tuple[int, int]], **options: Any) -> xr.Dataset:
        """Self-attention, or joint attention where the model has that in its place, which is told."""
        ds = entropylab.measure(self.pipe, sizes, layers=KINDS, **options)
        kind = kind_in(ds)
        if kind != "self":
            print(f"no self-attention: this is of {kind} layers, text and image", file=sys.stderr, flush=True)
        return ds.isel(layer=(ds["kind"] == kind).values)

    def calibrated(self, sides: Sequence[Sides] | None = None) -> Calibration:
        """The calibration at hand, or one at these sizes; the training size needs none."""
        if self.calibration is not None:
            return self.calibration
        away = [size for size in self.sizes(sides) if size != self.trained]
        sampling = self.sampling(FEW) | {"prompts": mixed_prompts()[::-1], "seed": HELD_OUT}
        return entropylab.calibrate(self.pipe, away, iterations=ITERATIONS, held_out=False, **sampling)


def pictures(
    source: Source, prompts: Sequence[str], size: tuple[int, int], rule: Any = "original", steps: int | None = None
) -> np.ndarray:
    """Pictures (sample, y, x, channel) of uint8 at one size under one rule, sample i from seed i."""
    settings = default_settings(source.pipe) | ({"num_inference_steps": steps} if steps else {})
    settings |= {"height": size[0], "width": size[1], "output_type": "np"}
    found = []
    with entropylab.rescale(source.pipe, rule):
        for start in range(0, len(prompts), BATCH):
            some = prompts[start : start + BATCH]
            seeds = [torch.Generator("cpu").manual_seed(start + place) for place in range(len(some))]
            found.append(source.pipe(some, generator=seeds, **settings).images)
    return np.round(255 * np.concatenate(found)).astype(np.uint8)


Files = Mapping[str, Callable[[Source], Any]]
"""The files that a figure is drawn from, and what measures each."""


def mixed_prompts() -> list[str]:
    """The embedded pipeline's prompts, every fifth first, so that the first eight are of all sorts."""
    prompts = embedded_prompts()
    return [prompt for start in range(5) for prompt in prompts[start::5]]


def new_parser(about: str | None) -> argparse.ArgumentParser:
    """A command line that says where to write."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    out = Path(__file__).with_name("output")
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help="folder to write to (figures/output)")
    return parser


def run(parser: argparse.ArgumentParser, out: Path, work: Callable[[], None]) -> None:
    """Do a script's work; what the caller did wrong is one line, with exit status 2."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        work()
    except (EntropyLabError, OSError) as error:
        parser.error(str(error))


def command(about: str | None, files: Files, draw: Callable[..., None], arguments: Sequence[str] | None = None) -> None:
    """The command line of one figure: measure what it needs, or read it from files, and draw."""
    parser = new_parser(about)
    words = f"draw these instead of measuring: {' '.join(files)}"
    parser.add_argument("--run", type=Path, nargs=len(files), metavar="FILE.nc", help=words)
    parser.add_argument("--samples", type=int, metavar="N", help="at most this many images per size and rule")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps")
    given = parser.parse_args(arguments)

    def work() -> None:
        source = Source(samples=given.samples, steps=given.steps)
        if not given.run:
            draw(*(measure(source) for measure in files.values()), given.out)
            return
        found = [entropylab.open(path) for path in given.run]
        try:
            draw(*found, given.out)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, EntropyLabError):
                raise
            needed = f"run must be such as this script measures, {' '.join(files)}"
            raise EntropyLabError(f"{needed}. In {' '.join(map(str, given.run))}: {one_line(error, 200)}") from error

    run(parser, given.out, work)


def title(ds: xr.Dataset, trained: float) -> str:
    """Which layers a panel is of: those with so many training tokens, and their kind if it is not self-attention."""
    kind = kind_in(ds)
    return f"{'' if kind == 'self' else f'{kind} '}layers of T = {trained:.0f} tokens"


def name_kind(figure: Figure, ds: xr.Dataset) -> None:
    """Say above a figure which layers it is of, if they are not self-attention."""
    if (kind := kind_in(ds)) != "self":
        figure.suptitle(f"{kind} layers")


def write(figure: Figure, out: Path, name: str, table: pd.DataFrame | None = None) -> None:
    """Write NAME.pdf, NAME.png and NAME.csv, free of dates: the same data make the same files."""
    figure.savefig(out / f"{name}.pdf", metadata={"CreationDate": None})
    figure.savefig(out / f"{name}.png")
    plt.close(figure)
    print(f"wrote {out / name}.pdf, {name}.png", flush=True)
    if table is not None:
        write_table(table, out, name)


def write_pictures(
    grid: Sequence[Any], rows: Sequence[str], columns: Sequence[str], out: Path, name: str, table: Any = None
) -> None:
    """Write a grid of pictures, rows of arrays (height, width, channels), with labels of rows and columns."""
    tall = sum(row[0].shape[0] / row[0].shape[1] for row in grid)
    with plt.rc_context(entropylab.plot.PAPER):
        shape = (0.8 + WIDTH * len(columns), 0.5 + WIDTH * tall)
        figure, ax = plt.subplots(figsize=shape, layout="constrained")
        entropylab.plot.samples(grid, ax, rows=rows, columns=columns)
        write(figure, out, name, table)


def write_table(table: pd.DataFrame, out: Path, name: str) -> None:
    """Write NAME.csv."""
    table.to_csv(out / f"{name}.csv", index=False, float_format="%.6f", lineterminator="\n")
    print(f"wrote {out / name}.csv", flush=True)


def write_text(parts: Sequence[str], out: Path, name: str) -> None:
    """Write NAME.md, and print it."""
    text = "\n\n".join(parts) + "\n"
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    print(text, flush=True)


def as_markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown: numbers with four digits, nothing for NaN."""

    def word(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return "" if pd.isna(value) else f"{round(value, 6) + 0.0:.4g}"  # the CSV has no more than six decimals either

    rules = ["---:" if pd.api.types.is_numeric_dtype(frame[name]) else "---" for name in frame]
    head = [str(name).replace("_", " ") for name in frame]
    body = frame.astype(object).map(word).to_numpy().tolist()
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rules, *body))
