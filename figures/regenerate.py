"""All figures from one calibration and one measurement, or from the files that an earlier run left.

--run of a file or run that `entropylab measure` wrote gives figures 5 and 6; of a folder that this program wrote, all.
Figures 3 to 6 of the paper have its numbers, others are our own. What was measured is kept beside them as netCDF.
--tables adds the paper's tables, and grids as its figures 1 and 7. (Its figure 2 is a drawing.) docs/howto/figures.md
says how long all of it takes.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import entropylab
import figure5
import figure6
import gaussian_ablation
import grids
import law_checks
import layers
import logits
import maps
import overview
import prompts
import rules
import samples
import shared
import sweep
import table3
import tables
import two_models
from entropylab import EntropyLabError
from entropylab.runs.folder import RECORD

FIGURES = (figure6, figure5, rules, sweep, samples, law_checks, layers, logits, maps, gaussian_ablation, overview)
OF_EMBEDDED = (two_models, prompts)
"""Figures that are of the embedded models, whatever is asked for."""


def regenerate(source: shared.Source, out: Path, judged: bool = False) -> None:
    """Measure and draw; each measurement is in its file before anything is drawn from it."""
    if judged and source.model is not None:
        raise EntropyLabError("--tables are of the embedded pipeline; of others `entropylab evaluate`, tables.py.")
    source.calibration = source.calibrated()
    source.calibration.save(out / "calibration.nc", overwrite=True)
    written: set[str] = set()
    for figure in (*FIGURES, *(OF_EMBEDDED if source.model is None else ())):
        for name, measure in figure.FILES.items():
            if name not in written:
                if source.progress:
                    print(f"measuring {name}", file=sys.stderr, flush=True)
                entropylab.save(measure(source), out / name, overwrite=True)
                written.add(name)
        draw(figure, out, out)
    if judged:
        judge(source, out)


def draw(figure: ModuleType, run: Path, out: Path) -> None:
    """Draw a figure from the files of a folder."""
    figure.draw(*(entropylab.open(run / name) for name in figure.FILES), out)


def judge(source: shared.Source, out: Path) -> None:
    """Judge pictures, and write the tables and the grids of the pictures."""
    with TemporaryDirectory() as folder:
        ds = tables.measure(source, pictures=Path(folder))
        entropylab.save(ds, out / tables.EVALUATION, overwrite=True)
        grids.draw_all(Path(folder), out)
    draw_tables(out, out)


def draw_tables(run: Path, out: Path) -> None:
    """The tables from the evaluation in a folder."""
    tables.draw(entropylab.open(run / tables.EVALUATION), out)
    table3.draw([], out)


def redraw(run: Path, out: Path) -> None:
    """Draw what was measured before; of one measurement figures 5 and 6, only figure 5 if it has no training size."""
    if not run.is_dir() or (run / RECORD).is_file():
        ds = entropylab.open(run)
        figure5.draw(ds, out)
        try:
            figure6.draw(ds, out)
        except EntropyLabError as error:
            print(f"figure 6 is left out: {error}", file=sys.stderr)
        return
    there = {path.name for path in run.glob("*.nc")}
    known = [figure for figure in (*FIGURES, *OF_EMBEDDED) if set(figure.FILES) <= there]
    if not known and tables.EVALUATION not in there:
        names = ", ".join(dict.fromkeys(name for figure in FIGURES for name in figure.FILES))
        raise EntropyLabError(f"run must be a file, or a folder with {names} in it. {run} has none of them.")
    for figure in known:
        draw(figure, run, out)
    if tables.EVALUATION in there:
        draw_tables(run, out)


def command(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = shared.new_parser(__doc__)
    add: Any = parser.add_argument
    add("model", nargs="?", help="hub id, folder, or preset (sd21, ldm256); else the embedded one")
    add("--run", type=Path, metavar="FILE.nc|DIR", help="draw what was measured before")
    add("--samples", type=int, metavar="N", help="at most this many images per size and rule; 4 if left out")
    add("--steps", type=int, metavar="N", help="denoising steps; 6 if left out, and 8 for the pictures")
    add("--tables", action="store_true", help="judge the embedded pipeline's pictures too, for the tables")
    add("--quiet", action="store_true", help="show no progress")
    given = parser.parse_args(arguments)

    def work() -> None:
        source = shared.Source(given.model, given.samples, given.steps, not given.quiet)
        redraw(given.run, given.out) if given.run else regenerate(source, given.out, given.tables)

    shared.run(parser, given.out, work)


if __name__ == "__main__":
    command()
