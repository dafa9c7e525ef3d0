"""Row statistics by a kernel in C, compiled at first use by the machine's own compiler: one streaming pass on the CPU.

The library lies in the user's cache, under a name made of its source, the compiler and the processor; processes that
compile it at once replace each other's whole file. Without a compiler the other backends answer.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .rows import STATISTICS, Rows, RowStatistics

SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
"""``-ffast-math`` would remove the rounding by which the kernel takes powers of 2."""

COMPILERS = ("cc", "gcc", "clang")

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
FROM_THE_KEYS = frozenset(("mean", "variance"))
"""Statistics that need no pass over the keys, only their mean and covariance."""

NO_ROOM = "no memory for the packed keys of one head"

WIDEST = 256
"""The largest head dimension."""

MOST_PARTS = 4
COUNTS = ("valid", "empty", "bad", "keys")
OF_PART = ("rows", "keys", "mass", "within", "entropy", "variance")
"""What the kernel adds up over rows: these counts, statistics and their squares, entropy between parts, and of each."""

BETWEEN = len(COUNTS) + 2 * len(STATISTICS)
NUMBERS = BETWEEN + 1 + MOST_PARTS * len(OF_PART)

Long, Pointer = ctypes.c_int64, ctypes.c_void_p


class Question(ctypes.Structure):
    """The kernel's argument; see ``native.c``."""

    _fields_ = (
        *((name, Pointer) for name in ("q", "k", "mask", "counted")),
        *((name, Long) for name in ("batch", "heads", "key_heads", "queries", "keys", "width")),
        *((f"{name}_strides", Long * count) for name, count in (("q", 4), ("k", 4), ("mask", 4), ("counted", 3))),
        *((name, Long) for name in ("dtype", "mask_is_bool", "is_causal", "wanted", "parts")),
        ("order", Pointer),
        ("bounds", Pointer),
        ("scale", ctypes.c_double),
        ("rows", Pointer * len(STATISTICS)),
        ("row_keys", Pointer),
        ("sums", Pointer),
        ("threads", Long),
        ("parallel", Pointer),
    )


class Unavailable(Exception):
    """Why there is no kernel on this machine."""


@lru_cache(maxsize=1)
def kernel() -> ctypes.CDLL | str:
    """The compiled kernel, or why there is none."""
    try:
        path = compiled()
        library = ctypes.CDLL(str(path))
        library.row_statistics.argtypes = [ctypes.POINTER(Question)]
        check(library)
    except (Unavailable, OSError, AttributeError) as problem:
        return f"no compiled kernel: {problem}"
    return library


def compiled() -> Path:
    """The library for this source, compiler and processor; compiled now if it is not in the cache."""
    if (cc := compiler()) is None:
        raise Unavailable("no C compiler (cc, gcc, clang) on the PATH")
    machine = "-mcpu=native" if platform.machine().lower() in ("arm64", "aarch64") else "-march=native"
    version = said(cc, "--version")
    named = hashlib.sha256("\n".join([version, machine, *FLAGS, processor(), SOURCE.read_text()]).encode()).hexdigest()
    folder = cache_folder()
    path = folder / f"rows-{named[:32]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch, path.name)
            said(cc, *FLAGS, machine, "-o", str(built), str(SOURCE), "-lm", "-lpthread")
            built.replace(path)
    return path


def compiler() -> str | None:
    """Path of a C compiler: what the environment calls CC, or the usual names."""
    return next((found for name in (os.environ.get("CC", ""), *COMPILERS) if (found := shutil.which(name))), None)


def said(*command: str) -> str:
    """What a command prints; Unavailable if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise Unavailable(f"{command[0]}: {problem}") from None
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    return done.stdout


def processor() -> str:
    """What tells this processor's instructions from another's that may share the cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


def cache_folder() -> Path:
    """A folder of the user's own; Unavailable if it can't be had, or if others may write there."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(base, "entropylab")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError as problem:
        raise Unavailable(f"{folder}: {problem.strerror}") from None
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise Unavailable(f"{folder} may be written by others")
    return folder


@lru_cache(maxsize=1)
def parallel() -> int | None:
    """Address of the OpenMP function by which torch runs its threads, so that the two don't keep threads each."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, Pointer).value
    except (AttributeError, OSError, TypeError):
        return None


