"""Figures, drawn on Axes from measured Datasets. Every function returns its Axes and saves nothing.

Examples:
    >>> import matplotlib.pyplot as plt
    >>> with plt.rc_context(entropylab.plot.PAPER):
    ...     figure, ax = plt.subplots()
    ...     ax = entropylab.plot.entropy_vs_tokens(ds, ax)
    ...     figure.savefig("figure5.pdf")
"""

from .law import deficit_vs_sigma2, law_residual, logit_distribution, phase, residual_vs_cumulants
from .layers import by_layer, compare, entropy_vs_step, heads
from .maps import animate, entropy_map, entropy_maps
from .rules import stabilization, sweep
from .samples import samples
from .style import PAPER
from .tokens import deficit_vs_tokens, entropy_predicted, entropy_vs_tokens, predictions

__all__ = [
    "PAPER",
    "animate",
    "by_layer",
    "compare",
    "deficit_vs_sigma2",
    "deficit_vs_tokens",
    "entropy_map",
    "entropy_maps",
    "entropy_predicted",
    "entropy_vs_step",
    "entropy_vs_tokens",
    "heads",
    "law_residual",
    "logit_distribution",
    "phase",
    "predictions",
    "residual_vs_cumulants",
    "samples",
    "stabilization",
    "sweep",
]
