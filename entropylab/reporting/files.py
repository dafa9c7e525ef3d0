"""The files of a report: written whole, all of them or none."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import EntropyLabError, one_line
from ..files import as_path, check_writable, real_file

FOLDER = "_figures"
"""What is put to the report's name for the folder of its figures."""


def targets(path: str | os.PathLike[str], overwrite: bool) -> tuple[Path, Path, Path]:
    """The HTML file, the Markdown file and the folder of figures, if all of them can be written.

    Raises:
        EntropyLabError: a name that does not end in .html; a folder that is not there or can't be written to; something
            that is there already (without ``overwrite``); a folder of figures with other things in it.
    """
    html = real_file(as_path(path))
    if html.suffix.lower() not in (".html", ".htm"):
        raise EntropyLabError(f"path must be the name of a file that ends in .html. Got {str(path)!r}.")
    check_writable(html, overwrite)
    text, folder = check_writable(html.with_suffix(".md"), overwrite), html.with_name(f"{html.stem}{FOLDER}")
    if os.path.lexists(folder):
        check_folder(folder, overwrite)
    return html, text, folder


def check_folder(folder: Path, overwrite: bool) -> None:
    """That a folder can be replaced: it is one, and holds nothing but figures."""
    if not overwrite:
        raise EntropyLabError(f"{folder} exists already; overwrite=True (--overwrite) replaces it.")
    if folder.is_symlink() or not folder.is_dir():
        raise EntropyLabError(f"{folder} must be a folder of a report's figures, to be replaced. It is something else.")
    other = sorted(entry.name for entry in folder.iterdir() if entry.suffix != ".png" or not entry.is_file())
    if other:
        raise EntropyLabError(f"{folder} holds what is no figure of a report, and is not replaced: {other[0]}.")


def write(paths: tuple[Path, Path, Path], html: str, text: str, figures: Mapping[str, bytes]) -> list[Path]:
    """Write all files under other names first, then put them in their places; undo that if it fails.

    Returns:
        The HTML file, the Markdown file and the figures.

    Raises:
        EntropyLabError: a file that could not be written; then everything is as it was.
    """
    workshop = None
    try:
        workshop = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=paths[0].parent))
        fresh = [workshop / name for name in ("new.html", "new.md", "new_figures")]
        fresh[0].write_text(html, encoding="utf-8", newline="\n")
        fresh[1].write_text(text, encoding="utf-8", newline="\n")
        fresh[2].mkdir()
        for name, content in figures.items():
            (fresh[2] / f"{name}.png").write_bytes(content)
        place(fresh, paths, workshop)
    except OSError as error:
        raise EntropyLabError(f"{paths[0]} could not be written: {one_line(error)}.") from error
    finally:
        if workshop is not None:
            shutil.rmtree(workshop, ignore_errors=True)
    return [paths[0], paths[1], *(paths[2] / f"{name}.png" for name in figures)]


def place(fresh: list[Path], paths: tuple[Path, Path, Path], workshop: Path) -> None:
    """Put finished files in their places, what was there before aside; put it back if one of them can't be placed."""
    aside: list[tuple[Path, Path]] = []
    placed: list[tuple[Path, Path]] = []
    try:
        for number, (new, target) in enumerate(zip(fresh, paths, strict=True)):
            if target.exists():
                old = workshop / f"old{number}"
                target.rename(old)
                aside.append((old, target))
            new.rename(target)
            placed.append((target, new))
    except BaseException:
        for here, back in reversed([*aside, *placed]):
            with suppress(OSError):
                here.rename(back)
        raise
