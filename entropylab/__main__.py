"""``python -m entropylab``: the command line."""

from .cli import app

app(prog_name="entropylab")
