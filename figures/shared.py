"""What the figures share: what is sampled, at which sizes and how much of it, their command line, and their files.

The numbers are chosen so that `regenerate.py` is done in under ten minutes on two slow cores.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

import entropylab
from entropylab import Calibration, EntropyLabError
from entropylab.models.prompts import embedded_prompts
from entropylab.scaling import check_train_size

Sides = tuple[float, float]

LOWER: Sides = (0.5, 0.5)
HIGHER: Sides = (2, 2)
SIDES: tuple[Sides, ...] = (LOWER, (0.75, 0.75), (1, 1), (1.5, 1.5), HIGHER, (3, 3), (1.5, 1), (1, 2))
"""Sizes as multiples of the training size's height and width: 32 to 192 pixels for the embedded pipeline."""

RULES = ("original", "sqrt_log")

SAMPLES, STEPS = 4, 6
"""Of every size and rule, each sample with its own prompt. With 20 steps mean entropies are 0.02 to 0.03 nats less."""

FEW = 3
"""Samples of a calibration, and of the sweep, which sample once for every Newton step and every multiplier."""

HELD_OUT = 1000
"""First seed of a calibration, whose prompts are the last ones: figures are of other prompts and other seeds."""

WIDTH = 0.85
"""Of a picture in a grid of them [inches]."""

ITERATIONS = 3
"""Newton steps of a calibration, which starts from the second-order solution."""


class Source:
    """A pipeline, and how much to sample of it.

    Args:
        model: as for `entropylab.load`; loaded when it is first needed. Prompts are those of the embedded pipeline.
        samples: at most so many of every size and rule; None for the numbers of each figure.
        steps: denoising steps; None for the numbers of each figure.
        progress: show progress.

    Attributes:
        calibration: what `calibrated` gives without calibrating, if it is not None.
    """

    def __init__(
        self, model: str | None = None, samples: int | None = None, steps: int | None = None, progress: bool = True
    ) -> None:
        self.model, self.samples, self.steps, self.progress = model, samples, steps, progress
        self.calibration: Calibration | None = None

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
        return {
            "prompts": mixed_prompts(),
            "samples": samples if self.samples is None else min(samples, self.samples),
            "steps": self.steps or steps,
            "progress": self.progress,
        }

    def calibrated(self, sides: Sequence[Sides] | None = None) -> Calibration:
        """A calibration at these sizes; the training size needs none."""
        if self.calibration is not None:
            return self.calibration
        away = [size for size in self.sizes(sides) if size != self.trained]
        sampling = self.sampling(FEW) | {"prompts": mixed_prompts()[::-1], "seed": HELD_OUT}
        return entropylab.calibrate(self.pipe, away, iterations=ITERATIONS, held_out=False, **sampling)


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


def command(
    about: str | None,
    measure: Callable[[Source], xr.Dataset],
    draw: Callable[[xr.Dataset, Path], None],
    arguments: Sequence[str] | None = None,
) -> None:
    """The command line of one figure: measure what it needs, or read it from a file, and draw."""
    parser = new_parser(about)
    parser.add_argument("--run", type=Path, metavar="FILE.nc", help="draw this instead of measuring")
    parser.add_argument("--samples", type=int, metavar="N", help="at most this many images per size and rule")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps")
    given = parser.parse_args(arguments)

    def work() -> None:
        source = Source(samples=given.samples, steps=given.steps)
        draw(entropylab.open(given.run) if given.run else measure(source), given.out)

    run(parser, given.out, work)


def write(figure: Figure, out: Path, name: str, table: pd.DataFrame | None = None) -> None:
    """Write NAME.pdf, NAME.png and NAME.csv, free of dates: the same data make the same files."""
    figure.savefig(out / f"{name}.pdf", metadata={"CreationDate": None})
    figure.savefig(out / f"{name}.png")
    plt.close(figure)
    print(f"wrote {out / name}.pdf, {name}.png", flush=True)
    if table is not None:
        write_table(table, out, name)


def write_pictures(
    grid: Sequence[Any],
    rows: Sequence[str],
    columns: Sequence[str],
    out: Path,
    name: str,
    table: pd.DataFrame | None = None,
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


def write_text(text: str, out: Path, name: str) -> None:
    """Write NAME.md, and print it."""
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    print(text, flush=True)


INTERVALS = {("low", "high"): "95 % interval", ("change_low", "change_high"): "95 % interval of the change"}
"""Pairs of columns that stand in one column of Markdown."""


def as_markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown: numbers with four digits, nothing for NaN, both ends of an interval in one column."""

    def word(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return "" if pd.isna(value) else f"{round(value, 6) + 0.0:.4g}"  # the CSV has no more than six decimals either

    shown = frame.astype(object).map(word)
    for (low, high), name in INTERVALS.items():
        if {low, high} <= set(frame):
            both = (shown[low] + " to " + shown[high]).where(frame[low].notna(), "")
            shown.insert(list(shown).index(low), name, both)
            shown = shown.drop(columns=[low, high])
    rules = ["---:" if name in frame and pd.api.types.is_numeric_dtype(frame[name]) else "---" for name in shown]
    head, *body = (f"| {' | '.join(line)} |" for line in [list(shown), *shown.to_numpy().tolist()])
    return "\n".join([head.replace("_", " "), f"|{'|'.join(rules)}|", *body])
