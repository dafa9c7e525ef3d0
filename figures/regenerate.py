"""All figures, from one measurement of the embedded pipeline or from a file that `entropylab.save` wrote."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import figure5
import figure6
import xarray as xr

import entropylab

SIZES = (32, 48, 64, 96, 128, (96, 64), (64, 128))
"""Pixels; an int is a square, a pair is (height, width)."""

SCALING = ("original", "sqrt_log")
SAMPLES, STEPS = 8, 20
OUT = Path(__file__).parent / "output"
FIGURES = (figure5.main, figure6.main)

Draw = Callable[[xr.Dataset, Path], list[Path]]


def measured(samples: int = SAMPLES, steps: int = STEPS, scaling: Sequence[str] = SCALING) -> xr.Dataset:
    """The measurement that the figures share: every size under every scaling, from the same seeds and prompts."""
    pipe = entropylab.load()
    return entropylab.measure(pipe, sizes=list(SIZES), samples=samples, steps=steps, scaling=scaling)


def regenerate(ds: xr.Dataset, out: Path, draws: Sequence[Draw] = FIGURES) -> list[Path]:
    """Draw every figure from one Dataset; returns the files written."""
    return [path for draw in draws for path in draw(ds, out)]


def command(
    draws: Sequence[Draw],
    description: str | None,
    scaling: Sequence[str] = SCALING,
    arguments: Sequence[str] | None = None,
) -> None:
    """The command line that all figures share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="DIR", help="folder for PDF, PNG and CSV (%(default)s)"
    )
    parser.add_argument("--run", type=Path, metavar="FILE.nc", help="draw this measurement instead of making one")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="images per size and scaling (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="denoising steps (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        ds = entropylab.open(given.run) if given.run else measured(given.samples, given.steps, scaling)
        for path in regenerate(ds, given.out, draws):
            print(path)
    except entropylab.EntropyLabError as error:
        parser.error(str(error))
    print(entropylab.fit(ds).summary())


if __name__ == "__main__":
    command(FIGURES, __doc__)
