"""The law of attention entropy, its fit and its checks. Knows Datasets, and no torch."""

from .fitted import BOUNDED, Fit
from .fitting import BOOTSTRAPPED, CLUSTERED, ORDINARY, UNKNOWN, fit, samples_of

__all__ = ["BOOTSTRAPPED", "BOUNDED", "CLUSTERED", "ORDINARY", "UNKNOWN", "Fit", "fit", "samples_of"]
