"""The rules for the softmax scale: what each multiplies it by, from N and T, and how a caller names one."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import pipelines
from ..errors import EntropyLabError
from ..sizes import Size, as_pair

Rule = Callable[..., float]
"""A function (N, T) -> multiplier; one that has a parameter ``timestep`` is also told the time, in every step."""


def original(tokens: int, train_tokens: int) -> float:
    """The scale the model was trained with: multiplier 1."""
    return 1.0


def sqrt_log(tokens: int, train_tokens: int) -> float:
    """The paper's: sqrt(log N / log T), so that the scale is sqrt(log_T(N) / d) (paper, Eq. 7)."""
    return math.sqrt(math.log(tokens) / math.log(train_tokens))


def proportional(tokens: int, train_tokens: int) -> float:
    """Proportional attention of Lumina and I-Max: sqrt(log N / log T), the same formula as ``sqrt_log``.

    In Lumina's code (Alpha-VLLM/Lumina-T2X, ``proportional_attn``) N are the picture's tokens; in that of I-Max
    (PRIS-CV/I-Max; arXiv:2410.07536) N counts all keys of joint attention and T = 64^2 + 512, as here.
    """
    return sqrt_log(tokens, train_tokens)


def scalable_softmax(tokens: int, train_tokens: int) -> float:
    """Scalable softmax: log N / log T, the s log N of K. M. Nakanishi (arXiv:2501.19399) with s fixed by 1 at N = T."""
    return math.log(tokens) / math.log(train_tokens)


def yarn(tokens: int, train_tokens: int) -> float:
    """YaRN's temperature (Peng et al., arXiv:2309.00071): (0.1 ln s + 1)^2 with s = N / T, and 1 below T.

    The square is there because YaRN multiplies queries and keys. s is the ratio of context lengths; programs for
    pictures that take it along each side apart, as DyPE's (arXiv:2510.20766), have sqrt(N / T) in its place.
    """
    return (0.1 * math.log(max(1.0, tokens / train_tokens)) + 1) ** 2


LOGARITHMIC = (sqrt_log, proportional, scalable_softmax)
"""Rules that divide by log T, and that are 0 for N = 1."""


class LayerRule(ABC):
    """A rule that knows the layers: its multipliers differ between them.

    Attributes:
        kinds: kinds of layers that it is for, unless the caller names others; None for the usual ones.
    """

    kinds: tuple[str, ...] | None = None

    @abstractmethod
    def check(self, pipe: Any) -> None:
        """Raise an EntropyLabError if the rule is not for this pipeline; before any sampling."""

    @abstractmethod
    def factor(self, layer: str, tokens: int, train_tokens: int, growth: float = 1.0) -> float | Tensor:
        """The multiplier of one layer, or one per head (heads,); the picture's area is ``growth`` times T's."""


NEEDS_CALIBRATION = ("invariant", "calibrated", "predicted")


@dataclass(frozen=True)
class NamedRule:
    """A rule and the name that results carry.

    Attributes:
        name: the name.
        function: the rule.
        needs_sizes: whether it asks for N and T.
        sees_time: whether it asks for the timestep too, by its signature.
    """

    name: str
    function: Rule | LayerRule
    needs_sizes: bool = True
    sees_time: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sees_time", sees_time(self.function))

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


def sees_time(rule: Any) -> bool:
    """Whether a rule has a parameter ``timestep``."""
    try:
        return not isinstance(rule, LayerRule) and "timestep" in inspect.signature(rule).parameters
    except (TypeError, ValueError):  # functions of C may have no signature
        return False


def named_rule(rule: Any) -> NamedRule:
    """A rule given by name, as a number, or as a callable (N, T) -> multiplier.

    Raises:
        EntropyLabError: not one of these, or a number that is not finite and positive.
    """
    if isinstance(rule, NamedRule):
        return rule
    if isinstance(rule, str):
        if rule in NEEDS_CALIBRATION:
            raise EntropyLabError(
                f"scaling {rule!r} needs a calibration: calibration = entropylab.calibrate(pipe, sizes), then pass "
                f"calibration.{rule} instead of the name; on the command line FILE.nc:{rule}, with the file that "
                "`entropylab calibrate` wrote."
            )
        if rule not in RULES:
            raise EntropyLabError(
                f"scaling must be one of {', '.join(RULES)}, a number or a callable (N, T) -> multiplier. Got {rule!r}."
            )
        check_rule(RULES[rule], rule)
        return NamedRule(rule, RULES[rule])
    if isinstance(rule, int | float) and not isinstance(rule, bool):
        check_multiplier(rule, "scaling")
        return NamedRule(f"{rule:g}", lambda tokens, train_tokens: float(rule), needs_sizes=False)
    if callable(rule):
        name = getattr(rule, "__name__", type(rule).__name__)
        if RULES.get(name, rule) is not rule:
            raise EntropyLabError(
                f"scaling: a function must have a name of its own, for results carry it. {name!r} is another rule's."
            )
        check_rule(rule, name)
        return NamedRule(name, rule)
    raise EntropyLabError(
        f"scaling must be one of {', '.join(RULES)}, a number or a callable (N, T) -> multiplier. "
        f"Got {type(rule).__name__}."
    )


PROBED = ((256, 256), (1024, 256), (64, 256))
"""N and T with which a rule is tried before any sampling."""


def check_rule(rule: Any, name: str) -> None:
    """Raise an EntropyLabError if a function can't be called as rule(N, T), or never gives a multiplier.

    A rule that sees the time is called as rule(N, T, timestep=).
    """
    more = {"timestep": torch.tensor(500.0)} if sees_time(rule) else {}
    try:
        inspect.signature(rule).bind(*PROBED[0], **more)
    except TypeError as error:
        raise EntropyLabError(
            f"scaling must be a callable (N, T) -> multiplier. Got {name!r}, which can't be called with two numbers: "
            f"{error}."
        ) from error
    except ValueError:  # functions of C may have no signature
        pass
    problem = None
    for tokens, train_tokens in PROBED:
        try:
            check_multiplier(rule(tokens, train_tokens, **more), f"rule {name!r}")
            return
        except Exception as error:  # a rule may refuse what no layer has, but not everything
            problem = problem or error
    if isinstance(problem, EntropyLabError):
        raise problem
    raise EntropyLabError(
        f"scaling must be a callable (N, T) -> multiplier. Got {name!r}, which fails with N = {PROBED[0][0]}, "
        f"T = {PROBED[0][1]}: {type(problem).__name__}: {problem}"
    ) from problem


def check_multiplier(multiplier: Any, source: str) -> float | Tensor:
    """A multiplier as it came, if it is finite and positive: a number, or a tensor of one per head."""
    try:
        values = torch.as_tensor(multiplier, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
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
