"""When the fused kernel is chosen, and why it can't be used."""

from types import SimpleNamespace

import pytest
import torch

import entropylab
from entropylab import EntropyLabError, row_statistics
from entropylab.entropy import choice, sdpa
from entropylab.entropy import triton as backend
from entropylab.entropy.rows import Rows, check_rows
from entropylab.errors import EntropyLabWarning

from ..attention import PlainAttention
from ..seeds import tokens
from .kernel import BASIC, HALF, ask

pytestmark = pytest.mark.usefixtures("poisoned")


def on_cuda(**options) -> Rows:
    """A question about tensors on a GPU that need not exist."""
    q = SimpleNamespace(device=torch.device("cuda", 0), dtype=HALF, shape=(1, 4, 16, 64), requires_grad=False)
    q = SimpleNamespace(**vars(q) | {name: options.pop(name) for name in ("dtype", "shape") if name in options})
    return Rows(q, q, 1.0, options.get("mask"), False, options.get("statistics", BASIC))


@pytest.fixture
def usable(monkeypatch):
    """As if this were Linux with an H100."""
    monkeypatch.setattr(backend, "installed", lambda: True)
    monkeypatch.setattr(backend, "why_not_here", lambda: None)
    monkeypatch.setattr(backend, "why_not_on", lambda device: None)


def test_chosen_by_itself_on_cuda(usable):
    assert choice.choose(on_cuda()) == "triton"
    assert choice.choose(on_cuda(shape=(1, 4, 16, 320))) == "sdpa"
    assert choice.choose(on_cuda(shape=(1, 4, 16, 320), statistics=("third",))) == "reference"


def test_never_unasked_on_a_cpu(interpreter):
    rows = check_rows(tokens(1, 4, 8), tokens(1, 6, 8), None, None, False, BASIC)
    assert choice.choose(rows) in ("native", "sdpa")
    assert choice.choose(rows, "triton") == "triton"


REASONS = [
    ({"installed": lambda: False}, {}, "triton is not installed"),
    ({}, {"dtype": torch.float64}, "no float64"),
    ({}, {"shape": (1, 4, 16, 257)}, "up to 256, not 257"),
    ({"why_not_here": lambda: "no C compiler"}, {}, "no C compiler"),
    ({"why_not_on": lambda device: f"{device} is too old"}, {}, "cuda:0 is too old"),
]


@pytest.mark.parametrize(("changes", "options", "reason"), REASONS)
def test_says_why_it_can_not_be_used(usable, monkeypatch, changes, options, reason):
    for name, value in changes.items():
        monkeypatch.setattr(backend, name, value)
    with pytest.raises(EntropyLabError, match=f"backend 'triton' can't be used here: .*{reason}"):
        choice.choose(on_cuda(**options), "triton")


def test_says_that_it_needs_a_gpu_and_gives_no_gradients(monkeypatch):
    with pytest.raises(EntropyLabError, match="runs on CUDA, not on device 'cpu'"):
        ask(tokens(1, 4, 8), tokens(1, 6, 8))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(EntropyLabError, match="no gradients"):
        ask(tokens(1, 4, 8).requires_grad_(), tokens(1, 6, 8))


def test_sdpa_reads_no_additive_mask_on_cuda():
    unreadable = SimpleNamespace(device=torch.device("cuda"), dtype=HALF, ndim=2, shape=(4, 16))
    assert "waiting for the device" in sdpa.why_not(on_cuda(mask=unreadable))


@pytest.fixture
def breaks(monkeypatch):
    """As if the CPU were a GPU on which the kernel does not compile; holds what was tried."""
    tried = []

    def fail(rows):
        tried.append(rows)
        raise RuntimeError("PTXAS error: no such architecture")

    monkeypatch.setattr(backend, "why_not", lambda rows: None)
    monkeypatch.setattr(backend, "row_statistics", fail)
    monkeypatch.setattr(choice, "failed", {}, raising=False)
    monkeypatch.setattr(choice.native, "why_not_tensors", lambda q, k: "not on what stands for a GPU")
    return tried


def test_a_kernel_that_fails_is_tried_once_and_another_answers(breaks):
    q, k = tokens(1, 4, 8), tokens(1, 6, 8)
    with pytest.warns(EntropyLabWarning, match="kernel failed on cpu with RuntimeError: PTXAS error") as warned:
        found = [row_statistics(q, k) for _ in range(3)]
    assert len(breaks) == len(warned) == 1
    expected = row_statistics(q, k, backend="sdpa")
    assert all(torch.equal(each.entropy, expected.entropy) for each in found)
    assert "no such architecture" in choice.why_not("triton", check_rows(q, k, None, None, False, BASIC), unasked=True)


def test_a_kernel_that_fails_when_asked_for_by_name_says_so(breaks):
    for _ in range(2):
        with pytest.raises(EntropyLabError, match="backend 'triton' can't be used here: .*no such architecture"):
            row_statistics(tokens(1, 4, 8), tokens(1, 6, 8), backend="triton")
    assert len(breaks) == 1


def test_a_kernel_short_of_memory_is_tried_again(breaks, monkeypatch):
    def short(rows):
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setattr(backend, "row_statistics", short)
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            row_statistics(tokens(1, 4, 8), tokens(1, 6, 8))
    assert choice.failed == {}


def test_a_kernel_that_fails_while_a_model_runs_costs_no_number(breaks):
    net = PlainAttention(8)
    with pytest.warns(EntropyLabWarning, match="not tried again"), entropylab.record(net) as rec:
        net(tokens(1, 6, 8))
    assert rec.unmeasured == {} and rec.dataset.entropy.notnull().all() and set(choice.failed) == {torch.device("cpu")}
