"""Attention backends of diffusers that hide the attention call: switched to the native one while somebody looks.

What is set is each processor's own backend, which goes before the process-wide default; that one is left alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from ..capture.changes import Shared, Undo, replaced
from ..errors import EntropyLabError

VISIBLE = ("native", "_native", "flex")
"""Beginnings of names of backends whose attention is a function of PyTorch."""

HIDING = ("XFormers", "NPU", "XLA", "Sage", "Flash")
"""Parts of names of attention processors that call a library of their own."""


switched = Shared()
"""Processors that call PyTorch's attention meanwhile."""


@contextmanager
def native_attention(roots: Mapping[str, nn.Module]) -> Iterator[None]:
    """Let the processors of ``roots`` call PyTorch's attention, while the context lasts.

    Raises:
        EntropyLabError: a processor calls a library of its own, and has no setting for it.
    """
    with ExitStack() as stack:
        for path, processor in processors(roots):
            name = type(processor).__name__
            if any(part in name for part in HIDING) and not name.endswith("2_0"):
                raise EntropyLabError(
                    f"the attention of {path} is computed by {name}, which can't be observed: set another processor, "
                    "e.g. pipe.disable_xformers_memory_efficient_attention() or "
                    "model.set_attn_processor(AttnProcessor2_0())."
                )
            if processor in switched or hides(processor):
                stack.enter_context(switched.changed(processor, switch))
        yield


def switch(processor: Any) -> Undo:
    """Let a processor call PyTorch's attention."""
    return replaced(processor, "_attention_backend", "native")


def processors(roots: Mapping[str, nn.Module]) -> Iterator[tuple[str, Any]]:
    """Path and attention processor of every layer that has one."""
    for name, root in roots.items():
        for path, module in root.named_modules(prefix=name):
            processor = getattr(module, "processor", None)
            if processor is not None:
                yield path, processor


def hides(processor: Any) -> bool:
    """Whether a processor's backend, its own or the process-wide one, hides the attention call."""
    if not hasattr(processor, "_attention_backend"):
        return False
    own = processor._attention_backend
    name = process_wide() if own is None else getattr(own, "value", own)
    return not str(name).startswith(VISIBLE)


def process_wide() -> str:
    """Name of the backend that diffusers uses where a processor names none."""
    try:
        from diffusers.models.attention_dispatch import _AttentionBackendRegistry
    except ImportError:
        return "native"
    active, _ = _AttentionBackendRegistry.get_active_backend()
    return str(getattr(active, "value", active))
