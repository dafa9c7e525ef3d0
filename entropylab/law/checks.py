"""What was here moved to `entropylab.law.check`; what still imports it from here is being rewritten."""

from .check import Check, check

__all__ = ["Check", "check"]
