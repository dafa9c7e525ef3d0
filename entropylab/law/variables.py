"""What was here moved to `entropylab.law.names`; what still imports it from here is being rewritten."""

from .names import FLAGS, RESIDUALS

__all__ = ["FLAGS", "RESIDUALS"]
