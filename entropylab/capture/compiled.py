"""Compiled code: it holds no calls that could be seen or followed, so it runs as it was written meanwhile."""

from typing import Any

import torch
from torch import nn

from .shared import Shared, Undo

stances = Shared()
"""Stances of the compiler."""


def is_compiled(module: nn.Module) -> bool:
    """Whether a module or a method of it was handed to ``torch.compile``, or it was compiled in place."""
    in_place = getattr(module, "_compiled_call_impl", None) is not None
    return in_place or any(hasattr(own, "_torchdynamo_orig_callable") for own in (module, *vars(module).values()))


def run_eagerly() -> None:
    """Let compiled code run as it was written, until as many times ``run_compiled``."""
    stances.begin(torch.compiler, force_eager)


def run_compiled() -> None:
    """Undo one ``run_eagerly``."""
    stances.end(torch.compiler)


def force_eager(compiler: Any) -> Undo:
    """Change the stance of the compiler."""
    stance = compiler.set_stance("force_eager")
    return lambda: stance.__exit__(None, None, None)
