"""When the fused kernel is chosen, compiled for GPUs that are absent, and run on those that are present."""

import inspect
from types import SimpleNamespace

import pytest
import torch

import entropylab
from entropylab import EntropyLabError, row_statistics
from entropylab.entropy import STATISTICS, choice, sdpa
from entropylab.entropy import triton as backend
from entropylab.entropy.rows import Rows, RowStatistics, check_rows
from entropylab.errors import EntropyLabWarning

from ..attention import PlainAttention
from ..seeds import tokens
from .kernel import BASIC, BRAIN, HALF, SHAPES, SINGLE, check_rule

pytestmark = pytest.mark.usefixtures("poisoned")


def ask(q, k, statistics=STATISTICS, **options):
    return row_statistics(q, k, statistics=statistics, backend="triton", **options)


def on_cuda(shape=(1, 4, 16, 64), dtype=HALF, mask=None, statistics=BASIC) -> Rows:
    """A question about tensors on a GPU that need not exist."""
    q = SimpleNamespace(device=torch.device("cuda", 0), dtype=dtype, shape=shape, requires_grad=False)
    return Rows(q, q, 1.0, mask, False, statistics)


def test_chosen_by_itself_on_cuda_and_never_on_a_cpu(monkeypatch):
    monkeypatch.setattr(backend, "why_not_on", lambda device: None)
    assert choice.choose(on_cuda()) == "triton"
    assert choice.choose(on_cuda(shape=(1, 4, 16, 320))) == "sdpa"
    assert choice.choose(on_cuda(shape=(1, 4, 16, 320), statistics=("third",))) == "reference"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    rows = check_rows(tokens(1, 4, 8), tokens(1, 6, 8), None, None, False, BASIC)
    assert choice.choose(rows) in ("native", "sdpa") and choice.choose(rows, "triton") == "triton"
    with pytest.raises(EntropyLabError, match="no gradients"):
        ask(tokens(1, 4, 8).requires_grad_(), tokens(1, 6, 8))


REASONS = [
    ({"sys.platform": "win32"}, {}, "on Linux"),
    ({"shutil.which": lambda name: None}, {}, "neither gcc nor clang"),
    ({"importlib.util.find_spec": lambda name: None}, {}, "triton is not installed"),
    ({"torch.cuda.get_device_capability": lambda device: (7, 5)}, {}, "8.0 or more, not 7.5"),
    ({}, {"dtype": torch.float64}, "not float64 of 64"),
    ({}, {"shape": (1, 4, 16, 257)}, "up to 256, not float16 of 257"),
]


@pytest.mark.parametrize(("changes", "options", "reason"), REASONS)
def test_says_why_it_can_not_be_used(monkeypatch, changes, options, reason):
    usual = {"sys.platform": "linux", "shutil.which": lambda name: name, "importlib.util.find_spec": lambda name: name}
    for path, value in (usual | changes).items():
        owner, name = path.rsplit(".", 1)
        monkeypatch.setattr(f"{backend.__name__}.{owner}.{name}", value)
    monkeypatch.delenv("CC", raising=False)
    backend.why_not_on.cache_clear()
    with pytest.raises(EntropyLabError, match=f"backend 'triton' can't be used here: .*{reason}"):
        choice.choose(on_cuda(**options), "triton")
    backend.why_not_on.cache_clear()


def test_what_can_not_be_read_on_a_gpu_or_at_all():
    with pytest.raises(EntropyLabError, match="runs on CUDA, not on device 'cpu'"):
        ask(tokens(1, 4, 8), tokens(1, 6, 8))
    unreadable = SimpleNamespace(device=torch.device("cuda"), dtype=HALF, ndim=2, shape=(4, 16))
    assert "waiting for the device" in sdpa.why_not(on_cuda(mask=unreadable))


@pytest.fixture
def breaks(monkeypatch):
    """As if the CPU were a GPU on which the kernel does not compile; holds what was tried, and raises ``problem``."""
    tried = SimpleNamespace(rows=[], problem=RuntimeError("PTXAS error: no such architecture"))

    def fail(rows):
        tried.rows.append(rows)
        raise tried.problem

    monkeypatch.setattr(backend, "why_not", lambda rows: None)
    monkeypatch.setattr(backend, "row_statistics", fail)
    monkeypatch.setattr(choice, "failed", {}, raising=False)
    monkeypatch.setattr(choice.native, "why_not_tensors", lambda q, k: "not on what stands for a GPU")
    return tried


def test_a_kernel_that_fails_is_tried_once_and_another_answers(breaks):
    q, k = tokens(1, 4, 8), tokens(1, 6, 8)
    with pytest.warns(EntropyLabWarning, match="kernel failed on cpu with RuntimeError: PTXAS error") as warned:
        found = [row_statistics(q, k) for _ in range(3)]
    assert len(breaks.rows) == len(warned) == 1
    expected = row_statistics(q, k, backend="sdpa")
    assert all(torch.equal(each.entropy, expected.entropy) for each in found)
    for _ in range(2):
        with pytest.raises(EntropyLabError, match="backend 'triton' can't be used here: .*no such architecture"):
            row_statistics(q, k, backend="triton")
    assert len(breaks.rows) == 1


def test_a_kernel_short_of_memory_is_tried_again(breaks):
    breaks.problem = torch.OutOfMemoryError("none left")
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            row_statistics(tokens(1, 4, 8), tokens(1, 6, 8))
    assert choice.failed == {}


