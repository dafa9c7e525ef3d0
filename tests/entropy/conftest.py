"""What the tests of the fused kernel share."""

import importlib.util
import math
import sys
from functools import cache
from types import ModuleType, SimpleNamespace

import pytest
import torch

from entropylab.entropy import triton as backend

KERNELS = ("entropylab.entropy.triton_kernel",)


@cache
def interpreted_kernel(name: str) -> ModuleType:
    """A copy of a kernel's module, loaded while TRITON_INTERPRET is set; the usual one may be compiled."""
    spec = importlib.util.find_spec(name)
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
    for name in KERNELS:
        monkeypatch.setitem(sys.modules, name, interpreted_kernel(name))
    yield
    for owner, known in zip(owners, before, strict=True):
        for name, value in list(vars(owner).items()):
            if name not in known:
                delattr(owner, name)
            elif value is not known[name]:
                setattr(owner, name, known[name])


@pytest.fixture
def poisoned(monkeypatch):
    """What the backend allocates is full of NaN, or of -1, until the kernel writes it."""

    def empty(*args, dtype, **options):
        return torch.full(*args, math.nan if dtype.is_floating_point else -1, dtype=dtype, **options)

    monkeypatch.setattr(backend, "torch", SimpleNamespace(**vars(torch) | {"empty": empty}))
