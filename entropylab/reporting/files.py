"""The files of a report: checked before the work, and written aside before they take their places."""

import os
import tempfile
from collections.abc import Mapping
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
        if not overwrite:
            raise EntropyLabError(f"{folder} exists already; overwrite=True (--overwrite) replaces it.")
        is_folder = folder.is_dir() and not folder.is_symlink()
        other = [entry.name for entry in folder.iterdir() if entry.suffix != ".png"] if is_folder else ["no folder"]
        if other:
            raise EntropyLabError(f"{folder} must be a folder of figures alone, to be replaced. Got {min(other)}.")
    return html, text, folder


def write(paths: tuple[Path, Path, Path], html: str, text: str, figures: Mapping[str, bytes]) -> list[Path]:
    """Write everything beside its place, and move it there when all of it is on the disk; the files written.

    Raises:
        EntropyLabError: a file that could not be written; then nothing was replaced.
    """
    page, markdown, folder = paths
    try:
        with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=page.parent) as name:
            workshop = Path(name)
            (workshop / "html").write_text(html, encoding="utf-8", newline="\n")
            (workshop / "md").write_text(text, encoding="utf-8", newline="\n")
            (workshop / "figures").mkdir()
            for figure, content in figures.items():
                (workshop / "figures" / f"{figure}.png").write_bytes(content)
            if folder.exists():
                folder.rename(workshop / "old figures")
            for fresh, target in zip(("figures", "md", "html"), (folder, markdown, page), strict=True):
                (workshop / fresh).replace(target)
    except OSError as error:
        raise EntropyLabError(f"{page} could not be written: {one_line(error)}.") from error
    return [page, markdown, *(folder / f"{figure}.png" for figure in figures)]
