"""``rescale``: change the softmax scale of self-attention while a pipeline samples."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .. import pipelines
from ..capture import AttentionCall, Inputs, Observer
from ..errors import EntropyLabError, EntropyLabWarning, names_of, one_line
from ..pipelines import KINDS
from ..pipelines.sight import Sight, observed
from ..sizes import Size
from .rules import LayerRule, NamedRule, check_multiplier, named_rule, train_size_of

USUAL_KINDS = ("self", "joint")
"""Kinds of layers whose keys grow with the image."""


class Rescaling:
    """A rule at work on one pipeline: the multiplier of every self-attention layer, worked out once per layer and N.

    A rule that sees the time is asked anew in every forward.
    """

    def __init__(self, pipe: Any, rule: NamedRule, train_size: Size | None, kinds: Sequence[str]) -> None:
        self.rule, self.train_size, self.kinds = rule, train_size, tuple(kinds)
        self.sight = Sight(pipe)
        self.ran = self.matched = False
        self.timestep: Any = None
        self.known: dict[tuple[str, int, Size | None], float | Tensor] = {}
        self.last: dict[str, float | Tensor] = {}
        self.folded: dict[str, float | Tensor] = {}

    def is_usual(self, train_size: Size | None) -> bool:
        """Whether it is what ``rescale(pipe, rule, train_size=train_size)`` does."""
        return self.train_size == train_size and self.kinds == USUAL_KINDS

    def on_forward(self, name: str, root: nn.Module, inputs: Inputs) -> None:
        """Remember the latent size that the denoiser works at, and the time for a rule that asks for it."""
        self.ran = True
        self.sight.meet(root, inputs)
        if self.rule.sees_time:
            self.known.clear()
            self.timestep = inputs.timestep

    def on_attention(self, call: AttentionCall) -> float | Tensor | None:
        """The multiplier for one attention call; tokens of text among themselves are left alone."""
        known = call.known.by.get(self)
        if known is None or known[0] != self.sight.latent:
            known = (self.sight.latent, self.factor_of(call))
            if not self.rule.sees_time:
                call.known.by[self] = known
        if known[1] is not None:
            self.last[call.layer] = known[1]
        return known[1]

    def factor_of(self, call: AttentionCall) -> float | Tensor | None:
        """The multiplier for a layer's calls like this one; None if these are left alone."""
        if pipelines.kind_of(call) not in self.kinds or pipelines.is_without_image(call):
            return None
        self.matched = True
        key = (call.layer, call.key.shape[-2], self.sight.latent)
        if key not in self.known:
            self.known[key] = self.multiplier(call)
        return self.known[key]

    def multipliers(self) -> dict[str, float]:
        """Layer path -> the factor last used there, mean over heads."""
        return {layer: float(torch.as_tensor(factor).mean()) for layer, factor in self.last.items()}

    def multiplier(self, call: AttentionCall) -> float | Tensor:
        """Ask the rule for a layer's N and T."""
        tokens, heads, what = call.key.shape[-2], call.query.shape[1], f"rule {self.rule.name!r}"
        trained = self.train_tokens(call, tokens)
        try:
            found = self.asked(call.layer, tokens, trained)
        except Exception as problem:
            kind = "" if isinstance(problem, EntropyLabError) else f"{type(problem).__name__}: "
            raise EntropyLabError(
                f"{what} fails for layer {call.layer} with N = {tokens}, T = {trained}: {kind}{one_line(problem)}"
            ) from problem
        if self.rule.sees_time and isinstance(found, Tensor) and found.device.type != "cpu" and found.ndim < 2:
            return found.float().expand(heads) if found.ndim == 0 else found.float()  # to look at it would wait
        found = check_multiplier(found, what)
        if isinstance(found, Tensor) and len(found) != heads:
            raise EntropyLabError(
                f"{what} must give one multiplier per head: layer {call.layer} has {heads} heads. Got {len(found)}."
            )
        return found

    def asked(self, layer: str, tokens: int, trained: int) -> float | Tensor:
        """What the rule says."""
        function = self.rule.function
        if isinstance(function, LayerRule):
            here, there = self.sight.latent, self.sight.trained_latent(self.train_size)
            growth = 1.0 if here is None or there is None else here[0] * here[1] / (there[0] * there[1])
            return function.factor(layer, tokens, trained, growth)
        if not self.rule.sees_time:
            return function(tokens, trained)
        if self.timestep is None:
            raise EntropyLabError("it asks for the timestep, and the denoiser was handed none")
        time = torch.as_tensor(self.timestep).detach().flatten()[0].float()  # where the denoiser has it: nothing waits
        return function(tokens, trained, timestep=time)

    def train_tokens(self, call: AttentionCall, tokens: int) -> int:
        """T of the layer that makes ``call``."""
        if self.rule.is_original or not self.rule.needs_sizes:
            return tokens
        trained = self.sight.trained_latent(self.train_size)
        grown = pipelines.grown_keys(call, self.sight.latent, trained)
        if grown is None:
            raise EntropyLabError(
                f"the number of tokens at the training size can't be told for layer {call.layer} with N = {tokens} "
                f"at latent size {self.sight.latent}."
            )
        return tokens + grown


