"""Row statistics by one fused kernel of our own: q and k are read once a tile, and nothing but the rows is written.

It costs Q K^T and one exponential an element; no P V. Which statistics are wanted is known when the kernel is compiled,
so that entropy alone pays for nothing else. Mean and variance come from the same tiles, for three more operations an
element, or two where the mean of the keys is worth a launch of its own. A GPU does eight in the time of one
exponential, and entropy needs five or six, the maximum included. The covariance of the keys would give them in
O(N d^2), but only without a mask, in some ten launches and in float32, which a program that allowed TF32 rounds to ten
bits.

Half-precision products are exact and accumulated in float32; float32 is multiplied as such, without tensor cores.
Nothing here reads a value back to the host. Statistics carry no gradient.
"""

import importlib.util
import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from .rows import LARGEST_MASK, NUMBERS, STATISTICS, Rows, RowStatistics

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LARGEST_HEAD = 256
OLDEST_CAPABILITY = (8, 0)
LARGEST_ALIGNMENT = 16

BLOCKS = {
    2: {128: (128, 64, 8, 3), 256: (64, 64, 4, 2)},
    4: {96: (64, 32, 8, 2), 160: (32, 64, 8, 2), 256: (32, 32, 8, 2)},
}
"""Bytes an element, largest head dimension -> query rows and keys of a tile, warps, stages of the pipeline.

Sized for the 99 KiB of shared memory of the smaller Ampere and Ada cards, and so that no variant spills more than a few
registers, as the compiler reports for capabilities 8.0, 8.9, 9.0 and 10.0.
"""

KEYS_WORTH_A_MEAN = 2048
"""From so many keys on, their mean is taken first, if the variance is wanted of half-precision rows without a mask."""

TWO_BLOCKS_REGISTERS = 128
"""Registers a thread that let two blocks of eight warps share a multiprocessor: one multiplies while the other
exponentiates. The plain variants need little more and don't spill under this limit; the others would."""


def why_not(rows: Rows) -> str | None:
    """Why this backend can't answer ``rows``, or None if it can."""
    device, dtype, head = rows.q.device, rows.q.dtype, rows.q.shape[-1]
    if device.type != "cuda" and not interpreted():
        return f"the kernel runs on CUDA, not on device {device.type!r}"
    if dtype not in DTYPES or head > LARGEST_HEAD:
        given = f"{str(dtype).removeprefix('torch.')} of {head}"
        return f"the kernel takes half precision and float32 of head dimensions up to {LARGEST_HEAD}, not {given}"
    if rows.want_gradients():
        return "the kernel gives no gradients"
    return None if interpreted() else why_not_on(device)


def interpreted() -> bool:
    """Whether Triton was told to interpret kernels on the host, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def why_not_on(device: torch.device) -> str | None:
    """Why the kernel can't be compiled here, or not run on this GPU; None if it can. Nothing is imported."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if sys.platform != "linux" or torch.version.hip is not None:
        return "the kernel is for CUDA on Linux"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler to launch a kernel, and found neither gcc nor clang"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        return f"the kernel needs compute capability 8.0 or more, not {capability[0]}.{capability[1]}"
    return None


def row_statistics(rows: Rows) -> RowStatistics:
    """Every statistic of ``rows``, accumulated in float32, on their device, without waiting for it."""
    found, counts = launched([rows])
    shape = rows.q.shape[:-1]
    keys = rows.keys() if counts is None else counts[0].reshape(shape)
    return RowStatistics(
        keys, **{name: own.reshape(shape) for name, own in zip(rows.statistics, found[0], strict=True)}
    )


def launched(pieces: Sequence[Rows]) -> tuple[Tensor, Tensor | None]:
    """What the kernel writes of every piece: (pieces, statistics, batch, heads, queries), and with masks their keys."""
    pieces = [rows.in_batches() for rows in pieces]
    if interpreted() and pieces[0].q.dtype == torch.bfloat16:  # multiplied as the integers it is kept in
        pieces = [replace(rows, q=rows.q.float(), own_k=rows.own_k.float()) for rows in pieces]
    first = pieces[0]
    shape, device = first.q.shape[:-1], first.q.device
    found = torch.empty((len(pieces), len(first.statistics), *shape), dtype=torch.float32, device=device)
    counts = None
    if first.mask is not None:
        counts = torch.empty((len(pieces), *shape), dtype=torch.int64, device=device)
    with torch.cuda.device_of(found):
        for index, rows in enumerate(pieces):
            launch(rows, found[index], None if counts is None else counts[index])
    return found, counts


