"""What was here moved to `entropylab.law.theory`; what still imports it from here is being rewritten."""

from .theory import THRESHOLDS, TOLERANCE

__all__ = ["THRESHOLDS", "TOLERANCE"]
