"""What tells the weights of a model from others: exactly, for a run, or whatever their precision, for a calibration."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .capture import looks_like_attention
from .pipelines import denoisers

UNREADABLE = b"can't be read"
"""What stands for the content of weights that are nowhere, or of a type that doesn't show it."""


def digest_of_weights(pipe: Any) -> str:
    """What tells the weights of denoisers, text encoders, ... from others: every tensor's name, shape and bytes.

    About 1.3 GB a second. Weights that accelerate has put elsewhere (sequential offloading) are read from there, so
    that a pipeline has one digest wherever its weights are.
    """
    components = getattr(pipe, "components", None)
    roots = {**denoisers(pipe), **(components if isinstance(components, Mapping) else {})}
    found = hashlib.sha256()
    for component, root in roots.items():
        for name, value in root.state_dict().items() if isinstance(root, nn.Module) else ():
            found.update(f"{component} {name} ".encode())
            add(found, at_hand(root, name, value))
        for name, strengths in adapters(root) if isinstance(root, nn.Module) else ():
            found.update(f"{component} {name} {strengths}".encode())
    return found.hexdigest()[:32]


def adapters(root: nn.Module) -> Iterator[tuple[str, str]]:
    """The layers with adapters (LoRA), each with the strengths of those that are at work: they are no weights."""
    for name, module in root.named_modules():
        scaling, active = (getattr(module, known, None) for known in ("scaling", "active_adapters"))
        if isinstance(scaling, Mapping) and isinstance(active, list | tuple):
            at_work = () if getattr(module, "disable_adapters", False) is True else active
            yield name, str({adapter: scaling.get(adapter) for adapter in at_work})


def magnitudes(pipe: Any) -> dict[str, float]:
    """Layer path -> mean magnitude of the first matrix of every attention layer; it tells one checkpoint from another.

    Precision changes it by less than 0.2%. Layers whose weights can't be read, or are quantised, are left out.
    """
    found = {}
    for name, root in denoisers(pipe).items():
        for path, module in root.named_modules(prefix=name):
            matrices = (known for known in module.named_parameters() if known[1].ndim == 2)
            matrix = next(matrices, None) if looks_like_attention(module) else None
            if matrix is not None and (mean := magnitude(at_hand(module, *matrix))) is not None:
                found[path.replace("._orig_mod", "")] = mean
    return found


def magnitude(matrix: Tensor) -> float | None:
    """The mean magnitude of a matrix of floats; None if it can't be told."""
    if matrix.is_meta or not matrix.is_floating_point():
        return None
    try:
        return float(matrix.detach().to(torch.float64).abs().mean())
    except (NotImplementedError, RuntimeError, TypeError):
        return None


def at_hand(root: nn.Module, name: str, value: Any) -> Any:
    """A tensor of a module, from where accelerate keeps it if the module itself has only its shape."""
    if not isinstance(value, Tensor) or not value.is_meta:
        return value
    path, _, last = name.rpartition(".")
    try:
        hook = getattr(root.get_submodule(path), "_hf_hook", None)
        for each in getattr(hook, "hooks", [hook]):
            if getattr(each, "weights_map", None) is not None:
                return each.weights_map[last]
    except (AttributeError, KeyError, OSError):
        pass
    return value


def add(found: Any, value: Any) -> None:
    """Add a value of a state dict to a digest: the content of tensors, and of whatever holds tensors."""
    if isinstance(value, Tensor):
        found.update(f"{tuple(value.shape)} {value.dtype} ".encode())
        for part in contents(value):
            found.update(part)
    elif isinstance(value, Mapping | list | tuple):
        for part in value.items() if isinstance(value, Mapping) else value:
            add(found, part)
    else:
        plain = isinstance(value, str | int | float | bytes)
        found.update(f"{type(value).__name__} {value!r} ".encode() if plain else type(value).__name__.encode())


def contents(tensor: Tensor) -> Iterator[Any]:
    """The bytes of a tensor, whatever its device and type; of one that wraps others, theirs."""
    try:
        if hasattr(tensor, "__tensor_flatten__"):  # subclasses of quantisation and of parallelism
            for name in tensor.__tensor_flatten__()[0]:
                yield from contents(getattr(tensor, name))
        elif tensor.is_quantized:  # viewing these as bytes ends the process
            yield raw(tensor.dequantize())
        elif tensor.is_meta or tensor.layout is not torch.strided:
            yield UNREADABLE if tensor.is_meta else raw(tensor.to_dense())
        else:
            yield raw(tensor)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        yield UNREADABLE


def raw(tensor: Tensor) -> Any:
    """The bytes of a plain tensor, without a copy where it lies in one piece in the CPU's memory."""
    with torch._C.DisableTorchFunctionSubclass():
        plain = tensor.detach().as_subclass(Tensor).resolve_conj().resolve_neg()
        return plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