Some = tuple[int, int, Tensor | None]
"""Query rows: from where to where, and which of all of them count (batch, heads, queries), None if all."""

ROWS_AT_ONCE = 1024
"""So many rows the kernel of sums adds up at a time; few registers a thread with eight warps."""


def head_sums(
    pieces: Sequence[Rows], statistics: tuple[str, ...], is_split: bool, some: Sequence[Some]
) -> list[Tensor]:
    """The sums over each of ``some`` query rows: float64 (batch, heads, ``NUMBERS``), by a launch; one more a piece.

    The pieces are parts of the keys if ``is_split``, else one; about the same queries and the same statistics, the mean
    among them, and entropy and LSE of parts. Those of ``statistics`` are summed.
    """
    found, counts = launched(pieces)
    with torch.cuda.device_of(found):
        return [launch_sums(pieces, statistics, is_split, found, counts, *where) for where in some]


def launch_sums(
    pieces: Sequence[Rows], statistics: tuple[str, ...], is_split: bool, found: Tensor, counts: Tensor | None,
    begin: int, end: int, counted: Tensor | None,
) -> Tensor:  # fmt: skip
    """Start the kernel of sums on what was found of the rows."""
    from .triton_kernel import sum_kernel

    parts, _, batch, heads, queries = found.shape
    sums = torch.empty((batch, heads, NUMBERS), dtype=torch.float64, device=found.device)
    keys = [rows.own_k.shape[-2] for rows in pieces] + [0] * (4 - parts)
    strides = (0, 0, 0) if counted is None else counted.expand(batch, heads, queries).stride()
    choices = summed_for(
        pieces[0].statistics, statistics, parts, is_split, counts is not None, pieces[0].is_causal, counted is not None
    )
    sum_kernel[(batch * heads,)](
        found, found if counts is None else counts, bytes_of(counted, found), sums,
        *strides, begin, end, queries, heads, found.stride(1), *keys, **choices,
    )  # fmt: skip
    return sums


@cache
def summed_for(
    found: tuple[str, ...], statistics: tuple[str, ...], parts: int, is_split: bool,
    is_masked: bool, is_causal: bool, is_counted: bool,
) -> dict[str, Any]:  # fmt: skip
    """What the kernel of sums is compiled for."""
    return {
        **{name.upper(): found.index(name) if name in found else -1 for name in STATISTICS},
        "FOUND": len(found),
        "WANTED": sum(1 << STATISTICS.index(name) for name in statistics),
        "PIECES": parts,
        "PARTS": power_of_two(parts),
        "SPLIT": is_split,
        "MASKED": is_masked,
        "CAUSAL": is_causal,
        "COUNTED": is_counted,
        "NUMBERS": NUMBERS,
        "COLUMNS": power_of_two(NUMBERS),
        "ROWS": ROWS_AT_ONCE,
        "num_warps": 16 if parts > 2 else 8,
    }


