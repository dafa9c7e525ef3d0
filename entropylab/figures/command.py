"""What the command lines of the scripts share: those of single figures as a whole, others in part."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import EntropyLabError, one_line
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
    add_out(parser)
    parser.add_argument("--run", type=Path, nargs="+", metavar="FILE.nc", help="draw this instead of measuring")
    parser.add_argument("--samples", type=int, metavar="N", help="at most this many images per size and rule")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps")
    given = parser.parse_args(arguments)

    def write() -> list[Path]:
        out = make_folder(given.out)
        sampling = {"samples": given.samples, "steps": given.steps}
        source = None if given.run or getattr(figure, "SIMULATED", False) else new_source(**sampling)
        ds = opened(figure, given.run) if given.run else figure.measured(source)
        return figure.files(ds, out)

    run(parser, write)


def add_out(parser: argparse.ArgumentParser) -> None:
    """Let a script be told where to write."""
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="folder to write to (%(default)s)")


def run(parser: argparse.ArgumentParser, write: Callable[[], Iterable[Path]], shows_text: bool = False) -> None:
    """Do a script's work, and say what was written; what the caller did wrong is one line, with exit status 2.

    Args:
        parser: of the script's command line.
        write: does the work, and returns the files.
        shows_text: whether to print what stands in Markdown files, instead of their names.
    """
    try:
        for path in write():
            print(path.read_text(encoding="utf-8") if shows_text and path.suffix == ".md" else f"wrote {path}")
    except EntropyLabError as error:
        parser.error(one_line(error))


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
