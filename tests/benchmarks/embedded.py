"""The embedded pipeline end to end: plain, measured exactly, with 256 rows, and rescaled."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

import entropylab

from .paired import peak_memory, time_ratios

SIZES = (64, 96, 128)
STEPS = 6


def contexts(pipe: Any) -> dict[str, Callable[[], AbstractContextManager]]:
    """The contestants: what to sample inside of."""
    return {
        "plain": nullcontext,
        "exact": lambda: entropylab.record(pipe),
        "rows=256": lambda: entropylab.record(pipe, rows=256),
        "rescale": lambda: entropylab.rescale(pipe),
    }


def sample(pipe: Any, size: int, context: Callable[[], AbstractContextManager]) -> None:
    """Two images with guidance, inside a context."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    with context():
        pipe(
            ["a red heart", "a cat"], height=size, width=size, num_inference_steps=STEPS, guidance_scale=3.0,
            generator=generators, output_type="latent",
        )  # fmt: skip


def loaded() -> Any:
    """The embedded pipeline, silent."""
    pipe = entropylab.load()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make(size: int, name: str) -> Callable[[], None]:
    """The work of one contestant, in a process that has done nothing else."""
    pipe = loaded()
    return partial(sample, pipe, size, contexts(pipe)[name])


def run(repeats: int) -> list[dict[str, Any]]:
    """One row per size and contestant."""
    pipe, rows = loaded(), []
    for size in SIZES:
        works = {name: partial(sample, pipe, size, context) for name, context in contexts(pipe).items()}
        times = time_ratios(works, repeats)
        memory = {name: peak_memory(partial(make, size, name)) for name in works}
        for name, time in times.items():
            rows.append(
                {"benchmark": "embedded pipeline", "case": f"{size}x{size}", "contestant": name, **time}
                | {"memory_ratio": memory[name] / memory["plain"], "memory_mib": memory[name]}
            )
    return rows
