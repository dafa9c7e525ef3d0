"""Small files that are there whole or not at all, also for other processes and after a crash."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from .errors import EntropyLabError, one_line

PARTIAL = ".partial"
"""End of the names of files that are being written."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, or the file that a link leads to; whoever looks sees the old content or the new one."""
    path = real_file(path)
    with written(path, content) as partial:
        partial.replace(path)
        flush_folder(path.parent)


def create_whole(path: Path, content: bytes) -> bool:
    """Write a file that is not there yet; False if there is one, also if somebody makes it at the same moment."""
    with written(path, content) as partial:
        try:
            link(partial, path)
        except FileExistsError:
            return False
        flush_folder(path.parent)
        return True


def link(partial: Path, path: Path) -> None:
    """Give a file its name, unless that is taken."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: two that make it at the same moment may both succeed
        if path.exists():
            raise FileExistsError(str(path)) from None
        partial.replace(path)


@contextmanager
def written(path: Path, content: bytes) -> Iterator[Path]:
    """The content in a file of another name beside ``path``, on the disk; removed at the end if it is still there."""
    partial = path.with_name(f".{uuid4().hex}{PARTIAL}")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield partial
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):  # it must not hide what went wrong
            partial.unlink()


def flush_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk, where folders can be flushed."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse, and write names at once
        pass
    finally:
        os.close(handle)


def cannot_write(path: Path, error: OSError) -> EntropyLabError:
    """An OSError in the words of this package."""
    return EntropyLabError(f"{path} can't be written: {one_line(error)}.")


def real_file(path: Path) -> Path:
    """``path``, or where it leads if it is a link, so that a file put there does not take the link's place.

    Raises:
        EntropyLabError: a device, a pipe, a folder or another thing that a file must not replace.
    """
    try:
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        if os.path.lexists(target) and not target.is_file():
            what = "the folder" if target.is_dir() else "a device, a pipe, or something else:"
            raise EntropyLabError(f"path must name a file. Got {what} {path}.")
    except OSError as error:
        raise cannot_write(path, error) from error
    return target


def check_writable(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """``path`` as a Path, or where it leads if it is a link, if a file can be written there.

    To be called before any long work starts.

    Raises:
        EntropyLabError: it names a folder, a device or the like, or a file that is there already (without
            ``overwrite``), or its folder does not exist or can't be written to.
    """
    target = real_file(as_path(path))
    try:
        if target.exists() and not overwrite:
            raise EntropyLabError(f"{target} exists already; overwrite=True (--overwrite) replaces it.")
        if not target.parent.is_dir():
            raise EntropyLabError(f"{target} can't be written: there is no folder {target.parent}.")
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise cannot_write(target, error) from error
    return target


def as_path(path: Any, name: str = "path", what: str = "file") -> Path:
    """``path`` as a Path, if it can be one.

    Raises:
        EntropyLabError: no text, none at all, or one that no system takes for a name. ``name`` is the argument's.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text:
        raise EntropyLabError(f"{name} must be the name of a {what}. Got {path!r}.")
    try:
        whole = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        whole = False
    if not whole:
        raise EntropyLabError(f"{name} must be a name without NUL and without halves of characters. Got {text!r}.")
    return Path(path)


def is_plain_text(text: str) -> bool:
    """Whether netCDF, and UTF-8 that ends at a NUL, can hold a text: no NUL, and no half of a character."""
    return re.search("[\x00\ud800-\udfff]", text) is None


def make_folder(out: str | os.PathLike[str], name: str = "out") -> Path:
    """A folder to write to, made if need be; to be called before any long work starts.

    Raises:
        EntropyLabError: it can't be made, or not be written to.
    """
    folder = as_path(out, name, "folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise EntropyLabError(
            f"{name} must be a folder that can be written to. {folder}: {one_line(error)}."
        ) from error
    return folder
