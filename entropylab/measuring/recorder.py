"""What measures while a pipeline samples: it follows calls, steps and forwards, and looks at every attention call."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from threading import get_ident
from typing import Any

import xarray as xr
from torch import Generator, Tensor, nn

from .. import pipelines
from ..capture import AttentionCall, Inputs
from ..dataset import describe
from ..entropy.native import Prepared, prepared
from ..errors import EntropyLabError, RefusedCallError, counted, names_of
from ..pipelines.sight import Sight
from ..pipelines.words import Words, check_called
from ..scaling import folded_at_work, rule_at_work
from ..sizes import Clip, KnownSize, Packed, Size, size_label
from .cells import Cells, LayerLabel
from .layout import dataset_of
from .live import Live
from .maps import Maps
from .provenance import provenance
from .reduce import Reduction
from .run import Run
from .steps import DenoiserCall, Seen


@dataclass(eq=False)
class Known:
    """What is known of calls of a layer that look alike, and are to be measured.

    Attributes:
        entries: what their rows stand for -> name of the entry that holds these, and its labels.
        run: the run that knows of them, under the rule that gave the factor ``rescaled``.
        seen: what they are in a forward, if all there is to them is queries and keys; see ``Reduction.is_plain``.
        sums: gives the sums over their rows, of q, k and the scale, where there is such a short way.
    """

    entries: dict[str, tuple[str, LayerLabel]]
    run: "Run | None" = None
    rescaled: Any = None
    seen: Seen | None = None
    sums: Prepared | None = None


class Recorder(Sight):
    """What ``record`` yields: it fills while the pipeline samples.

    ``dataset`` is what was measured so far, an xarray.Dataset like that of ``entropylab.measure``; ``unmeasured``
    names the attention layers that ran and could not be measured.

    Attributes:
        run: the run that is not over.
        calls: forwards of denoisers since the last step.
        side: the forward of a ControlNet that runs.
        waiting: those that have ended, and belong to the denoiser's next forward.
        passed_over: layer path -> kind, of layers that ran and were not chosen.
        follows: whether a scheduler ends the steps.
        is_unstepped: whether forwards were dropped, for no scheduler made a step after them.
        lost: how many runs were dropped that went to their end, for they had no other forwards.
        foreign: whether somebody else begins and ends the runs.
        asked_for: the prompts and seeds of such a run, and the seeds of those that were sampled in calls before.
        outer: of the calls of the pipeline in which another one runs, their run and what else there is of them.
        kept_maps: rows, and keys, in their places, if they are kept.
        live: hands over every step, if somebody asked for it.
        running: threads in which a denoiser's forward runs.
    """

    def __init__(
        self,
        pipe: Any,
        reduction: Reduction,
        patterns: tuple[str, ...] = (),
        keep: tuple[str, ...] | None = None,
        trained: Size | None = None,
    ) -> None:
        super().__init__(pipe, beside=True)
        self.reduction, self.patterns, self.keep, self.trained = reduction, patterns, keep, trained
        self.cells = Cells(reduction.names, keep)
        self.run: Run | None = None
        self.calls: list[DenoiserCall] = []
        self.side: DenoiserCall | None = None
        self.waiting: list[DenoiserCall] = []
        self.passed_over: dict[str, str] = {}
        self.follows = self.foreign = self.is_unstepped = False
        self.asked_for: tuple[Sequence[str], Sequence[int], set[int]] = ((), (), set())
        self.lost = 0
        self.outer: list[tuple[Run | None, list[DenoiserCall], DenoiserCall | None, list[DenoiserCall], bool]] = []
        self.kept_maps: Maps | None = None
        self.live: Live | None = None
        self.running: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        ran = counted(len(self.cells.layers), "layer")
        return f"Recorder({type(self.pipe).__name__}, {ran} measured, {len(self.unmeasured)} not)"

    @property
    def looks_away(self) -> bool:
        """Whether ``on_step`` runs: what it makes the pipeline do is its own business."""
        return self.live is not None and self.live.is_told

    @property
    def unmeasured(self) -> dict[str, str]:
        """Layer path -> reason, of attention layers that ran and could not be measured."""
        keyless = dict.fromkeys(self.cells.keyless, "its mask leaves no key to any row")
        return keyless | (self.observer.unseen if self.observer else {})

    @property
    def dataset(self) -> xr.Dataset:
        """What was measured so far."""
        cells = self.so_far
        unmeasured = [f"{path}: {reason}" for path, reason in self.unmeasured.items()]
        return describe(dataset_of(cells)).assign_attrs(
            provenance(self.pipe), statistics=json.dumps(self.reduction.statistics), unmeasured=json.dumps(unmeasured)
        )

    @property
    def maps(self) -> xr.DataTree:
        """Maps of what was measured so far: a group for each size, and in it one for each grid of tokens.

        Raises:
            EntropyLabError: maps were not asked for, or nothing was measured yet.
        """
        if self.kept_maps is None:
            raise EntropyLabError("there are no maps: they are kept with maps=True, received=True or words=[...].")
        kept, cells = self.kept_maps.copy(), self.so_far
        for run in self.not_over:
            kept.add(run)
        return kept.tree(cells, pipelines.vae_factor(self.pipe), provenance(self.pipe))

    @property
    def words(self) -> Words | None:
        """The words that maps are of, if they are of some."""
        return None if self.kept_maps is None else self.kept_maps.words

    @property
    def not_over(self) -> list[Run]:
        """The runs that are not over, as far as something was measured in them."""
        runs = [*(run for run, *_ in self.outer), self.run]
        return [run for run in runs if run is not None and not (run.is_empty or run.is_mixed)]

    @property
    def so_far(self) -> Cells:
        """What was measured so far, with the run that is not over."""
        cells, not_over = self.cells, self.not_over
        cells = copy.deepcopy(cells) if not_over else cells
        for run in not_over:
            cells.add(run)
        if not cells.timesteps:
            raise EntropyLabError(f"nothing was measured yet: {self.why_nothing()}.")
        return cells

    def why_nothing(self) -> str:
        """Why nothing was measured, in words."""
        if self.unmeasured:
            listed = "; ".join(f"{path} ({reason})" for path, reason in self.unmeasured.items())
            return f"{counted(len(self.unmeasured), 'attention layer')} ran, and none could be measured: {listed}"
        if self.passed_over:
            layer, kind = next(iter(self.passed_over.items()))
            return (
                f"{counted(len(self.passed_over), 'attention layer')} ran, and none is chosen by "
                f"layers={list(self.patterns)}; the first is {layer}, of kind {kind!r}"
            )
        if self.is_unstepped:
            return (
                "a denoiser ran, and no `step` of its scheduler was heard after it; one that was put into the "
                "scheduler itself must call its class's"
            )
        return "no denoiser ran an attention layer inside the context"

    def begin_run(self, **labels: Any) -> None:
        """Start a new run, until ``finish_run``; ``labels`` are those of Run (size, scaling, prompts, seeds)."""
        self.finish_run()
        self.run, self.foreign = Run(**labels), True
        self.asked_for = (self.run.prompts, self.run.seeds, set())

    def begin_part(self, arguments: dict[str, Any]) -> None:
        """A call of the pipeline may be of some samples of the run alone, which its generators tell: they are a run."""
        given = arguments.get("generator")
        generators = given if isinstance(given, list | tuple) else [given]
        seeds = [each.initial_seed() for each in generators if isinstance(each, Generator)]
        prompts, known, sampled = self.asked_for
        is_told = len(names_of(arguments.get("prompt"))) == len(seeds) > 0 and set(seeds) <= set(known)
        if self.run is None or not is_told or seeds == list(self.run.seeds):
            return
        if self.run.steps:
            sampled |= set(self.run.seeds)
            if sampled & set(seeds):
                raise RefusedCallError("call= must end a sample before it begins another: it comes back to one.")
            size, scaling = self.run.size, self.run.scaling
            self.finish_run()
            self.run, self.foreign = Run(size, scaling), True
        self.run.seeds, self.run.prompts = seeds, [prompts[list(known).index(seed)] for seed in seeds]

    def new_run(self, size: KnownSize = None, **labels: Any) -> Run:
        """A run under the rule that rescales the pipeline now."""
        return Run(size, rule_at_work(self.roots.values()), **labels)

    def finish_run(self, whole: bool = True) -> None:
        """Take what the current pipeline call gave into the Dataset.

        A step or a forward that did not end is dropped; so is a run that is not ``whole``, where samples are averaged.
        """
        if not self.follows:
            self.finish_step()
        unstepped = self.follows and self.run is not None and any(call.ended for call in self.calls)
        self.is_unstepped |= unstepped
        self.lost += unstepped and whole and self.run is not None and not self.run.steps
        self.calls, self.follows = [], False
        self.side, self.waiting = None, []
        is_fit = (whole or self.cells.keeps_samples) and self.run is not None and not self.run.is_mixed
        if self.run is not None and not self.run.is_empty and is_fit:
            self.cells.add(self.run)
            if self.kept_maps is not None:
                self.kept_maps.add(self.run)
        if self.live is not None:
            self.live.hand_over(self.cells, wait=True)
        self.run, self.foreign = None, False

    def on_call(self, arguments: dict[str, Any]) -> None:
        """The pipeline is called: a run of its own, unless ``measure`` has begun one; that around it goes on later."""
        super().on_call(arguments)
        if self.words is not None:
            self.words.on_call(arguments)
        self.check_size()
        if self.foreign:
            if len(self.calling) == 1:
                self.begin_part(arguments)
            return
        if len(self.calling) > 1:
            self.outer.append((self.run, self.calls, self.side, self.waiting, self.follows))
            self.run, self.calls, self.side, self.waiting, self.follows = None, [], None, [], False
        else:
            self.finish_run()
        if self.words is not None:
            check_called(self.words.words, arguments)
        prompts = names_of(arguments.get("prompt"))
        images = arguments.get("num_images_per_prompt") or 1
        each = [text for text in prompts for _ in range(images)]
        self.run = self.new_run(self.asked_size, prompts=each, is_call=True)

    def on_latents(self, arguments: dict[str, Any], latents: Any) -> None:
        """The pipeline has made its latents, which tells the size if the call did not."""
        super().on_latents(arguments, latents)
        self.check_size()
        if self.run is not None and not self.run.steps and not self.foreign:
            self.run.size = self.asked_size

    @property
    def asked_size(self) -> KnownSize:
        """The size that the pipeline was asked for, if it was."""
        return Clip(*self.size, f"{self.frames} frames") if self.size is not None and self.frames else self.size

    def size_met(self, inputs: Inputs) -> KnownSize:
        """The size of the image that a denoiser is handed."""
        size, frames = self.size_of_latent(), inputs.frames[::-1]
        length = f"{self.frames} frames" if self.frames else "input {}x{}".format(*frames) if frames else ""
        return Clip(*size, length) if size is not None and length else size or packed(inputs)

    def check_size(self) -> None:
        """Raise a RefusedCallError if ``measure`` asked for another size than the pipeline is to sample."""
        asked = None if self.run is None or not self.foreign else self.run.size
        if isinstance(asked, tuple) and self.size not in (None, asked):
            raise RefusedCallError(
                f"{type(self.pipe).__name__} would sample {size_label(self.size)} where sizes= asks for "
                f"{size_label(asked[:2])}: choose sizes that it samples as they are, or a call= that does."
            )

    def on_end(self, failed: bool) -> None:
        """The pipeline's call is over."""
        super().on_end(failed)
        self.running = self.running - {get_ident()}  # it may have ended by an exception
        if self.words is not None:
            self.words.on_end()
        if not self.foreign:
            self.finish_run(whole=not failed)
        if self.outer:
            self.run, self.calls, self.side, self.waiting, self.follows = self.outer.pop()

    def on_timesteps(self, arguments: dict[str, Any]) -> None:
        """Sampling begins: with a pipeline call, or without one by the user's own loop."""
        super().on_timesteps(arguments)
        is_own = self.run is not None and not (self.foreign or self.run.is_call or self.run.steps)
        self.lost += self.follows and is_own and any(call.ended for call in self.calls)
        self.calls, self.side, self.waiting = [], None, []
        if self.run is None:
            self.run = self.new_run()
        elif self.run.steps and not self.foreign and not self.run.is_call:
            self.finish_run()
            self.run = self.new_run()
        self.follows = True

    def on_step(self, arguments: dict[str, Any]) -> None:
        """A scheduler makes a step: what the denoiser calls since the last one gave is that step."""
        self.finish_step(arguments.get("model_output"), arguments.get("sample"))

    def on_forward(self, name: str, root: nn.Module, inputs: Inputs) -> None:
        """A denoiser begins a forward pass; unless a scheduler that we follow ends the steps, each is one.

        What a ControlNet does belongs to the denoiser's next forward.
        """
        if self.looks_away:
            return
        here = {get_ident()}
        elsewhere = self.running - here
        self.running = elsewhere | here
        if elsewhere and self.run is not None:
            self.run.is_mixed = True
            raise EntropyLabError("ran in two threads at once: which call is of which run can't be told")
        self.side = None
        if name in (self.beside or ()):
            self.meet(root, inputs)
            self.side = DenoiserCall(inputs, self.reduction)
            self.run = self.run or self.new_run()
            return
        if not self.follows:
            self.finish_step()
        self.meet(root, inputs)
        own_loop = not (self.follows or self.foreign or (self.run is not None and self.run.is_call))
        size = self.size_met(inputs) if own_loop else None
        if own_loop and self.run is not None and self.run.steps and self.run.size != size:
            waiting = self.waiting
            self.finish_run()
            self.waiting = waiting
        elif self.run is not None and self.run.steps and not self.calls and self.run.latent not in (None, self.latent):
            self.begin_resized(self.run, self.size_met(inputs))
        if self.run is None:
            self.run = self.new_run()
        if own_loop and not self.run.steps:
            self.run.size = size
        if not self.run.steps and not self.calls:
            known = self.run.size or size or self.size_met(inputs)
            self.run.latent = self.latent if known and inputs.latent_size == self.latent_of(known[:2]) else None
        self.run.meet_rule(rule_at_work(self.roots.values()), begun=bool(self.calls))
        self.calls.append(DenoiserCall(inputs, self.reduction))

    def begin_resized(self, before: Run, size: KnownSize) -> None:
        """Go on at another size, as a callback may: in a run of its own, unless ``measure`` asks for the first one.

        Only a denoiser that was handed the whole picture tells; another one may get views of it.
        """
        if self.foreign:
            raise EntropyLabError("is handed another size than the pipeline has sampled before in this call")
        waiting, follows = self.waiting, self.follows
        self.finish_run()
        self.waiting, self.follows = waiting, follows
        self.run = self.new_run(size, prompts=before.prompts, is_call=before.is_call)

    def on_output(self, name: str, root: nn.Module, output: Any) -> None:
        """A forward pass of a denoiser, or of a ControlNet, has ended; without an output, by an exception."""
        self.running = self.running - {get_ident()}
        call = self.current
        if call is None or output is None:
            return
        call.end()
        lost = dict(call.incomplete)
        if call is self.side:
            self.waiting.append(call)
            self.side = None
        else:
            for other in self.waiting:
                lost |= call.take_in(other)
            self.waiting = []
            call.take_output(output)
        if self.observer is not None:
            for path, reason in lost.items():
                self.observer.lose(path, reason)

    @property
    def current(self) -> DenoiserCall | None:
        """The forward that runs."""
        return self.side or (self.calls[-1] if self.calls else None)

    def on_attention(self, call: AttentionCall) -> bool | None:
        """A layer attends: what its rows add up to becomes a few numbers per head when the forward ends.

        False of one that is not to be measured.
        """
        forward = self.side or (self.calls[-1] if self.calls else None)
        if forward is None and self.looks_away:
            return None
        if self not in call.known.by:
            kind = pipelines.kind_of(call)
            if self.patterns and not any(fnmatchcase(call.layer, each) or each == kind for each in self.patterns):
                self.passed_over.setdefault(call.layer, kind)
                return False
            if pipelines.is_split(self.roots[call.layer.partition(".")[0]], call.layer):
                raise EntropyLabError("is handed its batch in parts, and it can't be told which images these hold")
            taken = {seen.path for seen, _ in forward.taken} if forward is not None else set()
            parts = self.reduction.parts(call)
            call.known.by[self] = Known({part: self.entry_of(call, kind, part, taken) for part in parts})
        known = call.known.by[self]
        if forward is None:
            if all(label.module != call.layer for label in self.cells.layers.values()):
                raise EntropyLabError("ran outside of its denoiser's forward: call model(...), not model.forward(...)")
            return None
        if known.seen is not None and call.inputs is forward.inputs:
            sums = None if known.sums is None else known.sums(call.query, call.key, call.scale)
            forward.taken.append((known.seen, self.reduction.of_plain(call) if sums is None else sums))
        else:
            self.look(known, forward, call)
        if known.run is not self.run or known.rescaled is not call.rescaled:
            self.enter(known, call)
        return None

    def look(self, known: "Known", forward: DenoiserCall, call: AttentionCall) -> None:
        """Reduce a call, and find out which images it is about."""
        is_plain = self.reduction.is_plain(call)
        if forward.inputs.timestep is None:
            forward.meet(call.query)
        for part, found in self.reduction(call).items():
            layer = f"{call.layer}:{part}" if part else call.layer
            seen = forward.see(known.entries[part][0], found, call, layer)
            is_same = forward.inputs.timestep is not None and call.inputs is forward.inputs and seen.place is not None
            if is_same and is_plain:
                known.seen = seen
                if not self.reduction.beyond:
                    known.sums = prepared(call.query, call.key, call.scale, self.reduction.fields)
            if self.kept_maps is not None:
                self.kept_maps.take(forward, seen, found, call, part, self)

    def entry_of(self, call: AttentionCall, kind: str, part: str, taken: set[str]) -> tuple[str, LayerLabel]:
        """Name and labels of the entry of a layer's call, or of the rows in it that stand for one thing.

        Where the entry of that name stands for something else, as when a cache leaves out the calls before this one, it
        is the layer's entry for the same that no other call of the forward has ``taken``, or a new one.
        """
        block = pipelines.block_of(call.layer)
        if self.side is not None:
            block = f"{call.layer.partition('.')[0]}.{block}"
        label = LayerLabel(call.layer, block, kind, pipelines.part_of(call, part))
        base = call.layer if call.occurrence == 0 else f"{call.layer}:{call.occurrence + 1}"
        own = f"{base}:{part}" if part else base
        alike = (path for path, other in self.cells.layers.items() if other == label)
        for path in (own, *alike, f"{base}:{label.part}"):
            stands_for = {label.part, self.cells.layers.get(path, label).part} - {"all", "unknown"}
            if path not in taken and len(stands_for) < 2:
                return path, label
        raise EntropyLabError(
            f"makes calls in other numbers or orders than before, so which is of {label.part} is lost"
        )

    def enter(self, known: "Known", call: AttentionCall) -> None:
        """Enter what is known of a call into the run, and its labels into the Dataset."""
        known.run, known.rescaled = self.run, call.rescaled
        if self.run is not None:
            folded = folded_at_work(self.roots.values())
            self.run.add_multiplier(call.layer, folded.get(call.layer, call.rescaled))
        for path, label in known.entries.values():
            self.cells.layers.setdefault(path, label)
            if self.run is not None and path not in self.run.grown:
                trained = self.trained_latent(self.trained)
                self.run.grown[path] = pipelines.grown_keys(call, self.latent, trained)

    def finish_step(self, combined: Any = None, sample: Any = None) -> None:
        """What the denoiser calls since the last step gave becomes one step; showing it a reference is in none.

        A step in which no layer attends, all of it taken from a cache, counts too, so that others keep their numbers.
        """
        calls, self.calls = [call for call in self.calls if call.ended and not call.inputs.is_reference], []
        if self.run is None or not calls:
            return
        if self.run.size is None:
            self.run.size = self.size_met(calls[-1].inputs)
        self.run.add_step(calls, combined, sample)
        if self.kept_maps is not None:
            self.kept_maps.add_step(self.run, calls)
        if self.live is not None and not self.run.steps[-1].is_empty:
            is_known = self.volume is not None and isinstance(sample, Tensor) and sample.ndim > 0
            self.live.take(self.run, self.cells, sample[0].numel() < self.volume if is_known else None)


def packed(inputs: Inputs) -> Packed | None:
    """The size of an image that comes as tokens (batch, tokens, width) to be denoised; None of anything else."""
    if inputs.timestep is None or not inputs.image or inputs.image[0].ndim + inputs.listed != 3:
        return None
    tokens, width = inputs.image[0].shape[-2:]
    return Packed(int(tokens), int(width))
