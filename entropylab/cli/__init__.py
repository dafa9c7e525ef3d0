"""The command line. Importing it is fast: a command imports what it needs when it runs."""

from .commands import app
from .words import number, parse_sizes, repeat_sizes, split

__all__ = ["app", "number", "parse_sizes", "repeat_sizes", "split"]
