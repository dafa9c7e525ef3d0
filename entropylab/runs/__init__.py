"""Long runs: work cut into units that many processes share through a folder, so that nothing finished is ever lost."""

from .merging import merge, open_run
from .progress import Status, status

__all__ = ["Status", "merge", "open_run", "status"]
