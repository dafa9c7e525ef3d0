"""CUDA without CUDA: tensors that say they are on a GPU, hold their values on the CPU, and act as those of a GPU do.

- An operation on tensors of two devices raises, but for single numbers of the host, which may join any.
- What makes the host wait is noted with its place: ``item``, ``bool``, copies to the host, ``nonzero``, ...
- Every operation is noted as one launch, but for views, and for memory that is only set aside.
- A copy to the host that does not wait delivers NaN (0 of integers) until its stream is waited for.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .kernels import ABSENT
from .log import Log
from .streams import Streams

WAITING = {
    f"aten::{name}"
    for name in (
        "_local_scalar_dense", "equal", "nonzero", "masked_select", "is_nonzero", "item", "_unique2", "unique_dim",
        "unique_consecutive", "bincount", "repeat_interleave", "allclose", "_linalg_check_errors",
    )
}  # fmt: skip
"""Operations whose result, or its shape, the host has to know."""

INDEXING = {f"aten::{name}" for name in ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_")}

BOOLEAN = (torch.bool, torch.uint8)

UNLAUNCHED = {
    f"aten::{name}"
    for name in (
        "empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "detach", "alias", "lift_fresh",
        "_unsafe_view", "view",
    )
}  # fmt: skip
"""Operations that compute nothing, and don't say in their schema that they are views."""


