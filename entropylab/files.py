"""Small files that are there whole or not at all, also for other processes and after a crash."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from .errors import EntropyLabError, one_line

PARTIAL = ".partial"
"""End of the names of files that are being written."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file; whoever looks sees the old content or the new one."""
    partial = written(path, content)
    try:
        partial.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        discard(partial)


def create_whole(path: Path, content: bytes) -> bool:
    """Write a file that is not there yet; False if there is one, also if somebody makes it at the same moment."""
    partial = written(path, content)
    try:
        link(partial, path)
        flush_folder(path.parent)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        discard(partial)


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


def written(path: Path, content: bytes) -> Path:
    """The content in a file of another name beside ``path``, on the disk."""
    partial = path.with_name(f".{uuid4().hex}{PARTIAL}")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        discard(partial)
        raise cannot_write(path, error) from error
    return partial


def discard(partial: Path) -> None:
    """Remove what was half written, if that can be done; why it is half written is what is to be told."""
    with suppress(OSError):
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


def check_writable(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """``path`` as a Path, if a file can be written there; to be called before any long work starts.

    Raises:
        EntropyLabError: it names a folder or a file that is there already (without ``overwrite``), or its folder does
            not exist or can't be written to.
    """
    target = as_path(path)
    try:
        if target.is_dir():
            raise EntropyLabError(f"path must name a file. Got the folder {target}.")
        if target.exists() and not overwrite:
            raise EntropyLabError(f"{target} exists already; overwrite=True (--overwrite) replaces it.")
        if not target.parent.is_dir():
            raise EntropyLabError(f"{target} can't be written: there is no folder {target.parent}.")
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise cannot_write(target, error) from error
    return target


def as_path(path: Any) -> Path:
    """``path`` as a Path, if it is one."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise EntropyLabError(f"path must be the name of a file. Got {path!r}.")
    return Path(path)


def flush(path: Path) -> None:
    """Wait until a file's content is on the disk, so that it can't be lost after its name is known."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def make_folder(out: str | os.PathLike[str]) -> Path:
    """A folder to write to, made if need be; to be called before any long work starts.

    Raises:
        EntropyLabError: it can't be made, or not be written to.
    """
    folder = as_path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise EntropyLabError(f"out must be a folder that can be written to. {folder}: {one_line(error)}.") from error
    return folder
