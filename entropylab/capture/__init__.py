"""See every attention call of some modules while they run. Knows torch modules, and no models."""

from .watching import AttentionCall, Interception, intercept, leave_all, looks_like_attention, watch_root

__all__ = ["AttentionCall", "Interception", "intercept", "leave_all", "looks_like_attention", "watch_root"]
