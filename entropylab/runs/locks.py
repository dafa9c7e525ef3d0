"""Who measures what: the system's lock on a small file for each unit, which ends with the process that holds it.

Units are the same whoever measures them, and appear whole: where a file system knows no locks, two processes at work on
the same unit waste time and harm nothing.
"""

import errno
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..files import files, told

END = ".lock"
"""End of the names of the files."""


@dataclass
class Lock:
    """A unit in hand; a context, which gives it back at the end.

    Attributes:
        path: the file.
        file: the same, open and locked; None where there is something else of that name.
    """

    path: Path
    file: IO[bytes] | None

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the unit back."""
        if self.file is not None and not self.file.closed:
            with suppress(OSError):
                self.path.unlink()
            self.file.close()


@dataclass(frozen=True)
class Locks:
    """The locks of a run's units.

    Attributes:
        folder: where the files are.
    """

    folder: Path

    def take(self, name: str, wait: bool = False) -> Lock | None:
        """Take a unit, or None if somebody has it; with ``wait``, once nobody has.

        Raises:
            EntropyLabError: the folder can't be used.
        """
        path = self.folder / f"{name}{END}"
        while True:
            with told(path):
                try:
                    number = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
                except OSError as error:
                    if error.errno in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
                        return Lock(path, None)
                    raise
            file = os.fdopen(number, "r+b", buffering=0)
            try:
                if not locked(file, wait=False):
                    if not wait:
                        file.close()
                        return None
                    if file.read(200).decode(errors="replace") == me():  # nobody waits for himself
                        file.close()
                        return Lock(path, None)
                    locked(file, wait=True)
                if is_still_there(path, file):
                    with suppress(OSError):
                        file.seek(0)
                        file.truncate()
                        file.write(me().encode())
                    return Lock(path, file)
            except BaseException:
                file.close()
                raise
            file.close()  # who had it has removed it meanwhile

    def holders(self) -> dict[str, str]:
        """Unit -> host and process that has it in hand."""
        found = {}
        for name in sorted(files(self.folder, END)):
            with suppress(OSError), open(self.folder / f"{name}{END}", "r+b", buffering=0) as file:
                if not locked(file, wait=False):
                    found[name] = file.read(200).decode(errors="replace") or "somebody"
        return found


def me() -> str:
    """This host and process."""
    return f"{platform.node()} process {os.getpid()}"


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
