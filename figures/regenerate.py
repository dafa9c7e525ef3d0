"""All figures from one calibration and one measurement, or from the files that an earlier run left.

python figures/regenerate.py [MODEL] [--out DIR] [--tables]
python figures/regenerate.py --run FILE.nc, which `entropylab measure` wrote: figures 5 and 6
python figures/regenerate.py --run DIR, which this program wrote to: everything in it, nothing is measured

Each figure is written as PDF and PNG with the plotted numbers as CSV, entropies in nats: figures 3 to 6 of the paper
under its numbers, and our own. It takes seven to twelve minutes for the embedded pipeline on two cores. What was
measured is kept beside the figures as netCDF. --tables adds the paper's tables, and grids as its figures 1 and 7, which
takes about half an hour more and needs entropylab[quality]. (Its figure 2 is a drawing.)
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import xarray as xr

import entropylab
import figure5
import figure6
import gaussian_ablation
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
import two_models
from entropylab import EntropyLabError
from entropylab.models.prompts import is_embedded

Measure = Callable[[shared.Source], xr.Dataset | xr.DataTree]
Draw = Callable[[Any, Path], None]

PARTS: dict[str, tuple[str, Measure, Sequence[Draw]]] = {
    "measurement.nc": ("measuring every size under every rule", figure6.measure, (figure6.draw,)),
    "figure5.nc": ("measuring what predicts entropy", figure5.measure, (figure5.draw,)),
    "rules.nc": ("comparing rules", rules.measure, (rules.draw,)),
    "sweep.nc": ("sweeping the multiplier", sweep.measure, (sweep.draw,)),
    "pictures.nc": ("sampling pictures", samples.measure, (samples.draw,)),
    "law.nc": ("measuring cumulants", law_checks.measure, (law_checks.draw, layers.draw)),
    "logits.nc": ("sampling logits", logits.measure, (logits.draw,)),
    "maps.nc": ("mapping where attention looks widely", maps.measure, (maps.draw,)),
    "gaussian_ablation.nc": ("simulating attention", gaussian_ablation.measure, (gaussian_ablation.draw,)),
}
"""File -> what is done for it, how it is measured, and what is drawn from it."""

OVERVIEW = ("maps.nc", "figure5.nc")
"""What the overview is drawn from."""


def regenerate(source: shared.Source, out: Path, tables: bool = False) -> None:
    """Measure and draw; each measurement is in its file before anything is drawn from it."""
    steps, measured = len(PARTS) + 2, {}
    say(source, f"1/{steps} calibrating, size by size")
    source.calibration = source.calibrated()
    source.calibration.save(out / "calibration.nc", overwrite=True)
    for number, (name, (text, measure, drawings)) in enumerate(PARTS.items(), 2):
        say(source, f"{number}/{steps} {text}")
        ds = measured[name] = measure(source)
        entropylab.save(ds, out / name, overwrite=True)
        for draw in drawings:
            draw(ds, out)
    overview.draw(*(measured[name] for name in OVERVIEW), out)
    if source.model is None:
        say(source, f"{steps}/{steps} measuring a second model beside the embedded one")
        runs = {}
        for name, model in two_models.MODELS.items():
            runs[name] = two_models.measure(shared.Source(model, source.samples, source.steps, source.progress))
            entropylab.save(runs[name], out / f"two_models_{name}.nc", overwrite=True)
        two_models.draw(runs, out)
    if is_embedded(source.pipe):
        prompts.draw(source, out)
    if tables:
        judge(source, out)


def judge(source: shared.Source, out: Path) -> None:
    """Judge pictures, and write the tables and the grids of the pictures."""
    import grids
    import table3
    import tables

    say(source, "judging pictures, for the tables")
    with TemporaryDirectory() as folder:
        ds = tables.measure(source, pictures=Path(folder))
        entropylab.save(ds, out / tables.EVALUATION, overwrite=True)
        grids.draw_all(Path(folder), out)
    tables.draw(ds, out)
    table3.draw([], out)


def redraw(run: Path, out: Path) -> None:
    """Draw what was measured before; of a measurement that says no training size, figure 5 only."""
    files = {run / name: drawings for name, (_, _, drawings) in PARTS.items()} if run.is_dir() else {}
    found = {path: drawings for path, drawings in files.items() if path.is_file()}
    models = {name: run / f"two_models_{name}.nc" for name in two_models.MODELS}
    evaluation = run / "evaluation.nc"
    if run.is_dir() and not found and not evaluation.is_file():
        raise EntropyLabError(f"run must be a file, or a folder with {', '.join(PARTS)} in it. {run} has none of them.")
    for path, drawings in (found if run.is_dir() else {run: (figure5.draw, figure6.draw)}).items():
        ds = entropylab.open(path)
        for draw in drawings:
            try:
                draw(ds, out)
            except EntropyLabError as error:
                if draw is not figure6.draw:
                    raise
                print(f"figure 6 is left out: {error}", file=sys.stderr)
    if {run / name for name in OVERVIEW} <= set(found):
        overview.draw(*(entropylab.open(run / name) for name in OVERVIEW), out)
    if all(path.is_file() for path in models.values()):
        two_models.draw({name: entropylab.open(path) for name, path in models.items()}, out)
    if evaluation.is_file():
        import table3
        import tables

        tables.draw(entropylab.open(evaluation), out)
        table3.draw([], out)


def say(source: shared.Source, text: str) -> None:
    """Tell what is done now, where progress is shown."""
    if source.progress:
        print(text, file=sys.stderr, flush=True)


def command(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = shared.new_parser(__doc__)
    add: Any = parser.add_argument
    add("model", nargs="?", help="hub id, folder, or preset (sd21, ldm256, emoji-joint); the embedded one if left out")
    add("--run", type=Path, metavar="FILE.nc|DIR", help="draw what was measured before")
    add("--samples", type=int, metavar="N", help="at most this many images per size and rule; 4 if left out")
    add("--steps", type=int, metavar="N", help="denoising steps; 6 if left out, and 8 for the pictures")
    add("--tables", action="store_true", help="judge pictures too, for the tables; about half an hour")
    add("--quiet", action="store_true", help="show no progress")
    given = parser.parse_args(arguments)

    def work() -> None:
        source = shared.Source(given.model, given.samples, given.steps, not given.quiet)
        redraw(given.run, given.out) if given.run else regenerate(source, given.out, given.tables)

    shared.run(parser, given.out, work)


if __name__ == "__main__":
    command()
