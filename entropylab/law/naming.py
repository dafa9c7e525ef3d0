"""What was here moved to `entropylab.law.names`; what still imports it from here is being rewritten."""

from .names import layer_names, short

__all__ = ["layer_names", "short"]
