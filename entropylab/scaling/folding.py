"""Fold a rule's factors at one size into the weights that make the queries: then rescaling costs nothing.

What makes a layer's queries is found by name, and proved: a forward with the folded weights, each factor undone where
attention is computed, must show the queries of before times the factor.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import pipelines
from ..bars import quiet
from ..capture import AttentionCall, Inputs
from ..errors import EntropyLabError, EntropyLabWarning
from ..pipelines.following import follow
from ..pipelines.sight import Sight, observed
from ..sizes import Size, size_label
from .rescaling import Rescaling, new_rescaling, warn_of_untouched, working

Call = Callable[[Any, Size, list[str], list[torch.Generator]], Any]

SIDES = (
    (
        ("to_qkv", "qkv", "to_q", "q_proj", "to_query", "query", "wq", "q"),
        ("norm_q", "q_norm", "query_norm", "q_rms_norm"),
    ),
    (("to_added_qkv", "add_q_proj", "to_q_t"), ("norm_added_q", "q_rms_norm_t")),
)
"""Names of what makes queries, and of the norm that they go through: of a layer's own tokens, and of those beside."""

PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

EXACT = (torch.float32, torch.float64)
"""Types in which rounding is much less than what a factor changes."""

ROWS = 16
"""Query rows by which folding is proved, at the beginning of each call, in its middle and at its end."""


@dataclass(frozen=True)
class Query:
    """What a trial showed of one attention call: the rule's factor, None if it is left alone, and some queries."""

    layer: str
    module: nn.Module
    factor: float | Tensor | None
    heads: int
    rows: Tensor  # (heads or 1, places, rows, d)
    is_exact: bool  # whether they are hardly rounded


@contextmanager
def folded(pipe: Any, rule: Any, train_size: Any, kinds: Any, size: Any, call: Call | None) -> Iterator[Rescaling]:
    """The context behind ``rescale(..., fold=True)``; see ``rescale``."""
    rescaling = new_rescaling(pipe, rule, train_size, kinds)
    if rescaling.rule.sees_time:
        raise EntropyLabError(f"fold: rule {rescaling.rule.name!r} sees the timestep, and weights stay what they are.")
    [pair] = pipelines.check_sizes(pipe, [size])
    calls = trial(pipe, rescaling, pair, call)
    changes = changes_of(pipe, rescaling, calls)
    rescaling.folded = dict(rescaling.last)
    kept = [(weight, weight.detach().clone()) for weight, _ in changes]
    working.append(rescaling)
    try:
        for weight, factors in changes:
            exact = weight.data[: len(factors)].to(torch.promote_types(weight.dtype, torch.float32))
            factors = factors.to(exact).reshape(-1, *[1] * (weight.ndim - 1))
            weight.data[: len(factors)] = (exact * factors).to(weight.dtype)
        if changes:
            is_exact = all(weight.dtype in EXACT for weight, _ in changes)
            calls = [replace(query, is_exact=query.is_exact and is_exact) for query in calls]
            trial(pipe, rescaling, pair, call, calls)
        with ExitStack() as stack:
            follow(stack, pipe, OtherSizes(pipe, pair))
            yield rescaling
    finally:
        working.remove(rescaling)
        for weight, before in kept:
            weight.data.copy_(before)


class OtherSizes(Sight):
    """Warns if a pipeline samples at another size than its factors were folded for."""

    def __init__(self, pipe: Any, folded: Size) -> None:
        super().__init__(pipe)
        self.folded = folded

    def on_call(self, arguments: dict[str, Any]) -> None:
        """The pipeline is called: its arguments name the size, or it is the usual one."""
        super().on_call(arguments)
        size = self.size or pipelines.default_size(self.pipe)
        if size not in (None, self.folded):
            sizes = f"samples at {size_label(size)}, and its factors are folded for {size_label(self.folded)}"
            warnings.warn(f"{type(self.pipe).__name__} {sizes}", EntropyLabWarning, stacklevel=4)


