"""See every attention call of some modules while they run. Knows torch modules, and no models."""

from .calls import AttentionCall, Inputs
from .hooks import intercept, looks_like_attention, watch_root
from .session import Observer, session

__all__ = ["AttentionCall", "Inputs", "Observer", "intercept", "looks_like_attention", "session", "watch_root"]
