"""Commands that read what was measured: ``entropylab fit``, ``check``, ``compare``, ``report``."""

from pathlib import Path
from typing import Annotated, Any

import typer

import entropylab

from ..errors import EntropyLabError
from ..files import check_writable
from . import options as opt
from .application import app
from .words import say, write_csv

TOLERANCE = 0.1
"""What the law may be off by [nats], as in `entropylab.law.theory`, whose file takes long to import."""


def opened(path: Path) -> Any:
    """The measurement in a file or run.

    Raises:
        EntropyLabError: no such file, or one that holds something else.
    """
    from ..law.averages import check as check_measured

    ds = entropylab.open(path)
    try:
        return check_measured(ds)
    except EntropyLabError as error:
        raise EntropyLabError(f"{path} holds no measurement. {error}") from None


@app.command(
    short_help="Fit the law to measured entropy and print it.",
    help="Fit the law H = slope * log N + intercept to measured entropy and print slope, intercept [nats], their "
    "standard errors and R^2. A straight line proves little (uniform attention has slope 1 as well), so the deficit "
    "log N - H [nats], which should not depend on N, and the measured sigma^2/2 that it should equal stand beside it.",
    epilog="\b\nExamples:\n  entropylab fit entropy.nc\n  entropylab fit entropy.nc --by layer",
)
def fit(
    run: opt.Run,
    by: opt.By = None,
    kind: opt.Kind = None,
    scaling: opt.Scaling = None,
) -> None:
    """``entropylab fit``."""
    say(entropylab.fit(opened(run), by=by, kind=kind, scaling=scaling).summary())


@app.command(
    short_help="Put the law to the test, with nothing fitted.",
    help="Compare measured entropy with log N - sigma^2/2 from measured sigma^2, with nothing fitted, layer by "
    "layer in nats: what the law is off by, what skewness and kurtosis explain of it, Gaussian rows, how near freezing "
    "the layers are, and from which N on the law holds.",
    epilog="\b\nExamples:\n  entropylab check entropy.nc\n  entropylab check entropy.nc --by layer,head "
    "--out heads.csv\n  entropylab check entropy.nc --tolerance 0.05",
)
def check(
    run: opt.Run,
    by: opt.By = None,
    kind: opt.Kind = None,
    scaling: opt.Scaling = None,
    tolerance: opt.Tolerance = TOLERANCE,
    out: opt.Table = None,
    overwrite: opt.Overwrite = False,
) -> None:
    """``entropylab check``."""
    if out is not None:
        check_writable(out, overwrite)
    found = entropylab.check(opened(run), kind=kind, scaling=scaling)
    table = found.to_frame() if by is None else found.grouped(by)
    small = found.smallest(tolerance).to_string(index=False, float_format="{:.4g}".format)
    parts = [found.summary()]
    if by is not None:
        parts.append(table.to_string(index=False, float_format="{:.4g}".format))
    say("\n\n".join([*parts, f"smallest N, the law within {tolerance:g} nats:\n{small}"]))
    if out is not None:
        write_csv(table, out, "%.6f")


@app.command(
    short_help="Say what another model, rule or size changes, layer by layer.",
    help="Compare the entropy [nats] of two measurements layer by layer, OTHER less RUN, paired by prompt, seed, layer "
    "and head: LoRA against base, float8 against bfloat16; two rules or sizes, which may be of the same file. Errors "
    "are those of the mean over pairs of samples; p is corrected for the number of layers (Holm).",
    epilog="\b\nExamples:\n  entropylab compare base.nc lora.nc\n"
    "  entropylab compare both.nc both.nc --scaling original --other-scaling sqrt_log --size 128 --out layers.csv",
)
def compare(
    ctx: typer.Context,
    run: opt.Run,
    other: opt.Other,
    kind: opt.Kind = None,
    scaling: opt.Scaling = None,
    other_scaling: opt.OtherScaling = None,
    size: opt.OneSize = None,
    other_size: opt.OtherSize = None,
    out: opt.Table = None,
    overwrite: opt.Overwrite = False,
) -> None:
    """``entropylab compare``."""
    if out is not None:
        check_writable(out, overwrite)
    given = opt.handed_on(ctx, "run", "other", "out", "overwrite")
    found = entropylab.compare(opened(run), opened(other), **given)
    say(found.summary())
    if out is not None:
        write_csv(found.to_frame(), out, "%.6g")


@app.command(
    short_help="Write a report of one or several runs.",
    help="Write one HTML file with tables, figures and a plain-language reading of each: what was measured, the "
    "fit (slope, errors, the test of slope = 1), the deficit log N - H against N and against sigma^2/2 [nats], the "
    "checks of the law, drift and what the rules remove, heads, steps, the phase picture, and what can't be told. "
    "It needs no other file and no network. Markdown is written beside it, its figures in a folder. Several runs "
    "stand side by side.",
    epilog="\b\nExamples:\n  entropylab report entropy.nc\n  entropylab report unet.nc dit.nc --name U-Net "
    "--name DiT --out models.html",
)
def report(
    runs: opt.Runs,
    out: opt.Page = Path("report.html"),
    name: Annotated[
        list[str] | None, opt.option("NAME", "What to call a run, once for each; its model if left out.")
    ] = None,
    tolerance: opt.Tolerance = TOLERANCE,
    overwrite: opt.Overwrite = False,
) -> None:
    """``entropylab report``."""
    from ..reporting.files import targets

    targets(out, overwrite)
    datasets = [opened(run) for run in runs]
    html, text, *_ = entropylab.report(datasets, out, names=name or None, tolerance=tolerance, overwrite=overwrite)
    say(f"wrote {html} and {text}")
