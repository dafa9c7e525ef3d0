"""The command line. Importing it is fast: a command imports what it needs when it runs."""

from ..sizes import parse_sizes, split
from .commands import app
from .words import number, repeat_sizes

__all__ = ["app", "number", "parse_sizes", "repeat_sizes", "split"]
