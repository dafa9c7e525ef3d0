"""What is read from a command line and what is printed: sizes in a row, prompts, rules, tables, CSVs."""

import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from ..errors import EntropyLabError, EntropyLabWarning
from ..files import write_whole

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that steer a terminal, turn its text round, or can't be written to it; lines and tabs are none of them."""

LIKE_A_SIZE = re.compile(r"[-+]?[0-9.][0-9.,xX-]*")


def say(text: object, err: bool = False) -> None:
    """Print, whatever files hold: what would steer the terminal is shown as its code."""
    typer.echo(CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text)), err=err)


def repeat_sizes(arguments: Sequence[str]) -> list[str]:
    """``--sizes 32 64`` as ``--sizes 32 --sizes 64``: a parser's options take one value each."""
    repeated: list[str] = []
    option, value_due = None, False
    for place, argument in enumerate(arguments):
        if argument == "--":
            return [*repeated, *arguments[place:]]
        if option and not value_due and LIKE_A_SIZE.fullmatch(argument):
            repeated += [option, argument]
            continue
        if not value_due:
            name, equals, _ = argument.partition("=")
            option = name if name in ("--size", "--sizes") else None
            value_due = option is not None and not equals
        else:
            value_due = False
        repeated.append(argument)
    return repeated


def prompts_of(path: Path | None, column: str | None, samples: int | None, seed: int) -> dict[str, list[str]]:
    """The prompts of ``--prompts`` as an argument, if there are any; captions that were left out are reported."""
    from ..prompts import read_prompts

    if path is None:
        if column is not None:
            raise EntropyLabError(f"column needs --prompts FILE. Got {column!r} without one.")
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EntropyLabWarning)
        found = read_prompts(path, column=column, samples=samples, seed=seed)
    if found.report and is_first():
        say(found.report, err=True)
    return {"prompts": found}


def rule_of(text: str) -> Any:
    """A multiplier as a float, FILE.nc or FILE.nc:RULE as a rule of the calibration in that file, or the text as it is.

    Raises:
        EntropyLabError: there is no such file or rule, or it holds no calibration.
    """
    from ..calibration import Calibration
    from ..scaling import NEEDS_CALIBRATION

    with suppress(ValueError):
        return float(text)
    if text.lower().endswith((".nc", ".nc4")):
        return Calibration.open(text).calibrated
    path, _, name = text.rpartition(":")
    if not path:
        return text
    if name not in NEEDS_CALIBRATION:
        raise EntropyLabError(f"scaling: rules of a calibration are {', '.join(NEEDS_CALIBRATION)}. Got {text!r}.")
    return getattr(Calibration.open(path), name)


def is_first() -> bool:
    """Whether this is the only process, or the first of those launched together."""
    from ..runs.processes import by_environment

    return by_environment().is_main


def as_table(lines: Sequence[tuple[str, ...]]) -> str:
    """Lines of words as columns of text."""
    widths = [max(len(word) for word in column) for column in zip(*lines, strict=True)]
    padded = ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(line.rstrip() for line in padded)


def write_csv(table: Any, out: Path, form: str) -> None:
    """Write a pandas frame, its numbers in this form, and say so."""
    write_whole(out, table.to_csv(index=False, float_format=form, lineterminator="\n").encode())
    say(f"wrote {out}")
