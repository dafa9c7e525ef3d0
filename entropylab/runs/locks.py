"""Who measures what: the system's lock on a small file for each unit, which ends with the process that holds it.

Units are the same whoever measures them, and appear whole: where a file system knows no locks, two processes at work on
the same unit waste time and harm nothing.
"""

import os
import platform
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..files import files, told

END = ".lock"
"""End of the names of the files."""


@dataclass(frozen=True)
class Locks:
    """The locks of a run's units, files in a folder."""

    folder: Path

    def take(self, name: str, wait: bool = False) -> ExitStack | None:
        """Take a unit, which is given back when what is returned closes; None if somebody has it.

        With ``wait``, it is taken once nobody has it.
        """
        path = self.folder / f"{name}{END}"
        while True:
            with told(path), ExitStack() as held:
                file = held.enter_context(open(path, "a+b", buffering=0))
                if not locked(file, wait=False):
                    if not wait:
                        return None
                    file.seek(0)
                    if file.read(200) == me():
                        return ExitStack()  # nobody waits for himself
                    locked(file, wait=True)
                if is_still_there(path, file):  # else who had it has removed it meanwhile
                    file.truncate(0)
                    file.write(me())
                    held.callback(remove, path)
                    return held.pop_all()

    def holders(self) -> dict[str, str]:
        """Unit -> host and process that has it in hand."""
        found = {}
        for name in sorted(files(self.folder, END)):
            with suppress(OSError), open(self.folder / f"{name}{END}", "r+b", buffering=0) as file:
                if not locked(file, wait=False):
                    found[name] = file.read(200).decode(errors="replace") or "somebody"
        return found


def me() -> bytes:
    """This host and process."""
    return f"{platform.node()} process {os.getpid()}".encode()


def remove(path: Path) -> None:
    """Remove a lock's file, if the folder is still there and open; without its lock it holds nobody back."""
    with suppress(OSError):
        path.unlink()


def is_still_there(path: Path, file: IO[bytes]) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def locked(file: IO[bytes], wait: bool) -> bool:
    """Lock an open file; False if somebody else has locked it. True as well where there are no such locks."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    return True
