"""What the tests of the kernels share."""

import importlib.util
import math
import sys
from dataclasses import replace
from functools import cache
from types import ModuleType, SimpleNamespace

import pytest
import torch

from entropylab import row_statistics
from entropylab.entropy import STATISTICS, native, sdpa
from entropylab.entropy import triton as backend
from entropylab.entropy.rows import check_rows

KERNELS = "entropylab.entropy.triton_kernel"


@cache
def interpreted_kernels() -> ModuleType:
    """A copy of the kernels' module, loaded while TRITON_INTERPRET is set; the usual one may be compiled."""
    spec = importlib.util.find_spec(KERNELS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def interpreter(monkeypatch):
    """Kernels run on the host for one test, though Triton itself was imported to compile.

    The interpreter changes Triton's language for every function that a kernel calls, which takes most of the time, and
    changes it back only for the kernel (older ones for nothing): here once for all, and back.
    """
    import triton
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

    core = triton.language.core
    owners = [triton.language, core, triton.language.math, core.tensor, core.dtype]
    before = [dict(vars(owner)) for owner in owners]
    standard, change = triton.language.standard, interpreter._patch_lang
    compiled = {name: value for name, value in vars(standard).items() if isinstance(value, JITFunction)}

    def change_once(function):
        scopes = change(compiled["sum"].fn), change(function)
        return SimpleNamespace(restore=lambda: [scope.restore() for scope in scopes[::-1]])

    class Interpreted(interpreter.InterpretedFunction):
        def __call__(self, *args, **options):
            return self.rewrite()(*args, **options)

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(interpreter, "_patch_lang", change_once)
    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", Interpreted.__call__)
    for name, value in compiled.items():
        function = Interpreted(value.fn)
        monkeypatch.setattr(standard, name, function)
        if hasattr(triton.language, name):
            monkeypatch.setattr(triton.language, name, function)
    monkeypatch.setitem(sys.modules, KERNELS, interpreted_kernels())
    yield
    for owner, known in zip(owners, before, strict=True):
        for name, value in list(vars(owner).items()):
            if name not in known:
                delattr(owner, name)
            elif value is not known[name]:
                setattr(owner, name, known[name])


@pytest.fixture
def usable(request, poisoned):
    """Makes a backend of some name usable, or skips the test."""

    def make(name):
        if name == "triton":
            pytest.importorskip("triton")
            request.getfixturevalue("interpreter")
        elif name == "native" and native.compiler() is None:
            pytest.skip("no C compiler on this machine")
        return name

    return make


@pytest.fixture(params=["native", "triton"])
def kernel(request, usable):
    """The name of a backend of our own."""
    return usable(request.param)


@pytest.fixture(params=["native", "triton", "sdpa", "reference"])
def ask(request, usable):
    """Statistics by a backend, those of them that it gives."""

    def ask(q, k, statistics=STATISTICS, **options):
        rows = check_rows(q, k, None, options.get("mask"), options.get("is_causal", False), statistics)
        own = [
            name
            for name in statistics
            if request.param != "sdpa" or not sdpa.why_not(replace(rows, statistics=(name,)))
        ]
        return row_statistics(q, k, statistics=own, backend=request.param, **options) if own else pytest.skip("none")

    usable(request.param)
    return ask


@pytest.fixture
def poisoned(monkeypatch):
    """What the kernels are given to fill is full of NaN, or of -1, until the kernel writes it."""

    def empty(*shape, dtype, **options):
        shape = shape[0] if len(shape) == 1 else shape
        return torch.full(shape, math.nan if dtype.is_floating_point else -1, dtype=dtype, **options)

    for module in (backend, native):
        monkeypatch.setattr(module, "torch", SimpleNamespace(**vars(torch) | {"empty": empty}))
