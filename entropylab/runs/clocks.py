"""What time it is where the files of a run are."""

import os
import tempfile
import time
from pathlib import Path


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
