"""``record``: measure attention while somebody else's code samples."""

import copy
import functools
import inspect
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from . import pipelines
from .assemble import Cells, Run, check_keep
from .capture import AttentionCall, Interception, intercept
from .dataset import describe
from .errors import EntropyLabError
from .pipelines import Size
from .provenance import provenance
from .reduce import Reduction, check_rows_count, check_statistics, is_listing
from .scaling import known_train_size

DEFAULT_STATISTICS = ("entropy", "sigma2")


@dataclass
class Recorder:
    """What ``record`` yields: it fills while the pipeline samples.

    ``dataset`` is what was measured so far, an xarray.Dataset like that of ``entropylab.measure``; ``unmeasured``
    names the attention layers that ran and could not be measured.
    """

    pipe: Any
    reduction: Reduction
    patterns: tuple[str, ...] = ()
    keep: tuple[str, ...] | None = None
    trained: Size | None = None
    cells: Cells = field(init=False)
    run: "Run | None" = None
    interception: Interception | None = None
    calls: list[dict[str, Tensor]] = field(default_factory=list)
    repeats: Counter = field(default_factory=Counter)
    timestep: Any = None
    latent: Size | None = None
    forward_batch: int = 1
    follows: bool = False

    def __post_init__(self) -> None:
        self.cells = Cells(self.reduction.names, self.keep)

    @property
    def unmeasured(self) -> dict[str, str]:
        """Layer path -> reason, of attention layers that ran and could not be measured."""
        return dict(self.interception.unseen) if self.interception else {}

    @property
    def dataset(self) -> xr.Dataset:
        """What was measured so far."""
        cells = self.cells
        if self.run is not None and self.run.steps:
            cells = copy.deepcopy(cells)
            cells.add(self.run)
        unmeasured = [f"{path}: {reason}" for path, reason in self.unmeasured.items()]
        return describe(cells.dataset()).assign_attrs(
            provenance(self.pipe), statistics=json.dumps(self.reduction.statistics), unmeasured=json.dumps(unmeasured)
        )

    def begin_run(self, **labels: Any) -> None:
        """Start a new pipeline call; ``labels`` are those of Run (size, scaling, prompts, seeds)."""
        self.finish_run()
        self.run = Run(**labels)

    def finish_run(self, whole: bool = True) -> None:
        """Take what the current pipeline call gave into the Dataset.

        A step that did not end is dropped; so is a run that is not ``whole``, where samples are averaged.
        """
        if not self.follows:
            self.finish_step(self.forward_batch)
        self.calls, self.follows = [], False
        if self.run is not None and self.run.steps and (whole or self.cells.keeps_samples):
            self.cells.add(self.run)
        self.run = None

    def on_forward(self, name: str, root: nn.Module, args: tuple, kwargs: dict) -> None:
        """A denoiser begins a forward pass; unless a scheduler that we follow ends the steps, each is one."""
        if not self.follows:
            self.finish_step(self.forward_batch)
        latent = pipelines.latent_size(args, kwargs) or self.latent
        if self.run is None:
            self.begin_run()
        self.timestep, self.latent = pipelines.timestep_of(root, args, kwargs), latent
        self.forward_batch = pipelines.batch_of(args, kwargs)
        self.calls.append({})
        self.repeats.clear()

    def on_attention(self, call: AttentionCall) -> None:
        """A layer attends: reduce it to a few numbers per head."""
        kind = pipelines.kind_of(call)
        if not self.calls or not self.is_chosen(call.layer, kind):
            return
        self.repeats[call.layer] += 1
        count = self.repeats[call.layer]
        path = call.layer if count == 1 else f"{call.layer}:{count}"
        self.calls[-1][path] = self.reduction(call)
        if path not in self.cells.layers:
            self.cells.layers[path] = (pipelines.block_of(call.layer), kind)
        self.note_tokens(path, call)

    def is_chosen(self, layer: str, kind: str) -> bool:
        """Whether a layer is to be measured."""
        return not self.patterns or any(fnmatchcase(layer, p) or p == kind for p in self.patterns)

    def note_tokens(self, path: str, call: AttentionCall) -> None:
        """Remember how many keys a layer has at the training size."""
        if path in self.cells.train_tokens:
            return
        factor = pipelines.vae_factor(self.pipe)
        there = None if self.trained is None else (self.trained[0] // factor, self.trained[1] // factor)
        self.cells.train_tokens[path] = pipelines.train_tokens(call, self.latent, there)

    def finish_step(self, samples: int) -> None:
        """The scheduler has made a step with ``samples`` images: what its denoiser calls gave becomes one step."""
        calls = [call for call in self.calls if call]
        self.calls = []
        if not calls or self.run is None:
            return
        if self.run.size is None and self.latent is not None:
            factor = pipelines.vae_factor(self.pipe)
            self.run.size = (self.latent[0] * factor, self.latent[1] * factor)
        paths = dict.fromkeys(path for call in calls for path in call)
        step = {
            path: torch.cat([by_branch(call[path], samples) for call in calls if path in call], 1) for path in paths
        }
        self.run.add_step(self.timestep, step)


def by_branch(values: Tensor, samples: int) -> Tensor:
    """(entries, batch, heads) of a batch that holds several guidance branches: (entries, branch, sample, heads)."""
    batch = values.shape[1]
    return values.unflatten(1, (-1, samples) if batch % samples == 0 else (1, batch))


@contextmanager
def follow_schedulers(recorder: Recorder) -> Iterator[None]:
    """Let the schedulers tell where a pipeline call begins (``set_timesteps``) and a step ends (``step``).

    Their class is replaced for the duration, not their methods: a pipeline may copy its scheduler, and asks for the
    methods' signatures to know whether to hand over eta and generator.
    """
    followed = pipelines.schedulers(recorder.pipe)
    classes = [type(scheduler) for scheduler in followed]
    try:
        for scheduler, own in zip(followed, classes, strict=True):
            scheduler.__class__ = followed_class(own, recorder)
        yield
    finally:
        for scheduler, own in zip(followed, classes, strict=True):
            scheduler.__class__ = own


def followed_class(own: Any, recorder: Recorder) -> Any:
    """A scheduler class that tells ``recorder`` what it is asked to do, and else is ``own``."""
    signature = inspect.signature(own.step)

    @functools.wraps(own.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.calls = []
        if recorder.run is None or recorder.run.steps:
            recorder.begin_run()
        recorder.follows = True
        return own.set_timesteps(self, *args, **kwargs)

    @functools.wraps(own.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        sample = signature.bind(self, *args, **kwargs).arguments.get("sample")
        recorder.finish_step(len(sample) if isinstance(sample, Tensor) and sample.ndim else recorder.forward_batch)
        return own.step(self, *args, **kwargs)

    names = {"__module__": own.__module__, "__doc__": own.__doc__, "set_timesteps": set_timesteps, "step": step}
    return type(own.__name__, (own,), names)


@contextmanager
def record(
    pipe: Any,
    *,
    statistics: Sequence[str] = DEFAULT_STATISTICS,
    rows: int | None = None,
    layers: str | Sequence[str] | None = None,
    keep: Sequence[str] | None = None,
    strict: bool = False,
) -> Iterator[Recorder]:
    """Measure the attention of ``pipe`` while your own code samples from it.

    Args:
        pipe: a diffusers pipeline, or any torch.nn.Module.
        statistics: what to measure, each averaged over query rows: "entropy", "lse", "mean" [nats], "sigma2",
            "sensitivity" [nats^2], "third" [nats^3], "fourth" [nats^4].
        rows: look at this many query rows only, a fixed random subset; None for all.
        layers: measure only layers whose path matches one of these patterns (``"*attn1"``) or that are of this kind
            ("self", "cross").
        keep: dimensions to keep apart, of branch, sample, step, layer, head; the others are averaged. None keeps all.
        strict: raise if an attention layer ran that could not be measured, instead of naming it in the result.

    Yields:
        A Recorder; its ``dataset`` is an xarray.Dataset like that of ``entropylab.measure``.

    Raises:
        EntropyLabError: ``pipe`` has no denoiser or no attention, or an argument does not fit.
    """
    recorder = new_recorder(pipe, statistics, rows, layers, keep)
    with watching(recorder, strict):
        yield recorder


@contextmanager
def watching(recorder: Recorder, strict: bool = False) -> Iterator[None]:
    """Let ``recorder`` watch its pipeline while the context lasts."""
    with ExitStack() as stack:
        stack.enter_context(follow_schedulers(recorder))
        recorder.interception = stack.enter_context(
            intercept(pipelines.denoisers(recorder.pipe), recorder.on_attention, on_forward=recorder.on_forward)
        )
        try:
            yield
        except BaseException:
            recorder.finish_run(whole=False)
            raise
        recorder.finish_run()
    if strict and recorder.unmeasured:
        raise EntropyLabError(f"attention layers ran that could not be measured: {recorder.unmeasured}")


def new_recorder(
    pipe: Any, statistics: Any, rows: Any, layers: Any, keep: Any, train_size: Size | None = None
) -> Recorder:
    """A Recorder, its arguments checked."""
    patterns = check_patterns(pipe, layers)
    reduction = Reduction(check_statistics(statistics), check_rows_count(rows))
    return Recorder(pipe, reduction, patterns, check_keep(keep), known_train_size(pipe, train_size))


def check_patterns(pipe: Any, patterns: Any) -> tuple[str, ...]:
    """Layer patterns as a tuple; each must match some layer of ``pipe``."""
    known = pipelines.layers(pipe)
    if patterns is None:
        return ()
    chosen = (
        (patterns,) if isinstance(patterns, str) else tuple(patterns) if is_listing(patterns) else (repr(patterns),)
    )
    for pattern in chosen:
        if not any(fnmatchcase(layer.path, pattern) or layer.kind == pattern for layer in known):
            raise EntropyLabError(
                f"layers must be kinds or patterns of layer paths such as {known[0].path!r}. "
                f"Got {pattern!r}, which matches none of the {len(known)} layers."
            )
    if not chosen:
        raise EntropyLabError("layers must name at least one kind or pattern, or be None for all. Got nothing.")
    return chosen
