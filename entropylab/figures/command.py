"""The command line that the scripts of single figures share."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import EntropyLabError
from ..files import make_folder
from ..opening import open_dataset
from ..reporting.views import labels
from .measuring import new_source

OUT = Path("figures/output")


def command(figure: Any, arguments: Sequence[str] | None = None) -> None:
    """Measure what one figure needs, or read it from a file, and write the figure.

    Args:
        figure: a module with ``measured(source)`` and ``files(ds, out)``; with ``SIMULATED = True`` it needs no
            pipeline and gets None; with ``SEVERAL = True`` its ds are several, name -> Dataset.
        arguments: the command line; the process's own by default.
    """
    parser = argparse.ArgumentParser(description=figure.__doc__)
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="folder to write to (%(default)s)")
    parser.add_argument("--run", type=Path, nargs="+", metavar="FILE.nc", help="draw this instead of measuring")
    parser.add_argument("--samples", type=int, metavar="N", help="at most this many images per size and rule")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps")
    given = parser.parse_args(arguments)
    try:
        out = make_folder(given.out)
        sampling = {"samples": given.samples, "steps": given.steps}
        source = None if given.run or getattr(figure, "SIMULATED", False) else new_source(**sampling)
        ds = opened(figure, given.run) if given.run else figure.measured(source)
        for path in figure.files(ds, out):
            print(path)
    except EntropyLabError as error:
        parser.error(" ".join(str(error).split()))


def opened(figure: Any, paths: Sequence[Path]) -> Any:
    """What a figure draws, from the files of an earlier run.

    Raises:
        EntropyLabError: as `entropylab.open`; several files for a figure of one.
    """
    datasets = [open_dataset(path) for path in paths]
    if getattr(figure, "SEVERAL", False):
        return dict(zip(labels(datasets, None), datasets, strict=True))
    if len(datasets) > 1:
        raise EntropyLabError(f"run must be one file for this figure. Got {len(datasets)}.")
    return datasets[0]
