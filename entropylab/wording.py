"""`counted` moved to `entropylab.errors`; what still imports it from here is being rewritten."""

from .errors import counted

__all__ = ["counted"]
