"""The fused kernel compiled for GPUs that are absent, and run on those that are present."""

import inspect

import pytest
import torch

from entropylab import row_statistics
from entropylab.entropy import STATISTICS, choice
from entropylab.entropy import triton as backend
from entropylab.entropy.rows import RowStatistics, check_rows

from ..seeds import tokens
from .kernel import BASIC, BRAIN, HALF, SHAPES, SINGLE, ask, check_rule

triton = pytest.importorskip("triton")

pytestmark = pytest.mark.usefixtures("poisoned")


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


KNOWS_BLACKWELL = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 3)
newest = pytest.mark.skipif(not KNOWS_BLACKWELL, reason="Triton does not know 10.0")


def compiled(kernel, choices, kinds, capability):
    """A kernel compiled for a GPU, arguments being of some kinds, and int32 else."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

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


def built(q, mask, is_causal, statistics, capability):
    """The kernel as it is compiled for these tensors (batch, heads, tokens, d), q being k as well."""
    from entropylab.entropy.triton_kernel import row_kernel

    rows = check_rows(q, q, None, mask, is_causal, statistics)
    choices = backend.compiled_for(rows, q, q, None if mask is None else mask.expand(*q.shape[:-1], q.shape[-2]))
    side = {HALF: "*fp16", BRAIN: "*bf16", SINGLE: "*fp32"}[q.dtype]
    kinds = {"q": side, "k": side, "mask": "*fp32" if choices["MASK"] == "additive" else "*u8", "centre": "*fp32"}
    kinds |= {"out": "*fp32", "counts": "*i64", "scale": "fp32", "lowest": "fp32"}
    return compiled(row_kernel, choices, kinds, capability)


NONE, CAUSAL = (None, False), (torch.ones(64, dtype=torch.bool), True)


@pytest.mark.parametrize(
    ("capability", "dtype", "width", "statistics", "mask", "is_causal"),
    [(90, HALF, 64, ("entropy", "variance"), *NONE), pytest.param(100, BRAIN, 40, BASIC, *CAUSAL, marks=newest)],
)
def test_compiles_without_a_gpu(tmp_path, monkeypatch, capability, dtype, width, statistics, mask, is_causal):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(backend, "KEYS_WORTH_A_MEAN", 64)
    found = built(tokens(1, 2, 64, width, dtype=dtype), mask, is_causal, statistics, capability)
    assert found.metadata.shared <= 99 * 1024
    assert found.asm["cubin"]


@pytest.mark.parametrize("statistics", [("lse",), ("fourth",), STATISTICS], ids=len)
def test_compiles_for_other_choices_of_statistics(tmp_path, monkeypatch, statistics):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    mask, is_causal = (torch.zeros(64, 64), True) if statistics == STATISTICS else (None, False)
    assert built(tokens(1, 2, 64, 80, dtype=SINGLE), mask, is_causal, statistics, 80).asm["cubin"]


@pytest.mark.parametrize(("capability", "parts", "more"), [(80, 1, False), (90, 3, True)])
def test_sums_compile_without_a_gpu(tmp_path, monkeypatch, capability, parts, more):
    from entropylab.entropy.triton_kernel import sum_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    choices = backend.summed_for(STATISTICS, STATISTICS if more else BASIC, parts, parts > 1, more, not more, more)
    kinds = {"found": "*fp32", "counts": "*i64", "counted": "*u8", "sums": "*fp64"}
    assert compiled(sum_kernel, choices, kinds, capability).asm["cubin"]


@on_a_gpu
@pytest.mark.parametrize("masked", ["", "boolean", "additive", "causal"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gpu_keeps_the_rule(shape, masked):
    dtype, queries, keys, width, heads, key_heads = shape
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
        rows = check_rows(q, k, None, mask, False, BASIC)
        assert choice.choose(rows) == "triton"
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
