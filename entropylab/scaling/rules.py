"""The rules for the softmax scale: what each multiplies it by, from N and T, and how a caller names one."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import pipelines
from ..errors import EntropyLabError, is_number
from ..sizes import Size, as_pair

Rule = Callable[..., float]
"""A function (N, T) -> multiplier; one that has a parameter ``timestep`` is also told the time, in every step."""


def original(tokens: int, train_tokens: int) -> float:
    """The scale the model was trained with: multiplier 1."""
    return 1.0


def scalable_softmax(tokens: int, train_tokens: int) -> float:
    """Scalable softmax: log N / log T, the s log N of K. M. Nakanishi (arXiv:2501.19399) with s fixed by 1 at N = T."""
    if tokens == train_tokens:
        return 1.0
    if min(tokens, train_tokens) < 2:
        raise EntropyLabError("it needs at least 2 tokens, now and at the training size")
    return math.log(tokens) / math.log(train_tokens)


def sqrt_log(tokens: int, train_tokens: int) -> float:
    """The paper's: sqrt(log N / log T), so that the scale is sqrt(log_T(N) / d) (paper, Eq. 7)."""
    return math.sqrt(scalable_softmax(tokens, train_tokens))


def proportional(tokens: int, train_tokens: int) -> float:
    """Proportional attention of Lumina and I-Max: sqrt(log N / log T), the same formula as ``sqrt_log``.

    In Lumina's code (Alpha-VLLM/Lumina-T2X, ``proportional_attn``) N are the picture's tokens; in that of I-Max
    (PRIS-CV/I-Max; arXiv:2410.07536) N counts all keys of joint attention and T = 64^2 + 512, as here.
    """
    return sqrt_log(tokens, train_tokens)


def yarn(tokens: int, train_tokens: int) -> float:
    """YaRN's temperature (Peng et al., arXiv:2309.00071): (0.1 ln s + 1)^2 with s = N / T, and 1 below T.

    The square is there because YaRN multiplies queries and keys. s is the ratio of context lengths; programs for
    pictures that take it along each side apart, as DyPE's (arXiv:2510.20766), have sqrt(N / T) in its place.
    """
    return (0.1 * math.log(max(1.0, tokens / train_tokens)) + 1) ** 2


class LayerRule(ABC):
    """A rule that knows the layers: its multipliers differ between them."""

    kinds: tuple[str, ...] | None = None
    """Kinds of layers that it is for, unless the caller names others; None for the usual ones."""
    train_size: Size | None = None
    """The training size that it was made at [pixels]; None for that of whatever pipeline it is used on."""

    @abstractmethod
    def check(self, pipe: Any) -> None:
        """Raise an EntropyLabError if the rule is not for this pipeline; before any sampling."""

    @abstractmethod
    def factor(self, layer: str, tokens: int, train_tokens: int, growth: float = 1.0) -> float | Tensor:
        """The multiplier of one layer, or one per head (heads,); the picture's area is ``growth`` times T's."""


NEEDS_CALIBRATION = ("invariant", "calibrated", "predicted")


@dataclass(frozen=True)
class NamedRule:
    """A rule, the name that results carry, and whether it asks for N and T."""

    name: str
    function: Rule | LayerRule
    needs_sizes: bool = True

    @cached_property
    def sees_time(self) -> bool:
        """Whether it asks for the timestep too, by its signature."""
        try:
            return callable(self.function) and "timestep" in inspect.signature(self.function).parameters
        except (TypeError, ValueError):  # functions of C may have no signature
            return False

    def __str__(self) -> str:
        return self.name

    @property
    def is_original(self) -> bool:
        """Whether the rule changes nothing anywhere."""
        return self.function is original


RULES: dict[str, Rule] = {
    "original": original,
    "sqrt_log": sqrt_log,
    "scalable_softmax": scalable_softmax,
    "yarn": yarn,
    "proportional": proportional,
}
"""Rules by name. Add your own: ``RULES["mine"] = lambda N, T: ...``."""


