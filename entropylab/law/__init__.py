"""The law of attention entropy, its fit and its checks. Knows Datasets, and no torch."""

from .averages import samples_of
from .fit import BOUNDED, CLUSTERED, ORDINARY, UNKNOWN, Fit, fit

__all__ = ["BOUNDED", "CLUSTERED", "ORDINARY", "UNKNOWN", "Fit", "fit", "samples_of"]