class GPUTensor(Tensor):
    """A tensor on a pretended GPU; ``inner`` has its values, on the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> "GPUTensor":
        found = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
            layout=inner.layout,
        )
        found.inner = inner
        return found

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if GPUs.now is None:
            raise RuntimeError("the pretended GPUs are gone")
        return GPUs.now.compute(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict) -> "GPUTensor":
        return GPUTensor(self.inner.clone(), self.device)

    def __repr__(self) -> str:
        return f"GPUTensor({self.inner!r}, {self.device})"

    def tolist(self) -> Any:
        if torch.overrides._is_torch_function_mode_enabled():  # whoever follows the model hears of it
            return torch.overrides.handle_torch_function(tolist, (self,), self)
        return tolist(self)

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()


def tolist(tensor: GPUTensor) -> Any:
    """``Tensor.tolist`` of one that is on a GPU."""
    if GPUs.now is not None:
        GPUs.now.wait("tolist", tensor.device)
    return tensor.inner.tolist()


class GPUs(TorchDispatchMode):
    """So many GPUs, while the context lasts; ``log`` has what was asked of them."""

    now: "GPUs | None" = None

    @classmethod
    def here(cls) -> "GPUs":
        """Those of the context."""
        if cls.now is None:
            raise RuntimeError("there are no pretended GPUs")
        return cls.now

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self.count, self.log, self.streams = count, Log(), Streams(self.wait)
        self.undoing = ExitStack()

    def __enter__(self) -> "GPUs":
        torch._C._ensureCUDADeviceGuardSet()
        GPUs.now = self
        self.undoing.enter_context(self.instead_of_cuda())
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.undoing.close()
        GPUs.now = None

    @contextmanager
    def instead_of_cuda(self) -> Iterator[None]:
        """``torch.cuda`` speaks of these GPUs, and modules exchange their parameters when they are moved."""
        functions = {
            "_lazy_init": lambda: None,
            "is_available": lambda: True,
            "device_count": lambda: self.count,
            "current_device": lambda: self.streams.device,
            "get_device_capability": lambda device=None: (9, 0),
            "is_bf16_supported": lambda *args, **kwargs: True,
            "empty_cache": lambda: None,
            "device_of": lambda tensor: ExitStack(),
            "device": lambda device: self.streams.on_device(self.gpu(device).index),
            "synchronize": self.synchronize,
            "current_stream": lambda device=None: self.streams.current(self.gpu(device)),
            "stream": self.streams.on_stream,
            "Stream": self.streams.kind(self.gpu),
        }
        swapped = torch.__future__.get_swap_module_params_on_conversion()
        lifted = torch._C._only_lift_cpu_tensors()
        with ExitStack() as undoing:
            for name, value in functions.items():
                undoing.callback(setattr, torch.cuda, name, getattr(torch.cuda, name))
                setattr(torch.cuda, name, value)
            undoing.callback(setattr, torch, "tensor", torch.tensor)
            torch.tensor = partial(self.tensor, torch.tensor)
            undoing.callback(torch.__future__.set_swap_module_params_on_conversion, swapped)
            torch.__future__.set_swap_module_params_on_conversion(True)
            undoing.callback(torch._C._set_only_lift_cpu_tensors, lifted)
            torch._C._set_only_lift_cpu_tensors(True)
            yield

    def gpu(self, device: Any = None) -> torch.device:
        """A device by its full name: the current GPU where "cuda" or nothing is said."""
        found = torch.device("cuda", device) if isinstance(device, int) else torch.device(device or "cuda")
        return torch.device("cuda", self.streams.device) if found == torch.device("cuda") else found

    def wait(self, name: str, device: torch.device | None = None) -> None:
        """The host waits: what the current stream of ``device`` was to deliver is there."""
        self.log.note("wait", name)
        if device is not None:
            self.streams.current(device).land()

    def synchronize(self, device: Any = None) -> None:
        """``torch.cuda.synchronize``: of one device, by default the current one."""
        self.log.note("wait", "synchronize")
        for stream in self.streams.of(self.gpu(device)):
            stream.land()

    def tensor(self, original: Any, data: Any, **options: Any) -> Tensor:
        """``torch.tensor``, which reads numbers out of tensors without an operation."""
        met: list[Tensor] = []
        values = unwrapped(data, met)
        for each in met:
            if isinstance(each, GPUTensor):
                self.wait("torch.tensor", each.device)
        return original(values, **options)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return self.compute(func, args, kwargs or {})

    def compute(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """One operation."""
        name = func._schema.name
        tensors: list[Tensor] = []
        inner_args, inner_kwargs = unwrapped(args, tensors), unwrapped(kwargs, tensors)
        wanted = None if kwargs.get("device") is None else self.gpu(kwargs["device"])
        if name == "aten::_to_copy":
            return self.copied(tensors[0], tensors[0].device if wanted is None else wanted, kwargs)
        if name == "aten::copy_":
            return self.copied_into(*tensors, len(args) > 2 and args[2])
        device = wanted or self.device_of(name, args, tensors)
        if device.type != "cuda":
            return func(*inner_args, **inner_kwargs)
        if name in WAITING or (name in INDEXING and any(each.dtype in BOOLEAN for each in tensors[1:])):
            self.wait(name, device)
        if wanted is not None:
            inner_kwargs["device"] = torch.device("cpu")
        found = ABSENT.get(name, func)(*inner_args, **inner_kwargs)
        if is_launched(func):
            self.log.note("launch", name)
        return wrapped(found, device, {id(each.inner): each for each in tensors if isinstance(each, GPUTensor)})

    def device_of(self, name: str, args: tuple, tensors: list[Tensor]) -> torch.device:
        """Where an operation computes.

        Raises:
            RuntimeError: its tensors are on several devices.
        """
        joining = [each for each in tensors if isinstance(each, GPUTensor) or each.ndim]
        if name in INDEXING and isinstance(args[0], GPUTensor):
            indices = [each for each in args[1] if each is not None]
            if any(not isinstance(each, GPUTensor) for each in indices):
                self.wait(f"{name} with indices of the host", args[0].device)
            joining = [
                each for each in joining if isinstance(each, GPUTensor) or all(each is not one for one in indices)
            ]
        devices = {each.device for each in joining}
        if len(devices) > 1:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{' and '.join(sorted(map(str, devices)))}! ({name})"
            )
        return devices.pop() if devices else torch.device("cpu")

    def copied(self, source: Tensor, target: torch.device, options: dict) -> Tensor:
        """``_to_copy``: to another device or dtype."""
        kept = {name: value for name, value in options.items() if name not in ("device", "non_blocking", "pin_memory")}
        inner = source.inner if isinstance(source, GPUTensor) else source
        if target.type == "meta":
            return torch.ops.aten._to_copy(inner, device="meta", **kept)
        found = torch.ops.aten._to_copy(inner, **kept)
        if target.type == "cuda":
            self.log.note("launch", "aten::_to_copy")
            if not isinstance(source, GPUTensor) and not options.get("non_blocking"):
                self.wait("copy from the host", target)
            return GPUTensor(found, target)
        if not isinstance(source, GPUTensor):
            return found
        if options.get("non_blocking"):
            return self.streams.current(source.device).deliver(found, torch.empty_like(found))
        self.wait("copy to the host", source.device)
        return found

    def copied_into(self, target: Tensor, source: Tensor, is_async: bool = False) -> Tensor:
        """``copy_``, from wherever."""
        there, here = (each.inner if isinstance(each, GPUTensor) else each for each in (target, source))
        if isinstance(source, GPUTensor) and not isinstance(target, GPUTensor):
            if is_async:
                return self.streams.current(source.device).deliver(here.clone(), there)
            self.wait("copy to the host", source.device)
        elif isinstance(target, GPUTensor):
            self.log.note("launch", "aten::copy_")
            if not isinstance(source, GPUTensor) and source.ndim and not is_async:
                self.wait("copy from the host", target.device)
        there.copy_(here)
        return target


def unwrapped(value: Any, met: list[Tensor]) -> Any:
    """Arguments with the values of tensors of GPUs in their place; all tensors are added to those ``met``."""
    if isinstance(value, Tensor):
        met.append(value)
        return value.inner if isinstance(value, GPUTensor) else value
    if isinstance(value, tuple | list):
        return [unwrapped(each, met) for each in value]
    return {name: unwrapped(each, met) for name, each in value.items()} if isinstance(value, dict) else value


def wrapped(found: Any, device: torch.device, changed: dict[int, GPUTensor]) -> Any:
    """Results as tensors of a GPU; those that were changed in place stay what they were."""
    if isinstance(found, Tensor):
        return changed[id(found)] if id(found) in changed else GPUTensor(found, device)
    return type(found)(wrapped(each, device, changed) for each in found) if isinstance(found, tuple | list) else found


@cache
def is_launched(func: Any) -> bool:
    """Whether a GPU has something to do."""
    schema = func._schema
    is_view = any(each.alias_info is not None and not each.alias_info.is_write for each in schema.returns)
    return not is_view and schema.name not in UNLAUNCHED and torch.Tag.inplace_view not in func.tags
