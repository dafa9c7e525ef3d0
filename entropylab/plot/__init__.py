"""Figures of the paper, drawn on Axes from measured Datasets. Every function returns its Axes and saves nothing."""

from .samples import samples
from .stabilization import stabilization
from .style import PAPER
from .sweep import sweep
from .tokens import deficit_vs_tokens, entropy_vs_tokens

__all__ = ["PAPER", "deficit_vs_tokens", "entropy_vs_tokens", "samples", "stabilization", "sweep"]
