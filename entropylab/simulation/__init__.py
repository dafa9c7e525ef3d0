"""Synthetic attention with known answers, and a Dataset of it for the fit, the checks and the figures."""

from .attention import Simulated, simulate
from .dataset import simulate_dataset

__all__ = ["Simulated", "simulate", "simulate_dataset"]
