"""Pipelines on pretended GPUs, and what they are handed."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from entropylab import pipelines
from entropylab.entropy import triton as backend
from entropylab.entropy.rows import Rows

from .gpu import GPUs, GPUTensor
from .kernels import row_kernel, sum_kernel


@contextmanager
def pretended(kernel: bool = True) -> Iterator[GPUs]:
    """Two GPUs; row statistics come from a stand-in for the fused kernel, or without ``kernel`` from SDPA."""
    if torch.cuda.is_available():
        pytest.skip("GPUs can't be pretended beside real ones; CUDA_VISIBLE_DEVICES='' hides these")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "why_not_on", lambda device: None if kernel else "not here")
        patch.setattr(backend, "launch", launch)
        patch.setattr(backend, "launch_sums", launch_sums)
        yield stack.enter_context(GPUs())


def launch(rows: Rows, out: Any, counts: Any) -> None:
    """What launches our kernel: one launch, on tensors of one pretended GPU."""
    backend.compiled_for(rows)
    given = (rows.q, rows.own_k, rows.mask, out, counts)
    assert len({each.device for each in given if each is not None}) == 1
    q, k, mask, out, counts = (None if each is None else each.inner for each in given)
    row_kernel(replace(rows, q=q, own_k=k, mask=mask), out, counts)
    GPUs.here().log.note("launch", "row_kernel")


def launch_sums(
    pieces: Any, statistics: Any, is_split: bool, found: Any, counts: Any, begin: int, end: int, counted: Any
) -> Any:
    """What launches our kernel of sums: one launch, on tensors of one pretended GPU."""
    assert len({each.device for each in (found, counts, counted) if each is not None}) == 1
    bare = (None if each is None else each.inner for each in (found, counts))
    inner = sum_kernel(pieces, statistics, is_split, *bare, begin, end, None if counted is None else counted.inner)
    GPUs.here().log.note("launch", "sum_kernel")
    return GPUTensor(inner, found.device)


def sent(value: Any, device: str | torch.device) -> Any:
    """Tensors of the host, in whatever they are, on ``device``."""
    return tree_map(lambda each: each.to(device) if isinstance(each, Tensor) else each, value)


@contextmanager
def on_gpus(pipe: Any, place: str) -> Iterator[None]:
    """``pipe``, and all it is called with, on pretended GPUs, while the context lasts."""
    home = "cuda:0" if place == "both" else place
    pipe.to(home)
    if place == "both":
        spread(pipelines.denoisers(pipe).values())
    own = type(pipe)
    original = own.__call__

    @wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, *sent(args, home), **sent(kwargs, home))

    with pytest.MonkeyPatch.context() as patch, torch.cuda.device(torch.device("cuda", 0)):
        patch.setattr(own, "__call__", call)
        yield


def spread(denoisers: Any) -> None:
    """Every second block of the denoisers on cuda:1, as accelerate does it: what goes in and comes out is sent."""
    for denoiser in denoisers:
        blocks = [block for part in denoiser.children() if isinstance(part, nn.ModuleList) for block in part]
        for block in blocks[1::2]:
            block.to("cuda:1")
            block.register_forward_pre_hook(lambda _, *given: sent(given, "cuda:1"), with_kwargs=True)
            block.register_forward_hook(lambda _, args, found: sent(found, "cuda:0"))


def on_host(images: Any) -> Tensor:
    """Images as a tensor of the host."""
    return images.inner if isinstance(images, GPUTensor) else torch.as_tensor(images)
