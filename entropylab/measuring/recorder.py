"""What measures while a pipeline samples: it follows calls, steps and forwards, and looks at every attention call."""

import copy
import json
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import xarray as xr
from torch import Tensor, nn

from .. import pipelines
from ..capture import AttentionCall, Interception
from ..capture.inputs import Inputs
from ..dataset import describe
from ..errors import EntropyLabError, names_of
from ..pipelines.sight import Sight
from ..scaling import rule_at_work
from ..sizes import KnownSize, Packed, Size
from ..wording import counted
from .cells import Cells, LayerLabel
from .layout import dataset_of
from .provenance import provenance
from .reduce import Reduction
from .run import Run
from .steps import DenoiserCall


@dataclass(eq=False, repr=False)
class Recorder:
    """What ``record`` yields: it fills while the pipeline samples.

    ``dataset`` is what was measured so far, an xarray.Dataset like that of ``entropylab.measure``; ``unmeasured``
    names the attention layers that ran and could not be measured.

    Attributes:
        calls: forwards of denoisers since the last step.
        side: the forward of a ControlNet that runs.
        beside: those that have ended, and belong to the denoiser's next forward.
        passed_over: layer path -> kind, of layers that ran and were not chosen.
    """

    pipe: Any
    reduction: Reduction
    patterns: tuple[str, ...] = ()
    keep: tuple[str, ...] | None = None
    trained: Size | None = None
    cells: Cells = field(init=False)
    run: "Run | None" = None
    interception: Interception | None = None
    calls: list[DenoiserCall] = field(default_factory=list)
    side: DenoiserCall | None = None
    beside: list[DenoiserCall] = field(default_factory=list)
    passed_over: dict[str, str] = field(default_factory=dict)
    sight: Sight = field(init=False)
    follows: bool = False
    kinds: dict[tuple[str, int], tuple[Any, Any, tuple[str, bool]]] = field(default_factory=dict)
    foreign: bool = False

    def __repr__(self) -> str:
        ran = counted(len(self.cells.layers), "layer")
        return f"Recorder({type(self.pipe).__name__}, {ran} measured, {len(self.unmeasured)} not)"

    def __post_init__(self) -> None:
        self.cells = Cells(self.reduction.names, self.keep)
        self.sight = Sight(self.pipe, beside=True)

    @property
    def unmeasured(self) -> dict[str, str]:
        """Layer path -> reason, of attention layers that ran and could not be measured."""
        keyless = dict.fromkeys(self.cells.keyless, "its mask leaves no key to any row")
        return keyless | (self.interception.unseen if self.interception else {})

    @property
    def dataset(self) -> xr.Dataset:
        """What was measured so far."""
        cells = self.cells
        if self.run is not None and self.run.steps:
            cells = copy.deepcopy(cells)
            cells.add(self.run)
        if not cells.timesteps:
            raise EntropyLabError(f"nothing was measured yet: {self.why_nothing()}.")
        unmeasured = [f"{path}: {reason}" for path, reason in self.unmeasured.items()]
        return describe(dataset_of(cells)).assign_attrs(
            provenance(self.pipe), statistics=json.dumps(self.reduction.statistics), unmeasured=json.dumps(unmeasured)
        )

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
        return "no denoiser ran an attention layer inside the context"

    def begin_run(self, **labels: Any) -> None:
        """Start a new run, until ``finish_run``; ``labels`` are those of Run (size, scaling, prompts, seeds)."""
        self.finish_run()
        self.run, self.foreign = Run(**labels), True

    def new_run(self, size: KnownSize = None, **labels: Any) -> Run:
        """A run under the rule that rescales the pipeline now."""
        return Run(size, rule_at_work(self.sight.roots.values()), **labels)

    def finish_run(self, whole: bool = True) -> None:
        """Take what the current pipeline call gave into the Dataset.

        A step or a forward that did not end is dropped; so is a run that is not ``whole``, where samples are averaged.
        """
        if not self.follows:
            self.finish_step()
        self.calls, self.follows = [], False
        self.side, self.beside = None, []
        if self.run is not None and self.run.steps and (whole or self.cells.keeps_samples):
            self.cells.add(self.run)
        self.run, self.foreign = None, False

    def on_parts(self) -> None:
        """The pipeline may have other parts than before."""
        self.sight.on_parts()

    def on_call(self, arguments: dict[str, Any]) -> None:
        """The pipeline is called: a run of its own, unless ``measure`` has begun one."""
        self.sight.on_call(arguments)
        if self.foreign:
            return
        self.finish_run()
        prompts = names_of(arguments.get("prompt"))
        images = arguments.get("num_images_per_prompt") or 1
        self.run = self.new_run(
            self.sight.size, prompts=[text for text in prompts for _ in range(images)], is_call=True
        )

    def on_end(self, failed: bool) -> None:
        """The pipeline's call is over."""
        self.sight.on_end(failed)
        if not self.foreign:
            self.finish_run(whole=not failed)

    def on_latents(self, latents: Tensor) -> None:
        """The pipeline has made its latents."""
        self.sight.on_latents(latents)

    def on_encoded(self, arguments: dict[str, Any], found: Any) -> None:
        """The pipeline has encoded a prompt."""
        self.sight.on_encoded(arguments, found)

    def on_timesteps(self) -> None:
        """Sampling begins: with a pipeline call, or without one by the user's own loop."""
        self.sight.on_timesteps()
        self.calls, self.side, self.beside = [], None, []
        if self.run is None:
            self.run = self.new_run()
        elif self.run.steps and not self.foreign and not self.run.is_call:
            self.finish_run()
            self.run = self.new_run()
        self.follows = True

    def on_step(self, combined: Any, sample: Any) -> None:
        """A scheduler makes a step: what the denoiser calls since the last one gave is that step."""
        self.finish_step(combined, sample)

    def on_failure(self, problem: Exception) -> None:
        """Something went wrong in following the pipeline."""
        self.sight.on_failure(problem)

    def on_forward(self, name: str, root: nn.Module, inputs: Inputs) -> None:
        """A denoiser begins a forward pass; unless a scheduler that we follow ends the steps, each is one.

        What a ControlNet does belongs to the denoiser's next forward.
        """
        self.side = None
        if name in (self.sight.beside or ()):
            self.sight.on_forward(inputs)
            self.side = DenoiserCall(inputs, self.reduction)
            self.run = self.run or self.new_run()
            return
        if not self.follows:
            self.finish_step()
        self.sight.on_forward(inputs)
        size = self.sight.size_of_latent() or packed(inputs)
        own_loop = not (self.follows or self.foreign or (self.run is not None and self.run.is_call))
        if own_loop and self.run is not None and self.run.steps and self.run.size != size:
            waiting = self.beside
            self.finish_run()
            self.beside = waiting
        if self.run is None:
            self.run = self.new_run()
        if own_loop and not self.run.steps:
            self.run.size = size
        self.run.meet_rule(rule_at_work(self.sight.roots.values()), begun=bool(self.calls))
        self.calls.append(DenoiserCall(inputs, self.reduction))

    def on_output(self, name: str, root: nn.Module, output: Any) -> None:
        """A forward pass of a denoiser, or of a ControlNet, has ended."""
        call = self.current
        if call is None:
            return
        call.end()
        lost = dict(call.incomplete)
        if call is self.side:
            self.beside.append(call)
            self.side = None
        else:
            for other in self.beside:
                lost |= call.take_in(other)
            self.beside = []
            call.take_output(output)
        if self.interception is not None:
            for path, reason in lost.items():
                self.interception.lose(path, reason)

    @property
    def current(self) -> DenoiserCall | None:
        """The forward that runs."""
        return self.side or (self.calls[-1] if self.calls else None)

    def on_attention(self, call: AttentionCall) -> None:
        """A layer attends: what its rows add up to becomes a few numbers per head when the forward ends."""
        kind, is_chosen = self.known_kind(call)
        if not is_chosen:
            self.passed_over.setdefault(call.layer, kind)
            return
        forward = self.side or (self.calls[-1] if self.calls else None)
        if forward is None:
            return self.check_known(call.layer)
        if forward.inputs.timestep is None:
            forward.meet(call.query)
        if self.run is not None and self.run.multipliers.get(call.layer) is not call.rescaled:
            self.run.add_multiplier(call.layer, call.rescaled)
        base = call.layer if call.occurrence == 0 else f"{call.layer}:{call.occurrence + 1}"
        for part, found in self.reduction(call).items():
            path = f"{base}:{part}" if part else base
            forward.see(path, found, call, f"{call.layer}:{part}" if part else call.layer)
            if path not in self.cells.layers:
                block = pipelines.block_of(call.layer)
                if forward is self.side:
                    block = f"{call.layer.partition('.')[0]}.{block}"
                self.cells.layers[path] = LayerLabel(call.layer, block, kind, pipelines.part_of(call, part))
            if self.run is not None and path not in self.run.grown:
                trained = self.sight.latent_of(self.trained)
                self.run.grown[path] = pipelines.grown_keys(call, self.sight.latent, trained)

    def known_kind(self, call: AttentionCall) -> tuple[str, bool]:
        """Kind of a call and whether it is to be measured: asked for once, and again where the call looks different."""
        place, handed = (call.layer, call.occurrence), None if call.inputs is None else call.inputs.shapes
        looks = (call.query.shape, call.key.shape, call.context, call.own, handed)
        known = self.kinds.get(place)
        if known is None or known[0] is not call.roles or known[1] != looks:
            kind = pipelines.kind_of(call)
            known = self.kinds[place] = (call.roles, looks, (kind, self.is_chosen(call.layer, kind)))
        return known[2]

    def check_known(self, layer: str) -> None:
        """An EntropyLabError if a layer that was never measured runs while no denoiser does."""
        if all(label.module != layer for label in self.cells.layers.values()):
            raise EntropyLabError("ran outside of its denoiser's forward: call model(...), not model.forward(...)")

    def is_chosen(self, layer: str, kind: str) -> bool:
        """Whether a layer is to be measured."""
        return not self.patterns or any(fnmatchcase(layer, p) or p == kind for p in self.patterns)

    def finish_step(self, combined: Any = None, sample: Any = None) -> None:
        """What the denoiser calls since the last step gave becomes one step."""
        calls, self.calls = [call for call in self.calls if call.ended], []
        if self.run is None or all(call.forward.is_empty for call in calls):
            return
        if self.run.size is None:
            self.run.size = self.sight.size_of_latent() or packed(calls[-1].inputs)
        self.run.add_step(calls, combined, sample)


def packed(inputs: Inputs) -> Packed | None:
    """The size of an image that comes as tokens (batch, tokens, width) to be denoised; None of anything else."""
    if inputs.timestep is None or not inputs.image or inputs.image[0].ndim + inputs.listed != 3:
        return None
    tokens, width = inputs.image[0].shape[-2:]
    return Packed(int(tokens), int(width))
