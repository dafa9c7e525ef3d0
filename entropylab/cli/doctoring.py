"""``entropylab doctor``: is it right on this machine?"""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..files import check_writable, write_whole
from . import options as opt
from .application import app
from .words import say


@app.command(
    short_help="Say whether entropylab is right on this machine.",
    help="In about a minute: versions and devices; which ways of computing row statistics can be used here and why the "
    "others can't, each against float64; and a pipeline sampled with and without being recorded: are the pictures the "
    "same, does anything wait for the GPU, what does it cost? Ends with status 1 if something is wrong.",
    epilog="\b\nExamples:\n  entropylab doctor\n  entropylab doctor sd21 --device cuda --out doctor.json",
)
def doctor(
    model: opt.Model = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    out: Annotated[
        Path | None,
        opt.path_option("FILE.json", "Write all of it there, to attach to a bug report; no names, no paths."),
    ] = None,
    overwrite: opt.Overwrite = False,
) -> None:
    """``entropylab doctor``."""
    from ..doctor import described, examine

    if out is not None:
        check_writable(out, overwrite)
    found = examine(model, device=device, dtype=dtype)
    say(described(found))
    if out is not None:
        write_whole(out, json.dumps(found, indent=1).encode())
        say(f"wrote {out}")
    if found["problems"]:
        raise typer.Exit(1)
