"""The scaling rules, and ``rescale``, which applies one while a pipeline samples."""

from .rescaling import Rescaling, at_work, folded_at_work, rescale, rescaled, rule_at_work
from .rules import (
    NEEDS_CALIBRATION,
    RULES,
    LayerRule,
    NamedRule,
    Rule,
    check_train_size,
    known_train_size,
    named_rule,
    train_size_of,
)

__all__ = [
    "NEEDS_CALIBRATION",
    "RULES",
    "LayerRule",
    "NamedRule",
    "Rescaling",
    "Rule",
    "at_work",
    "check_train_size",
    "folded_at_work",
    "known_train_size",
    "named_rule",
    "rescale",
    "rescaled",
    "rule_at_work",
    "train_size_of",
]
