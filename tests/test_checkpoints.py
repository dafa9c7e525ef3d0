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


class Adapted(nn.Linear):
    """A layer with an adapter, as PEFT has them."""

    def __init__(self, style: float, unused: float = 3.0) -> None:
        super().__init__(2, 2)
        self.scaling, self.active_adapters = {"style": style, "unused": unused}, ["style"]
        self.load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})


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


CHANGES: dict[str, Callable[[Stub], Any]] = {
    "nothing": lambda pipe: None,
    "scaled": scaled,
    "last bit": last_bit,
    "exchanged": exchanged,
    "another type": lambda pipe: pipe.unet.to(torch.float64),
    "another name": lambda pipe: setattr(pipe.unet, "later", pipe.unet._modules.pop("after")),
    "a text encoder": lambda pipe: pipe.components.update(text_encoder=Adapted(0.5)),
    "its weights": lambda pipe: pipe.components.update(text_encoder=Adapted(0.5).double()),
    "the strength of its adapter": lambda pipe: pipe.components.update(text_encoder=Adapted(1.0)),
    "nowhere": lambda pipe: pipe.unet.to("meta"),
    "nowhere and wider": lambda pipe: (
        pipe.unet.to("meta"),
        setattr(pipe.unet, "after", nn.Linear(16, 5, device="meta")),
    ),
}


@torch.no_grad()
def changed(name: str) -> Stub:
    CHANGES[name](pipe := Stub())
    return pipe


def test_every_number_name_shape_and_adapter_counts(tmp_path: Path) -> None:
    digests = {name: digest_of_weights(changed(name)) for name in CHANGES}
    assert len(set(digests.values())) == len(CHANGES)
    assert all(digest_of_weights(changed(name)) == digest for name, digest in digests.items())
    (unused := Stub()).components["text_encoder"] = Adapted(0.5, unused=4.0)
    assert digest_of_weights(unused) == digests["a text encoder"]
    assert magnitudes(changed("nowhere")) == {}
    options = {"sizes": [32], "scaling": "original", "prompts": ["a"]}
    measure(tmp_path / "run", samples=4, **options)
    pipe = changed("last bit")
    with pytest.raises(EntropyLabError, match="weights: "):
        measure(tmp_path / "run", pipe, samples=8, **options)
    assert pipe.calls == 0
    measure(tmp_path / "run", Stub(), samples=8, **options)


def test_offloaded_weights_are_read_from_where_they_are(tmp_path: Path) -> None:
    plain, away, disk, other = Stub(), Stub(), Stub(), changed("scaled")
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


KINDS: dict[str, Callable[[float], torch.Tensor]] = {
    "float8": lambda factor: (factor * torch.ones(4, 3)).to(torch.float8_e4m3fn),
    "complex": lambda factor: (factor * torch.ones(4, 3)).to(torch.complex64).conj(),
    "bool": lambda factor: torch.arange(12).reshape(4, 3) > factor,
    "nothing": lambda factor: torch.zeros(0, round(factor)),
    "transposed": lambda factor: (factor * torch.arange(12.0)).reshape(3, 4).T,
    "sparse": lambda factor: (factor * torch.eye(4)).to_sparse(),
    "quantized": lambda factor: torch.quantize_per_tensor(
        factor * torch.arange(12.0).reshape(4, 3), 0.1, 0, torch.qint8
    ),
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