def check(library: ctypes.CDLL) -> None:
    """Unavailable if the kernel's numbers on this machine are not those of a plain softmax."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, tokens, 12, generator=generator) for tokens in (5, 301))
    logits = (q.double() @ k.double().transpose(-1, -2)).log_softmax(-1)
    sums = torch.empty(1, 2, NUMBERS, dtype=torch.float64)
    question = asked(Rows(q, k, 1.0, None, False, ("entropy",)))
    question.sums = sums.data_ptr()
    failed = library.row_statistics(question)
    wanted = -(logits.exp() * logits).sum((-1, -2))
    if failed or not torch.allclose(sums[..., len(COUNTS)], wanted, atol=1e-4, rtol=0):
        raise Unavailable("the compiled kernel does not give the entropies of a plain softmax")


def why_not(rows: Rows) -> str | None:
    """Why this backend can't answer ``rows``, or None if it can."""
    if torch.compiler.is_compiling():
        return "the compiled kernel can't be a part of what torch compiles"
    return why_not_tensors(rows.q, rows.own_k) or (None if not isinstance(kernel(), str) else str(kernel()))


def why_not_tensors(q: Tensor, k: Tensor) -> str | None:
    """Why the kernel can't read q and k, or None if it can."""
    if q.device.type != "cpu":
        return f"the compiled kernel is for the CPU, not for {q.device.type!r}"
    if q.dtype not in DTYPES:
        return f"the compiled kernel takes float32, bfloat16 and float16, not {str(q.dtype).removeprefix('torch.')}"
    if q.shape[-1] > WIDEST:
        return f"the compiled kernel takes head dimensions up to {WIDEST}"
    if (q.requires_grad or k.requires_grad) and torch.is_grad_enabled():
        return "the compiled kernel has no gradients"
    plain, transformed = (Tensor, torch.nn.Parameter), torch._C._functorch.peek_interpreter_stack() is not None
    for side in (q, k):
        if transformed or type(side) not in plain or side.layout != torch.strided or side.is_neg():
            return "the compiled kernel needs plain tensors in memory"
    return None


def asked(rows: Rows) -> Question:
    """The question for q (batch, heads, queries, d), k (batch, key heads, keys, d) and a mask of four dimensions."""
    q, k, mask = rows.q, rows.own_k, rows.mask
    known = shaped(q.shape, q.stride(), k.shape, k.stride(), q.dtype, rows.scale, rows.is_causal, rows.statistics)
    question = Question.from_buffer_copy(known)
    question.q, question.k = q.data_ptr(), k.data_ptr()
    question.threads, question.parallel = torch.get_num_threads(), parallel()
    if mask is not None:
        question.mask, question.mask_is_bool = mask.data_ptr(), mask.dtype == torch.bool
        question.mask_strides[:] = mask.stride()
    return question


@lru_cache(maxsize=1024)
def shaped(
    q: torch.Size, q_strides: tuple[int, ...], k: torch.Size, k_strides: tuple[int, ...],
    dtype: torch.dtype, scale: float, is_causal: bool, statistics: tuple[str, ...],
) -> Question:  # fmt: skip
    """A question without its tensors, remembered: a layer asks the same at every step. It is copied, never changed."""
    return Question(
        batch=q[0], heads=q[1], key_heads=k[1], queries=q[2], keys=k[2], width=q[3], dtype=DTYPES[dtype],
        q_strides=(Long * 4)(*q_strides), k_strides=(Long * 4)(*k_strides),
        is_causal=is_causal, parts=1, scale=scale, wanted=bits(statistics),
    )  # fmt: skip


@lru_cache(maxsize=64)
def bits(statistics: tuple[str, ...]) -> int:
    """A bit for each of some statistics."""
    return sum(1 << STATISTICS.index(name) for name in statistics)


Prepared = Callable[[Tensor, Tensor, float], Tensor | None]
"""Gives the sums over rows (batch * heads, ``NUMBERS``), of q, k and a scale that look as was said; None if not."""


def prepared(q: Tensor, k: Tensor, scale: float, statistics: tuple[str, ...]) -> Prepared | None:
    """`head_sums` of tensors that look like these two, without a mask: what is the same for all of them is found once.

    None if the kernel is not asked for tensors that look like these.
    """
    library: Any = kernel()
    if isinstance(library, str) or FROM_THE_KEYS.issuperset(statistics) or why_not_tensors(q, k) is not None:
        return None
    known = asked(Rows(q, k, scale, None, False, statistics))
    looks = (type(q), type(k), q.shape, k.shape, q.dtype, k.dtype, q.layout, k.layout, q.device, k.device, scale)
    shape = (q.shape[0] * q.shape[1], NUMBERS)
    memory = (q.stride(), k.stride())

    def head_sums(q: Tensor, k: Tensor, scale: float) -> Tensor | None:
        own = (type(q), type(k), q.shape, k.shape, q.dtype, k.dtype, q.layout, k.layout, q.device, k.device, scale)
        if own != looks or (q.stride(), k.stride()) != memory:
            return None
        question, sums = Question.from_buffer_copy(known), torch.empty(shape, dtype=torch.float64)
        question.q, question.k, question.sums = q.data_ptr(), k.data_ptr(), sums.data_ptr()
        question.threads = torch.get_num_threads()
        if library.row_statistics(question):
            raise MemoryError(NO_ROOM)
        return sums

    return head_sums