def named_rule(rule: Any) -> NamedRule:
    """A rule given by name, as a number, or as a callable (N, T) -> multiplier.

    Raises:
        EntropyLabError: not one of these; a number that is not finite and positive; a function that always fails.
    """
    if isinstance(rule, NamedRule):
        return rule
    if isinstance(rule, str) and rule in NEEDS_CALIBRATION:
        raise EntropyLabError(
            f"scaling {rule!r} needs a calibration: calibration = entropylab.calibrate(pipe, sizes), then pass "
            f"calibration.{rule} instead of the name; on the command line FILE.nc:{rule}, with the file that "
            "`entropylab calibrate` wrote."
        )
    if is_number(rule):
        check_multiplier(rule, "scaling")
        return NamedRule(f"{rule:g}", lambda tokens, train_tokens: float(rule), needs_sizes=False)
    name, function = getattr(rule, "__name__", type(rule).__name__), rule
    if isinstance(rule, str):
        name, function = rule, RULES.get(rule)
    if not callable(function):
        came = repr(rule) if isinstance(rule, str) else type(rule).__name__  # which may hold a Dataset
        raise EntropyLabError(
            f"scaling must be one of {', '.join(RULES)}, a number or a callable (N, T) -> multiplier. Got {came}."
        )
    if RULES.get(name, function) is not function:
        raise EntropyLabError(
            f"scaling: a function must have a name of its own, for results carry it. {name!r} is another rule's."
        )
    found = NamedRule(name, function)
    check_rule(found, function)
    return found


PROBED = ((256, 256), (1024, 256), (64, 256))
"""N and T with which a rule is tried before any sampling."""


def check_rule(rule: NamedRule, function: Rule) -> None:
    """Raise an EntropyLabError if a function never gives a multiplier; it may refuse what no layer has."""
    more = {"timestep": torch.tensor(500.0)} if rule.sees_time else {}
    problems: list[Exception] = []
    for tokens, train_tokens in PROBED:
        try:
            check_multiplier(function(tokens, train_tokens, **more), f"rule {rule.name!r}")
            return
        except Exception as error:
            problems.append(error)
    if isinstance(problems[0], EntropyLabError):
        raise problems[0]
    raise EntropyLabError(
        f"scaling must be a callable (N, T) -> multiplier. Got {rule.name!r}, which fails with N = {PROBED[0][0]}, "
        f"T = {PROBED[0][1]}: {type(problems[0]).__name__}: {problems[0]}"
    ) from problems[0]


def check_multiplier(multiplier: Any, source: str) -> float | Tensor:
    """A multiplier as it came, if it is finite and positive: a number, or a tensor of one per head."""
    try:
        values = torch.as_tensor(multiplier, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        values = torch.tensor(torch.nan)
    if values.ndim > 1 or not bool(((values > 0) & values.isfinite()).all()):
        raise EntropyLabError(f"{source} must give a finite multiplier > 0 (or one per head). Got {multiplier}.")
    return values.float().cpu() if values.ndim else float(values)


def known_train_size(pipe: Any, train_size: Any) -> Size | None:
    """The training size (height, width) [pixels]: as given, or from the pipeline's config, or None."""
    return as_pair(train_size) if train_size is not None else pipelines.train_size(pipe)


def check_train_size(pipe: Any, train_size: Any) -> Size:
    """The training size (height, width) [pixels]; an EntropyLabError if the pipeline does not say and none is given."""
    found = known_train_size(pipe, train_size)
    if found is None:
        raise EntropyLabError(
            f"{type(pipe).__name__} does not say what size it was trained at: pass train_size=, "
            "an int or a (height, width) pair [pixels]."
        )
    return found


def train_size_of(rule: NamedRule, pipe: Any, train_size: Any) -> Size:
    """The training size (height, width) [pixels] that a rule goes by: its own, or as `check_train_size`."""
    own = rule.function.train_size if isinstance(rule.function, LayerRule) else None
    if own is None:
        return check_train_size(pipe, train_size)
    if train_size is not None and as_pair(train_size) != own:
        raise EntropyLabError(f"train_size of rule {rule.name!r} is {own}, of its calibration. Got {train_size!r}.")
    return own
