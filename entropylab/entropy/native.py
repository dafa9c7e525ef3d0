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
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .rows import NUMBERS, STATISTICS, KeyParts, Rows, RowStatistics, masked_out

SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
"""``-ffast-math`` would remove the rounding by which the kernel takes powers of 2."""

COMPILERS = ("cc", "gcc", "clang")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FROM_THE_KEYS = frozenset(("mean", "variance"))
"""Statistics that need no pass over the keys, only their mean and covariance."""

NO_ROOM = "no memory for the packed keys of one head"

WIDEST = 256
"""The largest head dimension."""

BITS = {name: 1 << place for place, name in enumerate(STATISTICS)}
Long, Pointer = ctypes.c_int64, ctypes.c_void_p


class Question(ctypes.Structure):
    """The kernel's argument; see ``native.c``."""

    _fields_ = (
        *((name, Long) for name in ("batch", "heads", "key_heads", "queries", "keys", "width")),
        *((f"{name}_strides", Long * count) for name, count in (("q", 4), ("k", 4), ("mask", 4), ("counted", 3))),
        *((name, Long) for name in ("is_causal", "wanted", "threads")),
        ("scale", ctypes.c_double),
        *((name, Pointer) for name in ("mask", "bias", "counted")),
        ("parts", Long),
        *((name, Pointer) for name in ("order", "bounds")),
        ("rows", Pointer * len(STATISTICS)),
        *((name, Pointer) for name in ("row_keys", "parallel")),
    )


@lru_cache(maxsize=1)
def kernel() -> Any:
    """The compiled kernel, a ctypes.CDLL, or why there is none, a str."""
    try:
        library = ctypes.CDLL(str(compiled()))
        library.row_statistics.argtypes = [ctypes.POINTER(Question), Pointer, Pointer, Pointer]
        check(library)
    except (OSError, AttributeError) as problem:
        return f"no compiled kernel: {problem}"
    return library


def compiled() -> Path:
    """The library for this source, compiler and processor; compiled now if it is not in the cache."""
    if (cc := compiler()) is None:
        raise OSError("no C compiler (cc, gcc, clang) on the PATH")
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
    """What a command prints; OSError if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired as problem:
        raise OSError(problem) from None
    if done.returncode:
        raise OSError(f"{command[0]} failed: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    return done.stdout


def processor() -> str:
    """What tells this processor's instructions from another's that may share the cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


def cache_folder() -> Path:
    """A folder of the user's own; OSError if it can't be had, or if others may write there."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "entropylab")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise OSError(f"{folder} may be written by others")
    return folder


@lru_cache(maxsize=1)
def parallel() -> int | None:
    """Address of the OpenMP function by which torch runs its threads, so that the two don't keep threads each."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, Pointer).value
    except (AttributeError, OSError, TypeError):
        return None


def check(library: ctypes.CDLL) -> None:
    """OSError if the kernel's numbers on this machine are not those of a plain softmax."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, tokens, 12, generator=generator) for tokens in (5, 301))
    logits = (q.double() @ k.double().transpose(-1, -2)).log_softmax(-1)
    sums = torch.empty(1, 2, NUMBERS, dtype=torch.float64)
    question = asked(Rows(q, k, 1.0, None, False, ("entropy",)))
    failed = library.row_statistics(question, q.data_ptr(), k.data_ptr(), sums.data_ptr())
    wanted = -(logits.exp() * logits).sum((-1, -2))
    if failed or not torch.allclose(sums[..., 4], wanted, atol=1e-4, rtol=0):
        raise OSError("the compiled kernel does not give the entropies of a plain softmax")


def why_not(rows: Rows) -> str | None:
    """Why this backend can't answer ``rows``, or None if it can."""
    if torch.compiler.is_compiling():
        return "the compiled kernel can't be a part of what torch compiles"
    return why_not_tensors(rows.q, rows.own_k) or (kernel() if isinstance(kernel(), str) else None)


def why_not_tensors(q: Tensor, k: Tensor) -> str | None:
    """Why the kernel can't read q and k, or None if it can."""
    if q.device.type != "cpu" or q.dtype not in DTYPES or q.shape[-1] > WIDEST:
        return f"the compiled kernel takes half precision and float32 on the CPU, head dimensions up to {WIDEST}"
    if (q.requires_grad or k.requires_grad) and torch.is_grad_enabled():
        return "the compiled kernel has no gradients"
    plain, transformed = (Tensor, torch.nn.Parameter), torch._C._functorch.peek_interpreter_stack() is not None
    for side in (q, k):
        if transformed or type(side) not in plain or side.layout != torch.strided or side.is_neg():
            return "the compiled kernel needs plain tensors in memory"
    return None


