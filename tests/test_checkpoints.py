"""What tells one model from another in a long run: every number of its weights, wherever and however they are kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from torch import nn

from entropylab import EntropyLabError
from entropylab.checkpoints import digest_of_weights, magnitudes

from .runs.stub import Stub, measure


def scaled(pipe: Stub) -> None:
    """Numbers between those that a spaced sample of the weights looks at."""
    pipe.unet.attn1.to_q.weight[:, 1:13] *= 20


def last_bit(pipe: Stub) -> None:
    """The smallest change of one number."""
    weight = pipe.unet.attn1.to_k.weight
    weight[5, 7] = torch.nextafter(weight[5, 7], torch.tensor(torch.inf))


def exchanged(pipe: Stub) -> None:
    """The same numbers at other places."""
    pipe.unet.attn1.to_v.weight[:, [1, 2]] = pipe.unet.attn1.to_v.weight[:, [2, 1]].clone()


def in_another_type(pipe: Stub) -> None:
    pipe.unet.to(torch.float64)


@pytest.mark.parametrize("change", [scaled, last_bit, exchanged, in_another_type])
def test_a_run_is_not_gone_on_with_by_a_model_that_differs_anywhere(
    change: Callable[[Stub], None], tmp_path: Path
) -> None:
    measure(tmp_path / "run", sizes=[32], scaling="original", samples=4, prompts=["a"])
    pipe = Stub()
    with torch.no_grad():
        change(pipe)
    with pytest.raises(EntropyLabError, match="weights: "):
        measure(tmp_path / "run", pipe, sizes=[32], scaling="original", samples=8, prompts=["a"])
    assert pipe.calls == 0
    measure(tmp_path / "run", Stub(), sizes=[32], scaling="original", samples=8, prompts=["a"])


def test_names_shapes_and_text_encoders_count() -> None:
    plain, renamed, first, second = (Stub() for _ in range(4))
    renamed.unet.attn2 = renamed.unet.attn1
    for pipe, value in ((first, 1.0), (second, 2.0)):
        pipe.components["text_encoder"] = nn.Linear(2, 2)
        nn.init.constant_(pipe.components["text_encoder"].weight, value)
        nn.init.zeros_(pipe.components["text_encoder"].bias)
    assert digest_of_weights(plain) == digest_of_weights(Stub())
    assert len({digest_of_weights(pipe) for pipe in (plain, renamed, first, second)}) == 4


def test_offloaded_weights_are_read_from_where_they_are(tmp_path: Path) -> None:
    plain, away, disk, other = (Stub() for _ in range(4))
    with torch.no_grad():
        scaled(other)
    accelerate.cpu_offload(away.unet, execution_device="cpu", offload_buffers=True)
    accelerate.cpu_offload(other.unet, execution_device="cpu", offload_buffers=True)
    accelerate.disk_offload(disk.unet, str(tmp_path), execution_device="cpu")
    assert away.unet.attn1.to_q.weight.is_meta
    assert digest_of_weights(plain) == digest_of_weights(away) == digest_of_weights(disk) != digest_of_weights(other)


class Wrapper(torch.Tensor):
    """A tensor that wraps another, and knows no operation, as those of quantised weights."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Wrapper":
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=torch.float32)  # type: ignore[attr-defined]

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def __tensor_flatten__(self) -> tuple[list[str], object]:
        return ["inner"], object()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(str(function))


def quantized(factor: float) -> torch.Tensor:
    return torch.quantize_per_tensor(factor * torch.arange(12.0).reshape(4, 3), 0.1, 0, torch.qint8)


KINDS: dict[str, Callable[[float], torch.Tensor]] = {
    "float8": lambda factor: (factor * torch.ones(4, 3)).to(torch.float8_e4m3fn),
    "bfloat16": lambda factor: (factor * torch.ones(4, 3)).to(torch.bfloat16),
    "int8": lambda factor: (factor * torch.ones(4, 3)).to(torch.int8),
    "complex": lambda factor: (factor * torch.ones(4, 3)).to(torch.complex64).conj(),
    "bool": lambda factor: torch.arange(12).reshape(4, 3) > factor,
    "one number": lambda factor: torch.tensor(factor),
    "nothing": lambda factor: torch.zeros(0, round(factor)),
    "transposed": lambda factor: (factor * torch.arange(12.0)).reshape(3, 4).T,
    "sparse": lambda factor: (factor * torch.eye(4)).to_sparse(),
    "quantized": quantized,
    "wrapped": lambda factor: Wrapper(factor * torch.ones(4, 3)),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_every_type(kind: str) -> None:
    pipes = [Stub(), Stub(), Stub()]
    for pipe, factor in zip(pipes, (1.0, 1.0, 2.0), strict=True):
        pipe.unet.attn1.to_q.register_buffer("more", KINDS[kind](factor))
        pipe.unet.attn1.to_q.weight = nn.Parameter(KINDS[kind](factor), requires_grad=False)
    one, same, other = map(digest_of_weights, pipes)
    assert one == same != other
    assert set(magnitudes(pipes[0])) <= {"unet.attn1"}


def test_weights_that_are_nowhere_are_known_by_their_shapes() -> None:
    away, wider = Stub(), Stub()
    wider.unet.after = nn.Linear(16, 5)
    for pipe in (away, wider):
        pipe.unet.to("meta")
    assert len({digest_of_weights(pipe) for pipe in (away, wider, Stub())}) == 3
    assert magnitudes(away) == {}


class Adapted(nn.Linear):
    """A layer with an adapter, as PEFT has them."""

    def __init__(self, strength: float) -> None:
        super().__init__(2, 2)
        self.scaling, self.active_adapters = {"style": strength, "unused": 3.0}, ["style"]


def test_the_strength_of_adapters_counts() -> None:
    pipes = {strength: Stub() for strength in (0.5, 1.0)}
    for strength, pipe in pipes.items():
        pipe.unet.adapted = Adapted(strength)
        pipe.unet.adapted.load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})
    weak, strong = map(digest_of_weights, pipes.values())
    assert weak != strong
    pipes[1.0].unet.adapted.scaling |= {"style": 0.5, "unused": 4.0}
    assert digest_of_weights(pipes[1.0]) == weak
