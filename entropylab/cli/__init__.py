"""The command line. Importing it is fast: a command imports what it needs when it runs."""

from . import measuring, reading, ratings, drawing, doctoring  # isort: skip - in this order the help names the commands
from .application import app

__all__ = ["app", "doctoring", "drawing", "measuring", "ratings", "reading"]
