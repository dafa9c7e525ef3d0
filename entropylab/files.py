"""Small files that are there whole or not at all, also after a crash; and folders in which anything may be found."""

import os
import re
import signal
import tempfile
import threading
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
    partial = path.with_name(f".{uuid4().hex}{PARTIAL}")
    try:
        with told(path, "written"):
            with open(partial, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            flush_folder(path.parent)
    finally:
        with suppress(OSError):  # it must not hide what went wrong
            partial.unlink()


@contextmanager
def interrupted_later() -> Iterator[None]:
    """Let Ctrl-C take effect when the context ends: Python drops it in what libraries do when objects are freed."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


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


def real_file(path: Path) -> Path:
    """``path``, or where it leads if it is a link, so that a file put there does not take the link's place."""
    with told(path, "written"):
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        if os.path.lexists(target) and not target.is_file():
            what = "the folder" if target.is_dir() else "a device, a pipe, or something else:"
            raise EntropyLabError(f"path must name a file. Got {what} {path}.")
    return target


def check_writable(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """``path``, or where it leads if it is a link, if a file can be written there; asked before long work starts."""
    target = real_file(as_path(path))
    with told(target, "written"):
        if target.exists() and not overwrite:
            raise EntropyLabError(f"{target} exists already; overwrite=True (--overwrite) replaces it.")
        if not target.parent.is_dir():
            raise EntropyLabError(f"{target} can't be written: there is no folder {target.parent}.")
        tempfile.TemporaryFile(dir=target.parent).close()
    return target


def as_path(path: Any, name: str = "path", what: str = "file") -> Path:
    """``path``, the argument ``name``, as a Path if it is a name that a system takes."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text.strip():
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


def folder_for(out: str | os.PathLike[str], name: str = "out", made: bool = False) -> Path:
    """A folder that can be written to, or ``made``; asked for before long work starts, which may fail and need none."""
    folder = as_path(out, name, "folder")
    try:
        if made:
            folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=next(place for place in (folder, *folder.parents) if is_entry(place))).close()
    except OSError as error:
        said = f"{name} must be a folder that can be written to. {folder}: {one_line(error)}."
        raise EntropyLabError(said) from error
    return folder


@contextmanager
def told(path: Path, what: str = "used") -> Iterator[None]:
    """Let what the system refuses be an EntropyLabError that names the file or folder."""
    try:
        yield
    except OSError as error:
        raise EntropyLabError(f"{path} can't be {what}: {one_line(error)}.") from error


def listed(folder: Path) -> list[os.DirEntry[str]]:
    """Everything in a folder; nothing if there is no folder."""
    with told(folder):
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except FileNotFoundError:
            return []


def files(folder: Path, end: str) -> set[str]:
    """Names, without their ``end``, of the files in a folder that are whole; links to files are files."""
    entries = [entry for entry in listed(folder) if entry.name.endswith(end) and not entry.name.startswith(".")]
    with told(folder):
        whole = [entry for entry in entries if (os.path.isfile(entry) if entry.is_symlink() else entry.is_file())]
    return {entry.name.removesuffix(end) for entry in whole}


def is_entry(path: Path) -> bool:
    """Whether there is anything of a name, if only a link to nowhere; the OSError of a system that can't tell."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True
