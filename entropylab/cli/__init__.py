"""The command line. Importing it is fast: a command imports what it needs when it runs."""

from . import measuring, reading, judging, ratings, drawing, mapping, doctoring  # isort: skip - the help names them so
from .application import app

__all__ = ["app", "doctoring", "drawing", "judging", "mapping", "measuring", "ratings", "reading"]