def asked(rows: Rows) -> Question:
    """The question about float32 q (batch, heads, queries, d), k (batch, key heads, keys, d) and a mask as of these."""
    q, k, mask = rows.q, rows.own_k, rows.mask
    question = Question(
        *q.shape[:2], k.shape[1], q.shape[2], k.shape[2], q.shape[3], q.stride(), k.stride(), is_causal=rows.is_causal,
        wanted=sum(map(BITS.__getitem__, rows.statistics)), scale=rows.scale, parts=1,
        threads=torch.get_num_threads(), parallel=parallel(),
    )  # fmt: skip
    if mask is not None:
        setattr(question, "mask" if mask.dtype == torch.bool else "bias", mask.data_ptr())
        question.mask_strides = mask.stride()
    return question


Prepared = Callable[[Tensor, Tensor, float], Tensor | None]
"""Gives the sums over rows (batch * heads, ``NUMBERS``), of q, k and a scale that look as was said; None if not."""


def prepared(q: Tensor, k: Tensor, scale: float, statistics: tuple[str, ...]) -> Prepared | None:
    """`head_sums` of tensors that look like these two, without a mask: what is the same for all of them is found once.

    None if the kernel is not asked for tensors that look like these.
    """
    library = kernel()
    if isinstance(library, str) or FROM_THE_KEYS.issuperset(statistics) or why_not_tensors(q, k) is not None:
        return None
    question = asked(readable(Rows(q, k, scale, None, False, statistics)))
    shape, is_half = (q.shape[0] * q.shape[1], NUMBERS), q.dtype != torch.float32
    looks = (type(q), type(k), q.shape, k.shape, q.dtype, k.dtype, q.layout, k.layout, q.device, k.device, scale)
    memory = (q.stride(), k.stride(), False, False)

    def head_sums(q: Tensor, k: Tensor, scale: float) -> Tensor | None:
        own = (type(q), type(k), q.shape, k.shape, q.dtype, k.dtype, q.layout, k.layout, q.device, k.device, scale)
        if own != looks or (q.stride(), k.stride(), q.is_neg(), k.is_neg()) != memory:
            return None
        if is_half:
            q, k = q.float(), k.float()
        sums = torch.empty(shape, dtype=torch.float64)
        if library.row_statistics(question, q.data_ptr(), k.data_ptr(), sums.data_ptr()):
            raise MemoryError(NO_ROOM)
        return sums

    return head_sums


def readable(rows: Rows) -> Rows:
    """The same in batches, in float32, with a mask of that or boolean; laid out anew only if it has to be."""
    mask = rows.mask
    if mask is not None and mask.dtype not in (torch.bool, torch.float32):
        mask = mask.float().masked_fill(masked_out(mask), -torch.inf)  # half precision rounds where that begins
        rows = replace(rows, mask=mask)
    rows = rows.in_batches()
    return rows if rows.q.dtype == torch.float32 else replace(rows, q=rows.q.float(), own_k=rows.own_k.float())


def answered(question: Question, rows: Rows, sums: Tensor | None = None) -> None:
    """Let the kernel fill what the question points at, and the sums."""
    if kernel().row_statistics(
        question, rows.q.data_ptr(), rows.own_k.data_ptr(), None if sums is None else sums.data_ptr()
    ):
        raise MemoryError(NO_ROOM)


def row_statistics(rows: Rows) -> RowStatistics:
    """Every statistic of ``rows`` that is asked for, float32."""
    given = readable(rows)
    question, shape = asked(given), rows.q.shape[:-1]
    found = {name: torch.empty(shape, dtype=torch.float32) for name in rows.statistics}
    for name, values in found.items():
        question.rows[STATISTICS.index(name)] = values.data_ptr()
    keys = rows.keys() if rows.mask is None else torch.empty(shape, dtype=torch.int64)
    if rows.mask is not None:
        question.row_keys = keys.data_ptr()
    answered(question, given)
    return RowStatistics(keys=keys, **found)


def head_sums(rows: Rows, counted: Tensor | None = None, parts: KeyParts | None = None) -> Tensor:
    """As `sums.head_sums`: float64 (batch, heads, NUMBERS)."""
    given = readable(rows)
    question = asked(given)
    if counted is not None:
        counted = counted.expand(given.q.shape[:3])
        question.counted, question.counted_strides = counted.data_ptr(), counted.stride()
    if parts is not None:
        question.order, question.bounds = parts.order.data_ptr(), parts.bounds.data_ptr()
        question.parts = len(parts.parts)
    sums = torch.empty(*given.q.shape[:2], NUMBERS, dtype=torch.float64)
    answered(question, given, sums)
    return sums
