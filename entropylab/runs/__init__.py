"""Long runs: work cut into units that many processes share through a folder, so that nothing finished is ever lost."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .merging import merge, open_run
    from .overview import Status, status

_HOMES = {
    "Status": "overview",
    "merge": "merging",
    "open_run": "merging",
    "status": "overview",
}

__all__ = ["Status", "merge", "open_run", "status"]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: a folder can be checked before torch is loaded."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