def in_four(rows: Rows) -> Rows:
    """The same with one leading dimension, the mask boolean or float32; it is laid out only if it has to be."""
    q, k = (side.reshape(-1, *side.shape[-3:]) for side in (rows.q, rows.own_k))
    mask = rows.mask
    if mask is None:
        return replace(rows, q=q, own_k=k)
    mask = mask if mask.dtype == torch.bool else mask.to(torch.float32)
    shape = (*q.shape[:3], k.shape[2])
    if mask.ndim > 4 or rows.q.ndim > 4:
        mask = mask.expand(*rows.q.shape[:-3], *mask.shape[-3:]) if mask.ndim > 3 else mask
        mask = mask.reshape(-1, *mask.shape[-3:]) if mask.ndim > 3 else mask
    return replace(rows, q=q, own_k=k, mask=mask.expand(shape))


def row_statistics(rows: Rows) -> RowStatistics:
    """Every statistic of ``rows`` that is asked for, float32."""
    four = in_four(rows)
    question = asked(four)
    found = {name: torch.empty(four.q.shape[:3], dtype=torch.float32) for name in rows.statistics}
    for name, values in found.items():
        question.rows[STATISTICS.index(name)] = values.data_ptr()
    if rows.mask is None:
        keys = rows.keys()
    else:
        keys = torch.empty(four.q.shape[:3], dtype=torch.int64)
        question.row_keys = keys.data_ptr()
    library: Any = kernel()
    if library.row_statistics(question):
        raise MemoryError(NO_ROOM)
    shape = rows.q.shape[:-1]
    return RowStatistics(keys=keys.reshape(shape), **{name: values.reshape(shape) for name, values in found.items()})


@dataclass(frozen=True)
class KeyParts:
    """Which keys are of which part.

    Attributes:
        codes: (batch, keys), the part of every key.
        parts: which codes there are; the keys of others are nobody's.
        spans: where each part stands, if that is one stretch and the same for every image; else None.
    """

    codes: Tensor
    parts: tuple[int, ...]
    spans: tuple[slice, ...] | None = None

    @property
    def places(self) -> "list[slice | Tensor]":
        """Where each part stands: slices of the keys, or boolean (batch, keys)."""
        return list(self.spans) if self.spans is not None else [self.codes == part for part in self.parts]

    @cached_property
    def order(self) -> Tensor:
        """(batch, keys) int32: the keys, those of one part after those of another."""
        ranks = torch.zeros_like(self.codes)
        for rank, part in enumerate(self.parts):
            ranks[self.codes == part] = rank
        return ranks.argsort(dim=1, stable=True).to(torch.int32).contiguous()

    @cached_property
    def bounds(self) -> Tensor:
        """(batch, parts + 1) int64: where in this order each part begins and ends."""
        counts = torch.stack([(self.codes == part).sum(1) for part in self.parts], 1).cumsum(1)
        return torch.cat([counts.new_zeros(len(counts), 1), counts], 1).contiguous()


def head_sums(rows: Rows, counted: Tensor | None = None, parts: KeyParts | None = None) -> Tensor:
    """As `sums.head_sums`, as ``native.c`` lays the sums out: float64 (batch, heads, NUMBERS)."""
    shape, mask = rows.q.shape[:3], rows.mask
    if mask is not None:
        mask = mask if mask.dtype == torch.bool else mask.to(torch.float32)
        rows = replace(rows, mask=mask.expand(*shape, rows.own_k.shape[2]))
    question = asked(rows)
    if counted is not None:
        counted = counted.expand(shape)
        question.counted, question.counted_strides[:] = counted.data_ptr(), counted.stride()
    if parts is not None:
        question.order, question.bounds = parts.order.data_ptr(), parts.bounds.data_ptr()
        question.parts = len(parts.parts)
    sums = torch.empty(*shape[:2], NUMBERS, dtype=torch.float64)
    question.sums = sums.data_ptr()
    library: Any = kernel()
    if library.row_statistics(question):
        raise MemoryError(NO_ROOM)
    return sums