def trial(
    pipe: Any, rescaling: Rescaling, size: Size, call: Call | None, before: list[Query] | None = None
) -> list[Query]:
    """One step at a size, unscaled: the attention calls that it makes; the pipeline is as it was.

    After folding the calls ``before`` it prove the factors, which are undone meanwhile.
    """
    found: list[Query] = []
    ran = set()

    def on_forward(name: str, root: nn.Module, inputs: Inputs) -> None:
        ran.add(name)
        rescaling.on_forward(name, root, inputs)

    def on_attention(call: AttentionCall) -> float | Tensor | None:
        heads = 1 if call.query.stride(1) == 0 else call.query.shape[1]  # attention in slices shows one head for all
        queries = call.query[0, :heads].detach().float()
        left = max(0, queries.shape[1] - ROWS)
        rows = torch.stack([queries[:, first : first + ROWS] for first in (0, left // 2, left)], 1)
        if before is None:
            factor = rescaling.on_attention(call)
        else:
            factor = before[len(found)].factor if len(found) < len(before) else None
        is_exact = call.query.dtype in EXACT and not torch.is_autocast_enabled(call.query.device.type)
        found.append(Query(call.layer, call.module, factor, call.query.shape[1], rows, is_exact))
        return None if before is None or factor is None else 1 / factor

    told = {"on_forward": on_forward, "rescales": True}
    with unchanged(pipe), quiet(pipe), observed(rescaling.sight, on_attention, **told) as observer:
        sample(pipe, size, call)
    if before is None:
        if missing := set(rescaling.sight.roots) - ran:
            raise EntropyLabError(
                f"fold: {', '.join(sorted(missing))} did not run in a call of one step, so that its layers are not "
                "known: pass call=, a function (pipe, size, prompts, generators) in which every denoiser runs."
            )
        warn_of_untouched(rescaling, observer)
    elif [query.layer for query in before] != [query.layer for query in found]:
        raise EntropyLabError("fold: two steps made different attention calls, so that nothing can be proved.")
    else:
        for query, other in zip(before, found, strict=True):
            prove(query, other.rows)
    return found


def sample(pipe: Any, size: Size, call: Call | None) -> None:
    """Make one step at a size, for nothing but its attention calls."""
    generators = [torch.Generator().manual_seed(0)]
    if call is not None:
        call(pipe, size, ["a picture"], generators)
        return
    taken = set() if isinstance(pipe, nn.Module) else pipelines.accepts(pipe)
    if missing := {"prompt", "height", "width"} - taken:
        raise EntropyLabError(
            f"fold: {type(pipe).__name__} takes no {', '.join(sorted(missing))}: pass call=, a function "
            "(pipe, size, prompts, generators) that samples one picture in one step."
        )
    options = {"num_inference_steps": 1, "generator": generators, "output_type": "latent"}
    pipe(prompt=["a picture"], height=size[0], width=size[1], **{k: v for k, v in options.items() if k in taken})


@contextmanager
def unchanged(pipe: Any) -> Iterator[None]:
    """Leave a pipeline, its schedulers and random numbers as they were."""
    parts = [] if isinstance(pipe, nn.Module) else [pipe, *pipe.components.values()]
    kept = [(part, dict(vars(part))) for part in parts if part is pipe or hasattr(part, "set_timesteps")]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            yield
    finally:
        for part, state in kept:
            vars(part).clear()
            vars(part).update(state)


def prove(query: Query, rows: Tensor) -> None:
    """An EntropyLabError if queries did not get their factor by folding."""
    if query.factor is None:
        return
    factor = torch.as_tensor(query.factor, device=rows.device).float().expand(query.heads)[: len(rows), None]
    square, product = query.rows.square().sum((2, 3)), (query.rows * rows).sum((2, 3))
    off = (product / square).log() - factor.log()
    if bool((~(off.abs() <= factor.log().abs() / 2) & (square > 0) & (factor.log().abs() > 1e-3)).any()):
        raise EntropyLabError(
            f"fold: the queries of layer {query.layer} are not what its weights say: times {factor.mean():.4f} in its "
            f"weights they come out times {(product / square).mean():.4f}. Rescale it without fold."
        )
    aim = query.rows * factor[..., None, None]
    away = (rows - aim).square().sum((2, 3)).sqrt() / aim.square().sum((2, 3)).sqrt()
    if query.is_exact and bool((away > (factor.log().abs() / 10).clamp(min=5e-3)).any()):
        raise EntropyLabError(
            f"fold: the queries of layer {query.layer} are not what its weights say: something is added to them that "
            "a factor in the weights leaves alone. Rescale it without fold."
        )


def changes_of(pipe: Any, rescaling: Rescaling, calls: list[Query]) -> list[tuple[nn.Parameter, Tensor]]:
    """The weights to multiply, each with the factors of its first rows, in the order of the layers."""
    names: dict[int, set[str]] = {}
    components = {"": pipe} if isinstance(pipe, nn.Module) else {**pipe.components, **rescaling.sight.roots}
    for component, part in components.items():
        for name, weight in part.named_parameters(remove_duplicate=False) if isinstance(part, nn.Module) else ():
            names.setdefault(place_of(weight), set()).add(f"{component}.{name}")
    by_layer: dict[str, list[Query]] = {}
    for query in calls:
        by_layer.setdefault(query.layer, []).append(query)
    found = []
    for layer, queries in by_layer.items():
        factors = [None if query.factor is None else torch.as_tensor(query.factor) for query in queries]
        chosen = [factor for factor in factors if factor is not None]
        if not chosen or all(bool((factor == 1).all()) for factor in chosen):
            continue
        if len(chosen) < len(factors) or any(not torch.equal(factor, chosen[0]) for factor in chosen):
            raise EntropyLabError(f"fold: layer {layer} attends several times in a forward, with different factors.")
        for weight, rows, name in weights_of(queries[0], chosen[0]):
            if type(weight) is not nn.Parameter or weight.dtype not in PLAIN or weight.is_meta:
                kind = f"quantised ({type(weight).__name__}, {weight.dtype})"
                kind = "nowhere" if weight.is_meta else "made of others" if type(weight) is Tensor else kind
                raise EntropyLabError(f"fold: {layer}.{name} is {kind}, and can't be multiplied. Rescale without fold.")
            if len(shared := names[place_of(weight)]) > 1:
                raise EntropyLabError(f"fold: {layer}.{name} is shared, by {', '.join(sorted(shared))}.")
            found.append((weight, rows))
    return found


def place_of(weight: Tensor) -> int:
    """Where a weight lies in memory, or which object it is where it does not say."""
    return weight.data_ptr() if type(weight) is nn.Parameter and not weight.is_meta else id(weight)


def weights_of(query: Query, factor: Tensor) -> Iterator[tuple[Any, Tensor, str]]:
    """The weights that a layer's queries are proportional to, the factors of their first rows, and their names."""
    width = query.rows.shape[-1]
    by_row = factor.expand(query.heads).repeat_interleave(width)
    sides = [(part_of(query.module, linears), part_of(query.module, norms)) for linears, norms in SIDES]
    if all(part is None for side in sides for _, part in side):
        raise EntropyLabError(f"fold: what makes the queries of layer {query.layer} has none of the usual names.")
    for linear, norm in sides:
        name, part = norm if norm[1] is not None else linear
        if part is None:
            continue
        is_gain = norm[1] is not None
        if not is_gain and type(part).forward is not nn.Linear.forward:
            raise EntropyLabError(
                f"fold: {query.layer}.{name} is no plain linear but {type(part).__name__}: quantised, or with an "
                "adapter that is not fused into it. Rescale without fold."
            )
        weight = getattr(part, "weight", None)
        if weight is None:
            raise EntropyLabError(f"fold: {query.layer}.{name} has no gain. Rescale without fold.")
        one_gain = is_gain and len(weight) == width and bool((factor == factor.flatten()[0]).all())
        rows = by_row[:width] if one_gain else by_row
        is_fused = not is_gain and "qkv" in name and len(weight) > len(rows)
        if len(weight) != len(rows) and not is_fused:
            raise EntropyLabError(
                f"fold: {query.layer}.{name} has {len(weight)} rows, which can't be told apart by head: the layer has "
                f"{query.heads} heads of {width}."
            )
        for each in ("weight", "bias"):
            if getattr(part, each, None) is not None:
                yield getattr(part, each), rows, f"{name}.{each}"


def part_of(module: nn.Module, names: tuple[str, ...]) -> tuple[str, Any]:
    """Name and module of the first part of a layer that has one of these names, but for one that does nothing."""
    for name in names:
        part = getattr(module, name, None)
        if isinstance(part, nn.Module) and not isinstance(part, nn.Identity):
            return name, part
    return "", None
