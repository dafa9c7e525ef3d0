"""The command line. Importing it is fast: a command imports what it needs when it runs."""

from . import measuring, reading, judging, drawing  # isort: skip - the help names them so
from .application import app

__all__ = ["app", "drawing", "judging", "measuring", "reading"]
