"""Compiled code: it holds no calls that could be seen or followed, so it runs as it was written meanwhile."""

import threading
from typing import Any

import torch
from torch import nn

lock = threading.Lock()
eager: list[Any] = []
"""One entry for everyone who has compiled code run eagerly: first the stance of the compiler before."""


def is_compiled(module: nn.Module) -> bool:
    """Whether a module or a method of it was handed to ``torch.compile``, or it was compiled in place."""
    in_place = getattr(module, "_compiled_call_impl", None) is not None
    return in_place or any(hasattr(own, "_torchdynamo_orig_callable") for own in (module, *vars(module).values()))


def run_eagerly() -> None:
    """Let compiled code run as it was written, until as many times ``run_compiled``."""
    with lock:
        eager.append(torch.compiler.set_stance("force_eager") if not eager else None)


def run_compiled() -> None:
    """Undo one ``run_eagerly``."""
    with lock:
        stance = eager.pop()
        if not eager:
            stance.__exit__(None, None, None)
