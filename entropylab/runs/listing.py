"""What stands in the folders of a run, whatever that is: foreign files, links to nowhere, folders nobody may read."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import EntropyLabError, one_line
from ..files import PARTIAL

OWN = re.compile(rf"\d+x\d+_\d+-[\w.-]*_\d+-\d+\.(nc|nc\.damaged|lock)|\.[0-9a-f]{{32}}{PARTIAL}")
"""Names of the files that a run makes in its folders of units and locks."""


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Let what the system refuses be an EntropyLabError that names the file or folder."""
    try:
        yield
    except OSError as error:
        raise EntropyLabError(f"{path} can't be used: {one_line(error)}.") from error


def listed(folder: Path) -> list[os.DirEntry[str]]:
    """Everything in a folder; nothing if there is no folder.

    Raises:
        EntropyLabError: it can't be read, or is none.
    """
    with told(folder):
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except FileNotFoundError:
            return []


def files(folder: Path, end: str) -> set[str]:
    """Names, without their ``end``, of the files in a folder that are whole."""
    with told(folder):
        return {
            entry.name[: -len(end)]
            for entry in listed(folder)
            if entry.name.endswith(end)
            and not entry.name.startswith(".")
            and (entry.is_file(follow_symlinks=False) or (entry.is_symlink() and os.path.isfile(entry.path)))
        }


def is_there(path: Path) -> bool:
    """Whether there is anything of a name, if only a link to nowhere.

    Raises:
        EntropyLabError: its folder can't be read, or is none.
    """
    with told(path):
        try:
            path.lstat()
        except FileNotFoundError:
            return False
        return True


def read_file(path: Path) -> bytes:
    """The content of a file; nothing of what is there and is no file.

    Raises:
        OSError: there is nothing of that name, or it can't be read.
    """
    return b"" if is_there(path) and not path.is_file() else path.read_bytes()
