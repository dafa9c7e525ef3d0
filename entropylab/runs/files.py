"""Small files that are there whole or not at all, also for other processes and after a crash."""

import os
import tempfile
import time
from pathlib import Path
from uuid import uuid4

from ..errors import EntropyLabError

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
        partial.unlink(missing_ok=True)


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
        partial.unlink(missing_ok=True)


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
        partial.unlink(missing_ok=True)
        raise cannot_write(path, error) from error
    return partial


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


def clock_of(folder: Path) -> float:
    """What time it is where a folder's files are [s]: the clock of a file server need not be ours."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b".")
            file.flush()
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def modified(path: Path) -> float:
    """When a file was changed last, by the clock of ``clock_of`` [s]; long ago if it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def cannot_write(path: Path, error: OSError) -> EntropyLabError:
    """An OSError in the words of this package."""
    return EntropyLabError(f"{path} can't be written: {error.strerror or error}.")
