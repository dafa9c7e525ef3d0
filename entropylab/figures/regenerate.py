"""All figures from one calibration and one measurement, or from the files that an earlier run left."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import xarray as xr

from recipes.emoji import draw_grid

from ..bars import quiet
from ..errors import EntropyLabError
from ..files import make_folder
from ..models.prompts import is_embedded
from ..netcdf import save
from ..opening import open_dataset
from . import figure5, figure6, gaussian_ablation, law_checks, layers, logits, samples, sweep, two_models
from .measuring import EVALUATION, RULES, Source, new_source

Files = Callable[[xr.Dataset, Path], list[Path]]

MEASUREMENT, SWEEP, PICTURES, CALIBRATION = "measurement.nc", "sweep.nc", "pictures.nc", "calibration.nc"
LAW, LOGITS, ABLATION = "law.nc", "logits.nc", "gaussian_ablation.nc"
GRID = "prompts.png"
"""The embedded pipeline's forty prompts at its training size, ten to a row."""
DRAWN: dict[str, tuple[Files, ...]] = {
    MEASUREMENT: (figure5.files, figure6.files),
    SWEEP: (sweep.files,),
    PICTURES: (samples.files,),
    LAW: (law_checks.files, layers.files),
    LOGITS: (logits.files,),
    ABLATION: (gaussian_ablation.files,),
}
"""What is drawn from which file."""


def regenerate(
    out: str | Path,
    run: str | Path | None = None,
    *,
    model: str | None = None,
    samples: int | None = None,
    steps: int | None = None,
    tables: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Write every figure as PDF, PNG and CSV, and what was measured for it as netCDF, which ``run`` can redraw.

    figure3 to figure6 are numbered as in the paper, as are table1 to table3, table_s1 and table_s2 (of its supplement).
    With ``tables`` come its figures 1 and 7, of rules and baselines beside each other; its figure 2 is a drawing. Other
    names are figures of our own.

    Args:
        out: folder to write to; files of the same names are replaced.
        run: draw what was measured already: a file from `entropylab.measure` (figures 5 and 6), or the folder that
            an earlier call wrote to (everything in it). None measures first, which takes minutes.
        model: a pipeline, as for `entropylab.load`; None for the embedded one.
        samples: at most this many images per size and rule; None for four (three in calibration and sweep).
        steps: denoising steps; None for six (eight for pictures).
        tables: judge pictures of every size and rule too, which takes about half an hour more: all tables, and grids.
        progress: show progress.

    Returns:
        The files written.

    Raises:
        EntropyLabError: as `entropylab.load`, `entropylab.measure`, `entropylab.open`; nothing to draw in a folder.
    """
    folder = make_folder(out)
    if run is not None:
        return redrawn(Path(run), folder)
    source = new_source(model, samples=samples, steps=steps, progress=progress)
    return [*measured(source, folder), *(judged(source, folder) if tables else [])]


def measured(source: Source, out: Path) -> list[Path]:
    """Measure and draw; each measurement is in its file before anything is drawn from it."""
    say(source, "1/8 calibrating, size by size")
    calibration = source.calibrated()
    calibration.save(out / CALIBRATION, overwrite=True)
    say(source, "2/8 measuring every size under every rule, for figures 5 and 6")
    rules = [*RULES, calibration.invariant, calibration.calibrated]
    written = [out / CALIBRATION, *kept(source.measured(rules), out, MEASUREMENT)]
    say(source, "3/8 sweeping the multiplier")
    written += kept(source.swept(calibration), out, SWEEP)
    say(source, "4/8 sampling pictures")
    written += kept(samples.measured(source, calibration), out, PICTURES)
    say(source, "5/8 measuring cumulants, for the checks of the law")
    written += kept(source.cumulants(), out, LAW)
    say(source, "6/8 sampling logits")
    written += kept(logits.measured(source), out, LOGITS)
    say(source, "7/8 simulating attention that is less and less Gaussian")
    written += kept(gaussian_ablation.measured(), out, ABLATION)
    say(source, "8/8 measuring a second model beside the embedded one")
    written += two_models.kept(source, out)
    if is_embedded(source.pipe):
        with quiet(source.pipe):
            draw_grid(source.pipe, out / GRID)
        written.append(out / GRID)
    return written


def judged(source: Source, out: Path) -> list[Path]:
    """Judge pictures, and write the tables and the grids of the pictures."""
    from . import grids, tables

    say(source, "judging pictures, for the tables")
    with tempfile.TemporaryDirectory() as folder:
        ds = tables.measured(source, pictures=Path(folder))
        save(ds, out / EVALUATION, overwrite=True)
        drawn = grids.files(Path(folder), out)
    return [out / EVALUATION, *drawn, *tabulated(ds, out)]


def tabulated(ds: xr.Dataset, out: Path) -> list[Path]:
    """All tables of an evaluation; the third, of people's ratings, with what the paper published."""
    from . import table3, tables

    return [*(path for table in tables.TABLES.values() for path in table.files(ds, out)), *table3.files(None, out)]


def kept(ds: xr.Dataset, out: Path, name: str) -> list[Path]:
    """Save and draw."""
    save(ds, out / name, overwrite=True)
    return [out / name, *(path for files in DRAWN[name] for path in files(ds, out))]


def redrawn(run: Path, out: Path) -> list[Path]:
    """Draw what was measured before; of a measurement that says no training size, figure 5 only."""
    if not os.path.isdir(run):
        return [path for files in DRAWN[MEASUREMENT] for path in drawn(files, open_dataset(run), out)]
    found = {run / name: files for name, files in DRAWN.items() if (run / name).is_file()}
    evaluation = [run / EVALUATION] if (run / EVALUATION).is_file() else []
    if not found and not evaluation:
        raise EntropyLabError(f"run must be a file, or a folder with {', '.join(DRAWN)} in it. {run} has none of them.")
    again = [
        path for name, figures in found.items() for files in figures for path in drawn(files, open_dataset(name), out)
    ]
    judged = [path for name in evaluation for path in tabulated(open_dataset(name), out)]
    return [*again, *two_models.redrawn(run, out), *judged]


def drawn(files: Files, ds: xr.Dataset, out: Path) -> list[Path]:
    """The files of one figure; figure 6 is left out, and that is said, where the training size was not measured."""
    try:
        return files(ds, out)
    except EntropyLabError as error:
        if files is not figure6.files:
            raise
        print(f"figure 6 is left out: {error}", file=sys.stderr)
        return []


def say(source: Source, text: str) -> None:
    """Tell what is done now, where progress is shown."""
    if source.progress:
        print(text, file=sys.stderr, flush=True)
