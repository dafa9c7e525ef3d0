"""What every size and scaling is sampled from, batch by batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import EntropyLabError, one_line
from ..prompts import digest
from ..scaling import NamedRule, at_work, rescaled
from ..sizes import Size, size_label
from .recorder import Recorder

Call = Callable[[Any, Size, list[str], list[torch.Generator]], Any]


@dataclass(frozen=True)
class Plan:
    """What every size and scaling is sampled from."""

    batch_size: int
    prompts: list[str]
    seed: int
    call: Call | None
    settings: dict[str, Any]

    @property
    def attributes(self) -> dict[str, Any]:
        """Steps and guidance, as far as they are given, and what tells the prompts from others."""
        names = {"steps": "num_inference_steps", "guidance_scale": "guidance_scale"}
        given = {name: self.settings[key] for name, key in names.items() if key in self.settings}
        return {**given, "prompts_digest": digest(self.prompts)}

    def sample(
        self,
        pipe: Any,
        recorder: Recorder,
        size: Size,
        rule: NamedRule,
        train_size: Any,
        bar: Any,
        first: int = 0,
        last: int | None = None,
    ) -> None:
        """Sample the prompts from ``first`` to ``last`` (not included; None for all) at one size with one rule."""
        last = len(self.prompts) if last is None else last
        working = at_work(recorder.roots.values())
        leave_be = rule.is_original or (working is not None and working.rule is rule)
        with nullcontext() if leave_be else rescaled(pipe, rule, train_size):
            for start in range(first, last, self.batch_size):
                prompts = self.prompts[start : min(start + self.batch_size, last)]
                seeds = [self.seed + start + i for i in range(len(prompts))]
                generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
                recorder.begin_run(size=size, scaling=rule.name, prompts=prompts, seeds=seeds)
                with room_for(size, len(prompts)):
                    if self.call is not None:
                        self.call(pipe, size, prompts, generators)
                    else:
                        pipe(prompt=prompts, height=size[0], width=size[1], generator=generators, **self.settings)
                recorder.finish_run()
                bar.update(size[0] * size[1] * len(prompts))


@contextmanager
def room_for(size: Size, images: int) -> Iterator[None]:
    """Say at which size there is no memory to sample, of a GPU or the host; measuring alone makes do with less."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise EntropyLabError(
            f"size {size_label(size)} has no room in memory with {images} images at once: lower batch_size, or the "
            f"precision. {one_line(error, 200)}"
        ) from error