working: list[Rescaling] = []
"""What rescales now."""
handles: "set[rescale]" = set()
"""Handles that are not removed yet: a handle that nobody keeps must not end its rescaling in silence."""


@contextmanager
def rescaled(
    pipe: Any, rule: Any = "sqrt_log", train_size: Any = None, kinds: Sequence[str] | str = USUAL_KINDS
) -> Iterator[Rescaling]:
    """The context behind ``rescale`` and ``measure``; see ``rescale``."""
    rescaling = new_rescaling(pipe, rule, train_size, kinds)
    working.append(rescaling)
    try:
        told = {"on_forward": rescaling.on_forward, "rescales": True}
        with observed(rescaling.sight, rescaling.on_attention, **told) as observer:
            yield rescaling
            warn_of_untouched(rescaling, observer)
    finally:
        working.remove(rescaling)


def new_rescaling(pipe: Any, rule: Any, train_size: Any, kinds: Sequence[str] | str) -> Rescaling:
    """A rule for one pipeline, everything checked."""
    named = named_rule(rule)
    trained = train_size_of(named, pipe, train_size) if named.needs_sizes and not named.is_original else None
    kinds = check_kinds(kinds)
    if isinstance(named.function, LayerRule):
        named.function.check(pipe)
        kinds = (named.function.kinds or kinds) if kinds == USUAL_KINDS else kinds
    rescaling = Rescaling(pipe, named, trained, kinds)
    if at_work(rescaling.sight.roots.values()) is not None:
        raise EntropyLabError("pipe is rescaled already: end the other `rescale` (or `handle.remove()`) first.")
    return rescaling


def at_work(roots: Iterable[nn.Module]) -> Rescaling | None:
    """What rescales some denoisers now, or a part of them, or something that they are a part of."""
    ours = list(roots)
    theirs = [(rescaling, other) for rescaling in working for other in rescaling.sight.roots.values()]
    same = [rescaling for rescaling, other in theirs if any(root is other for root in ours)]
    if same or not working:
        return same[0] if same else None
    parts = {part for root in ours for part in root.modules()}
    return next((rescaling for rescaling, other in theirs if not parts.isdisjoint(other.modules())), None)


def rule_at_work(roots: Iterable[nn.Module]) -> str:
    """Name of the rule that rescales some denoisers now."""
    rescaling = at_work(roots)
    return "original" if rescaling is None else rescaling.rule.name


def folded_at_work(roots: Iterable[nn.Module]) -> dict[str, float | Tensor]:
    """Layer path -> the factor that is folded into its weights now."""
    rescaling = at_work(roots)
    return {} if rescaling is None else rescaling.folded


def warn_of_untouched(rescaling: Rescaling, observer: Observer) -> None:
    """Say so if nothing was rescaled, if layers ran whose attention can't be, or if their kinds are a guess."""
    if rescaling.rule.is_original:
        return
    said, unseen = [], observer.unseen
    if rescaling.ran and not rescaling.matched:
        said.append(f"rescaled nothing: no layer of kind {rescaling.kinds} ran.")
    if unseen:
        said.append(f"could not rescale {', '.join(unseen)}")
    for name, reason in observer.untold.items():
        said.append(f"could not tell what the tokens of {name} stand for, and went by their numbers ({reason})")
    if said:
        warnings.warn(f"rule {rescaling.rule.name!r} {' It '.join(said)}", EntropyLabWarning, stacklevel=5)


