"""What a GPU would mind is seen on a pretended one, and what it would not mind goes through."""

import pytest
import torch

from .gpu import GPUs, GPUTensor
from .placing import pretended


@pytest.fixture
def gpus():
    with pretended() as found:
        yield found


def numbers(device: str, *shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape).to(device)


def test_computes_where_it_says(gpus: GPUs) -> None:
    one = numbers("cuda:1", 2, 3)
    found = (one @ one.T).softmax(-1)
    assert isinstance(found, GPUTensor) and found.device == torch.device("cuda:1") and found.is_cuda
    assert torch.equal(found.cpu(), (numbers("cpu", 2, 3) @ numbers("cpu", 2, 3).T).softmax(-1))
    assert torch.zeros(2, device="cuda").device == torch.device("cuda:0")
    one[:, 1].add_(1)
    assert one.cpu().tolist() == [[0, 2, 2], [3, 5, 5]], "views share their memory"
    assert (numbers("cuda:1", 3) * torch.tensor(2.0)).cpu().tolist() == [0, 2, 4], "numbers of the host may join"
    with pytest.raises(RuntimeError, match="on the same device"):
        numbers("cpu", 3) * torch.tensor(2.0).to("cuda:1")


@pytest.mark.parametrize(
    "operation",
    [
        lambda one, other: one + other,
        lambda one, other: torch.cat([other, one]),
        lambda one, other: one @ other.T,
        lambda one, other: torch.where(one > 1, one, other),
    ],
)
def test_two_devices_are_an_error(gpus: GPUs, operation) -> None:
    one = numbers("cuda:1", 2, 3)
    operation(one, one.clone())
    for mixed in ("cuda:0", "cpu"):
        with pytest.raises(RuntimeError, match="on the same device, but found at least two"):
            operation(one, numbers(mixed, 2, 3))


@pytest.mark.parametrize(
    ("name", "waiting"),
    [
        ("aten::_local_scalar_dense", lambda one: one.sum().item()),
        ("aten::_local_scalar_dense", lambda one: bool(one.sum())),
        ("aten::_local_scalar_dense", lambda one: float(one[0])),
        ("aten::equal", lambda one: torch.equal(one, one.clone())),
        ("aten::nonzero", lambda one: one.nonzero()),
        ("aten::index", lambda one: one[one > 1]),
        ("copy to the host", lambda one: one.cpu()),
        ("copy to the host", lambda one: torch.empty(3).copy_(one)),
        ("copy from the host", lambda one: torch.ones(3).to("cuda:1")),
        ("tolist", lambda one: one.tolist()),
        ("torch.tensor", lambda one: torch.tensor([one[0], 1.0])),
    ],
)
def test_every_wait_is_counted(gpus: GPUs, name: str, waiting) -> None:
    one = torch.zeros(3, device="cuda:1")
    assert not gpus.log.waits
    waiting(one)
    assert gpus.log.waits[name] == gpus.log.waits.total() == 1


def test_what_does_not_wait_is_not_counted_as_such(gpus: GPUs) -> None:
    one = torch.zeros(3, 3, device="cuda:1")
    one.to("cuda:0").sum().to("cpu", non_blocking=True)
    one.masked_fill(one > 1, 2).where(one > 1, one).index_select(0, torch.zeros(2, dtype=torch.int64, device="cuda:1"))
    torch.ones(3).to("cuda:1", non_blocking=True)
    assert not gpus.log.waits


def test_launches_are_counted_and_views_are_not(gpus: GPUs) -> None:
    one = torch.zeros(2, 3, device="cuda:1")
    gpus.log.operations.clear()
    one.T.reshape(6)[None].view(3, 2).unsqueeze(0).expand(4, 3, 2).chunk(2)
    assert gpus.log.launches == {"aten::clone": 1}  # a transposed matrix can't be viewed as a vector
    (one + 1).sum(0).mul_(2)
    assert gpus.log.launches == {"aten::clone": 1, "aten::add": 1, "aten::sum": 1, "aten::mul_": 1}


def test_a_copy_is_there_once_its_own_gpu_is_waited_for(gpus: GPUs) -> None:
    found = numbers("cuda:1", 3).to("cpu", non_blocking=True)
    counts = torch.ones(3, dtype=torch.int64, device="cuda:1").to("cpu", non_blocking=True)
    assert found.isnan().all() and (counts == 0).all()
    torch.cuda.synchronize()
    assert found.isnan().all()
    torch.cuda.synchronize("cuda:1")
    assert found.tolist() == [0, 1, 2] and counts.tolist() == [1, 1, 1]


def test_a_copy_is_there_once_an_event_after_it_is_waited_for(gpus: GPUs) -> None:
    one = numbers("cuda:1", 3)
    stream = torch.cuda.current_stream("cuda:1")
    early = stream.record_event()
    first = one.to("cpu", non_blocking=True)
    between = stream.record_event()
    second = torch.empty(3).copy_(one, non_blocking=True)
    early.synchronize()
    assert first.isnan().all()
    between.synchronize()
    assert first.tolist() == [0, 1, 2] and second.isnan().all()
    stream.synchronize()
    assert second.tolist() == [0, 1, 2]


def test_all_is_as_it_was_afterwards() -> None:
    before = [getattr(torch.cuda, name) for name in ("synchronize", "is_available", "current_stream")], torch.tensor
    with pretended():
        left = torch.zeros(2, device="cuda:1")
    assert before == (
        [getattr(torch.cuda, name) for name in ("synchronize", "is_available", "current_stream")],
        torch.tensor,
    )
    with pytest.raises(RuntimeError, match="gone"):
        left + 1