def test_a_kernel_that_fails_while_a_model_runs_costs_no_number(breaks):
    net = PlainAttention(8)
    with pytest.warns(EntropyLabWarning, match="not tried again"), entropylab.record(net) as rec:
        net(tokens(1, 6, 8))
    assert rec.unmeasured == {} and rec.dataset.entropy.notnull().all() and set(choice.failed) == {torch.device("cpu")}


def compiled(name, choices, kinds, capability):
    """A kernel compiled for a GPU, arguments being of some kinds, and int32 else."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from entropylab.entropy import triton_kernel

    kernel = getattr(triton_kernel, name)
    constants = {name: value for name, value in choices.items() if name.isupper()}
    constants |= {name: 1 for name in ("q_dim", "k_dim") if name in kernel.arg_names}
    signature = dict.fromkeys(kernel.arg_names, "i32") | kinds
    if "constexprs" in inspect.signature(ASTSource).parameters:
        known = {"signature": signature | dict.fromkeys(constants, "constexpr"), "constexprs": constants}
    else:  # before 3.3
        signature = {name: kind for name, kind in signature.items() if name not in constants}
        known = {"signature": signature, "constants": constants}
    options = {name: value for name, value in choices.items() if not name.isupper()}
    return triton.compile(ASTSource(fn=kernel, **known), target=GPUTarget("cuda", capability, 32), options=options)


BOOLEAN, ADDITIVE = torch.ones(64, dtype=torch.bool), torch.zeros(64, 64)


@pytest.mark.parametrize(
    ("capability", "dtype", "width", "statistics", "mask", "is_causal"),
    [
        (90, HALF, 64, ("entropy", "variance"), None, False),
        (100, BRAIN, 40, ("lse",), BOOLEAN, True),
        (89, SINGLE, 80, ("fourth",), None, False),
        (80, SINGLE, 80, STATISTICS, ADDITIVE, True),
    ],
)
def test_compiles_without_a_gpu(tmp_path, monkeypatch, capability, dtype, width, statistics, mask, is_causal):
    triton = pytest.importorskip("triton")
    if capability == 100 and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
        pytest.skip("Triton does not know 10.0")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(backend, "KEYS_WORTH_A_MEAN", 64)
    q = tokens(1, 2, 64, width, dtype=dtype)
    choices = backend.compiled_for(check_rows(q, q, None, mask, is_causal, statistics).in_batches())
    side = {HALF: "*fp16", BRAIN: "*bf16", SINGLE: "*fp32"}[dtype]
    kinds = {"q": side, "k": side, "mask": "*fp32" if choices["MASK"] == "additive" else "*u8", "centre": "*fp32"}
    kinds |= {"out": "*fp32", "counts": "*i64", "scale": "fp32", "lowest": "fp32"}
    found = compiled("row_kernel", choices, kinds, capability)
    assert found.asm["cubin"] and found.metadata.shared <= 99 * 1024


@pytest.mark.parametrize(("capability", "parts", "more"), [(80, 1, False), (90, 3, True)])
def test_sums_compile_without_a_gpu(tmp_path, monkeypatch, capability, parts, more):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    choices = backend.summed_for(STATISTICS, STATISTICS if more else BASIC, parts, parts > 1, more, not more, more)
    kinds = {"found": "*fp32", "counts": "*i64", "counted": "*u8", "sums": "*fp64"}
    assert compiled("sum_kernel", choices, kinds, capability).asm["cubin"]


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@on_a_gpu
@pytest.mark.parametrize("masked", ["", "boolean", "additive", "causal"])
def test_gpu_keeps_the_rule(masked):
    for dtype, queries, keys, width, heads, key_heads in SHAPES:
        q = tokens(2, heads, queries, width, dtype=dtype, device="cuda") * 2
        k = tokens(2, key_heads, keys, width, seed=1, dtype=dtype, device="cuda")
        bias = tokens(queries, keys, seed=2, device="cuda")
        mask = {"boolean": bias > -1, "additive": bias.masked_fill(bias < -1, -torch.inf)}.get(masked)
        check_rule(ask(q, k, mask=mask, is_causal=masked == "causal"), q, k, None, mask, masked == "causal")


@on_a_gpu
@pytest.mark.parametrize("dtype", [HALF, BRAIN, SINGLE])
def test_gpu_keeps_the_rule_on_long_rows(dtype):
    q, k = (tokens(1, 2, 4096, 64, seed=seed, dtype=dtype, device="cuda") for seed in (0, 1))
    check_rule(ask(q, k), q, k)
    check_rule(ask(q, k, BASIC), q, k)


@on_a_gpu
def test_gpu_is_used_by_itself_and_never_waits():
    q, k = (tokens(2, 4, 256, 64, seed=seed, dtype=HALF, device="cuda") for seed in (0, 1))
    for mask in (None, torch.ones(256, device="cuda").bool(), torch.zeros(256, 256, device="cuda")):
        assert choice.choose(check_rows(q, k, None, mask, False, BASIC)) == "triton"
        row_statistics(q, k, mask=mask)
        torch.cuda.set_sync_debug_mode("error")
        try:
            row_statistics(q, k, mask=mask)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@on_a_gpu
def test_gpu_addresses_65536_rows_and_keys():
    count = 65536
    q, k = (tokens(1, count, 16, seed=seed, dtype=HALF, device="cuda") for seed in (0, 1))
    mask = torch.ones(count, count, dtype=torch.bool, device="cuda")
    mask[-8:, ::3] = False
    found = ask(q, k, BASIC, mask=mask)
    last = RowStatistics(keys=found.keys[:, -8:], **{name: found[name][:, -8:] for name in BASIC})
    check_rule(last, q[:, -8:], k, mask=mask[-8:])
