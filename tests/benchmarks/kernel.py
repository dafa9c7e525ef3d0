"""``row_statistics`` alone over the number of tokens: time per attention call, memory, growth, and the GPU's floor."""

import multiprocessing
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from entropylab import row_statistics
from entropylab.entropy import STATISTICS

from .paired import high_water, seconds, time_ratios

SIZES = {"cpu": (1024, 2048, 4096, 8192), "cuda": (1024, 2048, 4096, 8192, 16384, 32768, 65536)}
MEMORY_SIZES = {"cpu": (2048, 8192), "cuda": SIZES["cuda"]}
HEADS = {"cpu": 1, "cuda": 8}
WIDTHS = {"cpu": (40, 64), "cuda": (64, 128)}
LARGEST_MAP = {"cpu": 4096, "cuda": 16384}
"""Tokens up to which the materialised map takes part; its time and its memory grow with the square."""

MEMORY_OF = ("attention call", "entropy and sigma2", "every statistic", "materialised map")

ASKED = {
    "entropy": ("entropy",),
    "entropy and sigma2": ("entropy", "variance"),
    "sigma2": ("variance",),
    "every statistic": STATISTICS,
}

if torch.cuda.is_available():
    import triton
    import triton.language as tl

    @triton.jit
    def exponentials(out, COUNT: tl.constexpr, BLOCK: tl.constexpr):
        """COUNT exponentials of each of BLOCK numbers, in registers."""
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        x = at.to(tl.float32) * 1e-9
        for _ in range(COUNT):
            x = tl.exp2(-x)
        tl.store(out + at, x)


def device() -> str:
    """Where to run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def tensors(count: int, tokens: int, width: int) -> list[torch.Tensor]:
    """``count`` random tensors (1, heads, tokens, width), half precision on a GPU."""
    where = device()
    dtype = torch.float16 if where == "cuda" else torch.float32
    return [torch.randn(1, HEADS[where], tokens, width, device=where, dtype=dtype) for _ in range(count)]


def materialised(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Row entropy the obvious way: the whole map, then its logarithm."""
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return -(weights * weights.clamp(min=1e-30).log()).sum(-1)


def works(tokens: int, width: int) -> dict[str, Callable[[], Any]]:
    """The contestants, the attention call first."""
    q, k, v = tensors(3, tokens, width)
    found: dict[str, Callable[[], Any]] = {"attention call": partial(F.scaled_dot_product_attention, q, k, v)}
    found |= {name: partial(row_statistics, q, k, statistics=asked) for name, asked in ASKED.items()}
    if tokens <= LARGEST_MAP[device()]:
        found["materialised map"] = partial(materialised, q, k)
    return found


def memory(tokens: int, width: int, name: str) -> float | None:
    """What a contestant adds at its peak to its arguments [MiB], where it is measured."""
    if tokens not in MEMORY_SIZES[device()] or name not in MEMORY_OF:
        return None
    if device() == "cuda":
        work = works(tokens, width)[name]
        work()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=run_alone, args=(tokens, width, name, send))
    process.start()
    added: float = receive.recv()
    process.join()
    return added


def run_alone(tokens: int, width: int, name: str, send: Any) -> None:
    """Run one contestant in this process, and send what it added to its memory [MiB]."""
    with torch.no_grad():
        works(256, width)[name]()
        work, before = works(tokens, width)[name], high_water()
        work()
    send.send(high_water() - before)


def growth(points: dict[int, float | None]) -> float | None:
    """The exponent b of the power law c N^b through what was measured at N tokens, by least squares of logarithms."""
    known = {tokens: value for tokens, value in points.items() if value is not None and value > 0}
    if len(known) < 2:
        return None
    return float(np.polyfit(np.log(list(known)), np.log(list(known.values())), 1)[0])


def fastest(work: Callable[[], Any], repeats: int) -> float:
    """The shortest of several times [s]: a rate is what the device can do."""
    work()
    return min(seconds(work) for _ in range(repeats))


def rates(repeats: int) -> tuple[float, float]:
    """Half-precision multiply-adds and exponentials a second that this GPU reaches."""
    size, count, block, programs = 8192, 4096, 1024, 132 * 64
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.float16) for _ in range(2))
    products = size**3 / fastest(partial(torch.matmul, a, b), repeats)
    out = torch.empty(programs * block, device="cuda")
    launch = partial(exponentials[(programs,)], out, COUNT=count, BLOCK=block)
    return products, programs * block * count / fastest(launch, repeats)


def floor(tokens: int, width: int, products: float, exponentials_rate: float) -> float:
    """The least time of a row pass [s]: its products or its exponentials, whichever take longer."""
    elements = HEADS["cuda"] * tokens**2
    return max(elements * width / products, elements / exponentials_rate)


def run(repeats: int) -> list[dict[str, Any]]:
    """One row per head dimension, number of tokens and contestant; the ratio is to one attention call."""
    reached = rates(repeats) if device() == "cuda" else None
    with torch.no_grad():
        return [row for width in WIDTHS[device()] for row in run_width(width, repeats, reached)]


def run_width(width: int, repeats: int, reached: tuple[float, float] | None) -> list[dict[str, Any]]:
    """The rows of one head dimension."""
    rows: list[dict[str, Any]] = []
    for tokens in SIZES[device()]:
        for name, time in time_ratios(works(tokens, width), repeats).items():
            row = {"benchmark": "row_statistics", "case": f"N = {tokens}, d = {width}", "contestant": name, **time}
            row |= {"tokens": tokens, "added_mib": memory(tokens, width, name)}
            if reached is not None and name in ASKED and name != "sigma2":
                row["times_floor"] = time["seconds"] / floor(tokens, width, *reached)
            rows.append(row)
    for name in {row["contestant"]: None for row in rows}:
        own = [row for row in rows if row["contestant"] == name]
        for column, exponent in (("seconds", "time_growth"), ("added_mib", "memory_growth")):
            own[-1][exponent] = growth({row["tokens"]: row[column] for row in own})
    return rows