def launch(rows: Rows, out: Tensor, counts: Tensor | None) -> None:
    """Start the kernel on rows in batches; out (statistics, batch, heads, queries), counts (batch, heads, queries)."""
    from .triton_kernel import row_kernel

    q, k, mask, choices = rows.q, rows.own_k, rows.mask, compiled_for(rows)
    kind = torch.float32 if mask is None or mask.dtype == torch.bool else mask.dtype
    programs = q.shape[0] * q.shape[1] * -(-q.shape[2] // choices["ROWS"])
    strides = [
        *divided(q.stride(), choices["ALIGNED"]),
        *divided(k.stride(), choices["ALIGNED"]),
        *((0,) * 4 if mask is None else divided(mask.stride(), choices["MASK_ALIGNED"])),
    ]
    centre = k.mean(-2, dtype=torch.float32).contiguous() if choices["CENTRE"] else q
    sizes = [out.stride(0), q.shape[2], k.shape[2], q.shape[1], q.shape[1] // k.shape[1]]
    row_kernel[(programs,)](
        q, k, bytes_of(mask, q), centre, out, out if counts is None else counts,
        *strides, *sizes, rows.scale, lowest(kind), **choices,
    )  # fmt: skip


def compiled_for(rows: Rows) -> dict[str, Any]:
    """What the kernel is compiled for: its upper-case arguments, and the compiler's own."""
    q, k, mask = rows.q, rows.own_k, rows.mask
    masked = "" if mask is None else "boolean" if mask.dtype == torch.bool else "additive"
    return choices_for(
        q.dtype, q.shape[-1], rows.statistics, rows.is_causal, min(alignment(q), alignment(k)),
        masked, mask is not None and mask.stride(-2) != 0, LARGEST_ALIGNMENT if mask is None else alignment(mask),
        k.shape[-2] >= KEYS_WORTH_A_MEAN,
    )  # fmt: skip


@lru_cache(maxsize=1024)
def choices_for(
    dtype: torch.dtype, head: int, asked: tuple[str, ...], is_causal: bool, aligned: int,
    mask: str, mask_by_row: bool, mask_aligned: int, is_long: bool,
) -> dict[str, Any]:  # fmt: skip
    """What `compiled_for` says, remembered: every layer asks the same at every step."""
    size = dtype.itemsize
    tile_rows, tile_keys, warps, stages = BLOCKS[size][min(width for width in BLOCKS[size] if width >= head)]
    dims, more_dims = head_blocks(head)
    is_plain = not mask and not {"third", "fourth", "sensitivity"} & set(asked)
    return {
        **{name.upper(): asked.index(name) if name in asked else -1 for name in STATISTICS},
        "MASK": mask,
        "MASK_BY_ROW": mask_by_row,
        "MASK_ALIGNED": mask_aligned,
        "CAUSAL": is_causal,
        "CENTRE": is_plain and not is_causal and size == 2 and is_long and "variance" in asked,
        "HEAD": head,
        "DIMS": dims,
        "MORE_DIMS": more_dims,
        "ROWS": tile_rows,
        "KEYS": tile_keys,
        "CAREFUL": size == 4,
        "ALIGNED": aligned,
        "num_warps": warps,
        "num_stages": stages,
        "maxnreg": TWO_BLOCKS_REGISTERS if is_plain and size == 2 and warps == 8 else None,
    }


def alignment(tensor: Tensor) -> int:
    """The largest power of two up to 16 that divides the strides of batch, head and row."""
    return math.gcd(LARGEST_ALIGNMENT, *tensor.stride()[:3])


def divided(strides: tuple[int, ...], aligned: int) -> tuple[int, ...]:
    """Strides (batch, head, row, last) with all but the last divided by what they are all multiples of."""
    return (*(stride // aligned for stride in strides[:3]), strides[3])


def head_blocks(head: int) -> tuple[int, int]:
    """Two powers of two, at least 16 or 0, that cover a head dimension with little to spare: 72 -> 64 + 16.

    >>> [head_blocks(head) for head in (8, 40, 64, 80, 160, 256)]
    [(16, 0), (32, 16), (64, 0), (64, 16), (128, 32), (256, 0)]
    """
    whole = max(16, power_of_two(head))
    first = max(16, whole // 2)
    rest = max(16, power_of_two(head - first)) if head > first else 0
    return (first, rest) if first + rest < whole else (whole, 0)


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below ``number``."""
    return 1 << (number - 1).bit_length()


def bytes_of(mask: Tensor | None, instead: Tensor) -> Tensor:
    """A mask the kernel can load: booleans as bytes, and any tensor at all where it has no mask to read."""
    if mask is None:
        return instead
    return mask.view(torch.uint8) if mask.dtype == torch.bool else mask


@cache
def lowest(dtype: torch.dtype) -> float:
    """What of an additive mask leaves its key out, as its dtype rounds it: bfloat16 has -9984 for -9999 and -10000."""
    return torch.tensor(LARGEST_MASK, dtype=dtype, device="cpu").item()