def check_kinds(kinds: Any) -> tuple[str, ...]:
    """Kinds of layers as a tuple, or an EntropyLabError."""
    names = names_of(kinds)
    if not names or any(name not in KINDS for name in names):
        raise EntropyLabError(f"kinds must be some of {', '.join(KINDS)}. Got {kinds!r}.")
    return names


class rescale:
    """Multiply the softmax scale of every self-attention layer of ``pipe`` by a rule's factor.

    Until the context ends, or ``remove()`` is called on the handle. ``record`` and ``measure``, around it or inside it,
    see the changed scale. Images at the training size are bit-identical, others change.

    Args:
        pipe: a diffusers pipeline, or a denoiser on its own.
        rule: "sqrt_log" (the paper's), "original", a number, or a callable (N, T) -> multiplier, where N is the
            number of keys of the layer now and T at the training size, or ``calibrate(...)``'s ``.calibrated`` or
            ``.predicted`` or ``.invariant``. A multiplier may be a tensor (heads,). Further rules by name:
            "scalable_softmax", "yarn", "proportional" (see ``entropylab.scaling.RULES``). A callable with a parameter
            ``timestep`` is also told the time, as the denoiser is: a tensor of no dimension on the denoiser's device.
            Arithmetic with it makes no GPU wait; ``float(timestep)`` and ``math`` would, once in every step and layer.
        train_size: the size the pipeline was trained at [pixels], an int or (height, width); its config says, if None.
        kinds: kinds of layers to rescale, of "self", "joint" and "cross".
        size: with ``fold``, the size that is sampled meanwhile [pixels], an int or (height, width).
        fold: multiply the weights that make the queries instead (rows of ``to_q``, or the gain of the queries' norm).
            Then nothing is done while the pipeline samples: it costs nothing, and works compiled and with any attention
            backend. Two steps are made first, to find N and T of every layer and to prove the weights. At the end the
            weights are what they were, bit for bit.
        call: with ``fold``, ``call(pipe, size, prompts, generators)`` drives a pipeline whose signature is its own.

    Raises:
        EntropyLabError: unknown rule, unusable multiplier, unknown training size, or ``pipe`` is rescaled already; with
            ``fold``, weights that are quantised or shared, or can't be told apart by head, by name.

    Source: paper, Eq. 7.

    Examples:
        >>> with entropylab.rescale(pipe) as handle:
        ...     image = pipe("a red heart", height=128, width=128, num_inference_steps=1).images[0]
        >>> multiplier = handle.multipliers["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"]
        >>> round(multiplier, 3)  # sqrt(log 1024 / log 256)
        1.118
    """

    def __init__(
        self,
        pipe: Any,
        rule: Any = "sqrt_log",
        *,
        train_size: Any = None,
        kinds: Sequence[str] | str = USUAL_KINDS,
        size: Any = None,
        fold: bool = False,
        call: Any = None,
    ) -> None:
        if fold == (size is None) or (call is not None and not fold):
            raise EntropyLabError(f"size= and call= go with fold=True. Got size={size!r}, fold={fold!r}.")
        from .folding import folded

        self._context: Any = (
            folded(pipe, rule, train_size, kinds, size, call) if fold else rescaled(pipe, rule, train_size, kinds)
        )
        self._rescaling = self._context.__enter__()
        handles.add(self)

    @property
    def multipliers(self) -> dict[str, float]:
        """Layer path -> the factor last used there, mean over heads; empty before anything was sampled."""
        return self._rescaling.multipliers()

    def remove(self) -> None:
        """End the rescaling; the pipeline is as it was. Doing it twice does no harm."""
        if self in handles:
            handles.discard(self)
            self._context.__exit__(None, None, None)

    def __enter__(self) -> "rescale":
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()
