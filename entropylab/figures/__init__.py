"""The figures of the paper as files, drawn from measurements of a pipeline; ``entropylab figures`` writes them all."""

from .regenerate import regenerate

__all__ = ["regenerate"]
