"""The fused kernel against a float64 softmax: interpreted on a CPU, compiled for absent GPUs, run on present ones."""

import importlib.util
import math
import sys
from functools import cache
from types import ModuleType, SimpleNamespace

import pytest
import torch

from entropylab import EntropyLabError, row_statistics
from entropylab.entropy import STATISTICS, choice, sdpa
from entropylab.entropy import triton as backend
from entropylab.entropy.rows import Rows, RowStatistics, check_rows

triton = pytest.importorskip("triton")
KERNEL = "entropylab.entropy.triton_kernel"
BASIC = ("entropy", "lse", "mean", "variance")
CUMULANTS = ("mean", "variance", "third", "fourth")
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
EPSILON = 2.0**-23
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@cache
def interpreted_kernel() -> ModuleType:
    """A copy of the kernel's module, loaded while TRITON_INTERPRET is set; the usual one may be compiled."""
    spec = importlib.util.find_spec(KERNEL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def interpreter(monkeypatch):
    """Kernels run on the host for one test, though Triton itself was imported to compile.

    The interpreter changes Triton's language for every function that a kernel calls, which takes most of the time, and
    changes it back only for the kernel: here once for all, and back.
    """
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

    standard, change = triton.language.standard, interpreter._patch_lang
    compiled = {name: value for name, value in vars(standard).items() if isinstance(value, JITFunction)}

    def change_once(function):
        scopes = change(compiled["sum"].fn), change(function)
        return SimpleNamespace(restore=lambda: [scope.restore() for scope in scopes[::-1]])

    class Interpreted(interpreter.InterpretedFunction):
        def __call__(self, *args, **options):
            return self.rewrite()(*args, **options)

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(interpreter, "_patch_lang", change_once)
    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", Interpreted.__call__)
    for name, value in compiled.items():
        function = Interpreted(value.fn)
        monkeypatch.setattr(standard, name, function)
        if hasattr(triton.language, name):
            monkeypatch.setattr(triton.language, name, function)
    monkeypatch.setitem(sys.modules, KERNEL, interpreted_kernel())


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """What the backend allocates is full of NaN, or of -1, until the kernel writes it."""

    def empty(*args, dtype, **options):
        return torch.full(*args, math.nan if dtype.is_floating_point else -1, dtype=dtype, **options)

    monkeypatch.setattr(backend, "torch", SimpleNamespace(**vars(torch) | {"empty": empty}))


def tokens(*shape: int, seed: int = 0, dtype: torch.dtype = SINGLE, device: str = "cpu") -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device, dtype)


def plain(q, k, scale=None, mask=None, is_causal=False) -> dict[str, torch.Tensor]:
    """Every statistic of the materialised map, in the dtype of q."""
    k = k.repeat_interleave(q.shape[-3] // k.shape[-3], dim=-3)
    logits = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    left = torch.ones(logits.shape, dtype=torch.bool, device=q.device)
    if mask is not None:
        left = left & (mask if mask.dtype == torch.bool else mask > -9999)
        logits = logits if mask.dtype == torch.bool else logits + mask.to(logits.dtype)
    left = left.tril() if is_causal else left
    logits = logits.masked_fill(~left, -torch.inf)
    weights, count = logits.softmax(-1), left.sum(-1)
    shown = logits.masked_fill(~left, 0)
    mean = shown.sum(-1) / count
    second, third, fourth = (((shown - mean[..., None]) * left).pow(power).sum(-1) / count for power in (2, 3, 4))
    first = (weights * shown).sum(-1, keepdim=True)
    found = {
        "entropy": -torch.special.xlogy(weights, weights).sum(-1),
        "lse": logits.logsumexp(-1),
        "mean": mean,
        "variance": second,
        "third": third,
        "fourth": fourth - 3 * second.square(),
        "sensitivity": (weights * (shown - first).square()).sum(-1),
    }
    return {name: value.masked_fill(count == 0, math.nan) for name, value in found.items()} | {
        "keys": count,
        "logits": shown,
    }


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return (found.double() - exact).abs().nan_to_num(0).max().item()


def computed(found) -> list[str]:
    return [name for name in STATISTICS if getattr(found, name) is not None]


def check_rule(found, q, k, scale=None, mask=None, is_causal=False) -> None:
    """FlashAttention's rule: an error of at most twice that of plain PyTorch, or of what float32 can tell apart."""
    wide = mask if mask is None or mask.dtype == torch.bool else mask.double().masked_fill(mask <= -9999, -torch.inf)
    exact = plain(q.double(), k.double(), scale, wide, is_causal)
    same = plain(q, k, scale, mask, is_causal)
    assert (found.keys == exact["keys"]).all()
    sizes = [1 + exact[name].abs().nan_to_num(0).max().item() for name in ("lse", "logits")]
    deviation = 1 + exact["variance"].nan_to_num(0).max().item() ** 0.5
    for name in computed(found):
        power = {"variance": 2, "third": 3, "fourth": 4, "sensitivity": 2}.get(name, 1)
        resolution = 2 * EPSILON * sizes[name in CUMULANTS] * power * deviation ** (power - 1)
        assert torch.equal(found[name].isnan(), exact[name].isnan()), name
        assert found[name].dtype == SINGLE
        assert error(found[name], exact[name]) <= 2 * error(same[name], exact[name]) + resolution, name
        # In half precision the rule is a weak one; the products are exact there, and so are the statistics.
        assert error(found[name], exact[name]) <= 64 * resolution, name


def ask(q, k, statistics=STATISTICS, **options):
    return row_statistics(q, k, statistics=statistics, backend="triton", **options)


SHAPES = [  # dtype, queries, keys, d, heads, key heads
    (SINGLE, 1, 1, 8, 1, 1),
    (SINGLE, 63, 111, 20, 2, 1),
    (SINGLE, 200, 63, 40, 4, 2),
    (SINGLE, 33, 200, 160, 2, 2),
    (SINGLE, 20, 111, 256, 1, 1),
    (HALF, 1, 200, 72, 3, 1),
    (HALF, 200, 111, 80, 2, 2),
    (HALF, 111, 128, 64, 2, 2),
    (HALF, 63, 63, 256, 6, 2),
    (BRAIN, 200, 200, 40, 2, 1),
    (BRAIN, 63, 1, 160, 1, 1),
    (BRAIN, 111, 200, 8, 4, 4),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_statistic_keeps_the_rule(interpreter, shape):
    dtype, queries, keys, width, heads, key_heads = shape
    q, k = tokens(2, heads, queries, width, dtype=dtype) * 2, tokens(2, key_heads, keys, width, seed=1, dtype=dtype)
    check_rule(ask(q, k), q, k)
    causal = ask(q[:, :, :70], k, is_causal=True)
    check_rule(causal, q[:, :, :70], k, is_causal=True)


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
@pytest.mark.parametrize("broken", ["scale", "last key", "group", "causal", "mask"])
def test_the_rule_notices(interpreter, dtype, broken):
    q, k = tokens(1, 4, 40, 40, dtype=dtype) * 2, tokens(1, 2, 111, 40, seed=1, dtype=dtype)
    mask = torch.arange(111) != 5
    options = {"mask": mask, "is_causal": broken == "causal"}
    asked = {
        "scale": lambda: ask(q, k, scale=1.0005 * 40**-0.5, **options),
        "last key": lambda: ask(q, k[:, :, :-1], mask=mask[:-1]),
        "group": lambda: ask(q[:, [0, 2, 1, 3]], k, **options),
        "causal": lambda: ask(q, k, mask=mask & (torch.arange(111) < torch.arange(40)[:, None])),
        "mask": lambda: ask(q, k, mask=mask.roll(1)),
    }[broken]
    check_rule(ask(q, k, **options), q, k, **options)
    with pytest.raises(AssertionError):
        check_rule(asked(), q, k, **options)


@pytest.mark.parametrize("shape", [(50,), (1, 50), (2, 1, 1, 50), (2, 4, 1, 50), (70, 50), (70, 1), (4, 1, 1), ()])
@pytest.mark.parametrize("kind", [torch.bool, SINGLE, HALF, BRAIN, torch.float64])
def test_masks(interpreter, shape, kind):
    q, k = tokens(2, 4, 70, 16, dtype=HALF) * 3, tokens(2, 2, 50, 16, seed=1, dtype=HALF)
    allowed = tokens(*shape, seed=2) > -0.5
    mask = allowed
    if kind != torch.bool:
        out = torch.tensor([-torch.inf, -10000.0, -20000.0, max(torch.finfo(kind).min, -3e38)], dtype=kind)
        bias = tokens(*shape, seed=3, dtype=kind)
        out = out[torch.arange(bias.numel()).reshape(shape) % 4]
        mask = torch.where(allowed, bias, out)
    for is_causal in (False, True):
        check_rule(ask(q, k, mask=mask, is_causal=is_causal), q, k, mask=mask, is_causal=is_causal)


def test_a_mask_of_minus_10000_in_bfloat16_leaves_out(interpreter):
    q, k = torch.zeros(1, 4, 8), tokens(1, 10, 8)
    mask = torch.full((10,), -10000.0, dtype=BRAIN).masked_fill(torch.arange(10) < 5, 0)
    assert (mask[9] == -9984) & (ask(q, k, mask=mask).keys == 5).all()
    kept = mask.float().masked_fill(mask < 0, -9984)
    assert (ask(q, k, mask=kept).keys == 10).all()


@pytest.mark.parametrize("keys", [torch.eye(100) * 1e4, -torch.eye(100) * 1e4, torch.ones(100, 100) * 1e4])
def test_adversarial_logits(interpreter, keys):
    two_hot = torch.eye(100) + torch.eye(100).roll(1, 0)
    for q in (torch.eye(100)[None], two_hot[None]):
        found = ask(q, keys[None], scale=1.0)
        check_rule(found, q, keys[None], scale=1.0)
        assert (found.entropy >= 0).all()


def test_exact_rows(interpreter):
    one_hot = torch.eye(100)[None] * 1e4
    found = ask(torch.eye(100)[None], one_hot, scale=1.0)
    assert (found.entropy == 0).all() and (found.sensitivity == 0).all()
    for count in (1, 2, 77, 256):
        found = ask(torch.zeros(2, 3, 5, 8), tokens(2, 3, count, 8))
        torch.testing.assert_close(found.entropy, torch.full((2, 3, 5), math.log(count)), atol=1e-6, rtol=0)
        assert (found.variance == 0).all() and (found.sensitivity == 0).all()
    sharp = tokens(1, 2, 40, 16) * 100, tokens(1, 2, 111, 16, seed=1) * 300
    check_rule(ask(*sharp), *sharp)


def test_a_common_shift_costs_no_digits_but_its_own(interpreter):
    q, k = tokens(1, 40, 16), tokens(1, 500, 16, seed=1)
    q, k = (torch.cat([t, torch.full((*t.shape[:-1], 1), 64.0)], -1) for t in (q, k))  # + 4096
    check_rule(ask(q, k, scale=1.0), q, k, scale=1.0)


def test_rows_without_keys_are_nan(interpreter):
    q, k = tokens(2, 3, 40, 8), tokens(2, 3, 60, 8, seed=1)
    mask = torch.ones(2, 1, 40, 60, dtype=torch.bool)
    mask[0, :, ::3] = False
    mask[1, :, :, :50] = False  # a first tile with no key
    found = ask(q, k, mask=mask)
    check_rule(found, q, k, mask=mask)
    assert found.entropy[0, :, ::3].isnan().all() and (found.keys[0, :, ::3] == 0).all()
    assert found.entropy[1].isfinite().all()


@pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:invalid value")
def test_a_scale_of_zero_and_nan_inputs(interpreter):
    q, k = tokens(1, 20, 8), tokens(1, 60, 8, seed=1)
    found = ask(q, k, scale=0.0, mask=torch.arange(60) < 30)
    torch.testing.assert_close(found.entropy, torch.full((1, 20), math.log(30)))
    q[0, 3, 2] = math.nan
    assert (ask(q, k, BASIC).entropy.isnan() == (torch.arange(20) == 3)).all()


def test_many_tiles_lose_no_digits(interpreter):
    q, k = tokens(1, 4, 16) * 2, tokens(1, 8192, 16, seed=1)
    check_rule(ask(q, k), q, k)


@pytest.mark.parametrize("dtype", [HALF, BRAIN])
@pytest.mark.parametrize("width", [40, 64])
def test_half_precision_rows_about_the_mean_key(interpreter, monkeypatch, dtype, width):
    q, k = tokens(2, 4, 70, width, dtype=dtype) * 2, tokens(2, 2, 200, width, seed=1, dtype=dtype) + 1
    merged = ask(q, k, BASIC)
    monkeypatch.setattr(backend, "KEYS_WORTH_A_MEAN", 100)
    found = ask(q, k, BASIC)
    check_rule(found, q, k)
    assert torch.equal(found.entropy, merged.entropy)
    assert not torch.equal(found.variance, merged.variance)  # another road
    masked = {"mask": torch.arange(200) < 150}
    for options in (masked, {"is_causal": True}):
        check_rule(ask(q, k, BASIC, **options), q, k, **options)


VIEWS = {
    "tokens first": lambda q, k: (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k)),
    "part of a fused projection": lambda q, k: torch.cat([q, k], -1).chunk(2, -1),
    "every other token": lambda q, k: (q[:, :, ::2], k[:, :, 1::2]),
    "last dimension strided": lambda q, k: (
        q.transpose(-1, -2).contiguous().transpose(-1, -2),
        torch.stack([k, k], -1)[..., 0],
    ),
    "keys shared by all": lambda q, k: (q, k[:1, :1].expand(2, 4, -1, -1)),
    "leading dimensions": lambda q, k: (q.transpose(0, 1)[:, :, None, None], k.transpose(0, 1)[:, :, None, None]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_strided_inputs_are_read_where_they_are(interpreter, monkeypatch, name):
    q, k = VIEWS[name](tokens(2, 4, 50, 40), tokens(2, 4, 50, 40, seed=1))
    mask = tokens(2, 1, *q.shape[-2:-1], k.shape[-2], seed=2).expand(2, 4, -1, -1)[..., ::1] > -1
    mask = mask.transpose(0, 1)[:, :, None, None] if q.ndim > 4 else mask
    seen = []
    monkeypatch.setattr(backend, "launch", lambda *args, real=backend.launch: (seen.append(args[1:3]), real(*args)))
    found = ask(q, k, mask=mask)
    assert seen and all(t.untyped_storage().data_ptr() in storages(q, k) for pair in seen for t in pair)
    spelled_out = ask(q.contiguous(), k.contiguous(), mask=mask.contiguous())
    for statistic in STATISTICS:
        assert torch.equal(found[statistic], spelled_out[statistic])
        assert found[statistic].is_contiguous()
    check_rule(found, q, k, mask=mask)


def storages(*tensors: torch.Tensor) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def test_offsets_beyond_32_bits(interpreter, monkeypatch):
    from triton.runtime.interpreter import GridExecutor

    monkeypatch.setattr(GridExecutor, "_restore_args_dev", lambda *args: None)  # it copies host memory onto itself
    far = torch.empty(2**32 + 2**16, dtype=torch.uint8)  # virtual memory: only what is touched exists
    q, k = tokens(1, 20, 16), tokens(1, 60, 16, seed=1)
    for stride in (2**32 // 19, 2**32 // 64):
        by_row = stride > 2**27
        mask = far.as_strided((20, 60), (stride, 1) if by_row else (1, stride)).view(torch.bool)
        mask.copy_(tokens(20, 60, seed=2) > 0)
        check_rule(ask(q, k, BASIC, mask=mask), q, k, mask=mask.clone())


@pytest.mark.parametrize("statistics", [("entropy",), ("lse",), ("fourth",), ("sensitivity", "mean"), ("variance",)])
def test_any_choice_of_statistics_gives_the_same(interpreter, statistics):
    q, k = tokens(1, 2, 40, 24), tokens(1, 2, 90, 24, seed=1)
    found, every = ask(q, k, statistics), ask(q, k)
    assert set(computed(found)) == set(statistics)
    for name in statistics:
        assert torch.equal(found[name], every[name])


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("dtype", "width", "statistics", "mask", "is_causal"),
    [
        (HALF, 64, ("entropy", "variance"), None, False),
        (BRAIN, 40, BASIC, torch.ones(64, dtype=torch.bool), False),
        (SINGLE, 80, STATISTICS, torch.zeros(64, 64), True),
    ],
)
def test_compiles_without_a_gpu(tmp_path, monkeypatch, capability, dtype, width, statistics, mask, is_causal):
    compiler = pytest.importorskip("triton.compiler")
    from triton.backends.compiler import GPUTarget

    from entropylab.entropy.triton_kernel import row_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    q = tokens(1, 2, 64, width, dtype=dtype)
    monkeypatch.setattr(backend, "KEYS_WORTH_A_MEAN", 64)
    rows = check_rows(q, q, None, mask, is_causal, statistics)
    choices = backend.compiled_for(rows, q, q, None if mask is None else mask.expand(1, 2, 64, 64))
    constants = {name: value for name, value in choices.items() if name.isupper()}
    types = {"q": dtype, "k": dtype, "mask": SINGLE if choices["MASK"] == "additive" else torch.uint8}
    pointers = {HALF: "*fp16", BRAIN: "*bf16", SINGLE: "*fp32", torch.uint8: "*u8"}
    signature = dict.fromkeys(row_kernel.arg_names, "i32") | {"out": "*fp32", "counts": "*i64"}
    signature |= {name: pointers[found] for name, found in types.items()} | {"scale": "fp32", "lowest": "fp32"}
    signature |= {"centre": "*fp32"}
    signature |= dict.fromkeys([*constants, "q_dim", "k_dim"], "constexpr")
    source = compiler.ASTSource(fn=row_kernel, signature=signature, constexprs=constants | {"q_dim": 1, "k_dim": 1})
    options = {name: value for name, value in choices.items() if not name.isupper()}
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert built.metadata.shared <= 99 * 1024
    assert built.asm["cubin"]


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
    assert choice.choose(on_cuda()) == choice.Choice("triton")
    chosen = choice.choose(on_cuda(shape=(1, 4, 16, 320)))
    assert chosen.name == "sdpa" and "up to 256, not 320" in str(chosen)
    chosen = choice.choose(on_cuda(shape=(1, 4, 16, 320), statistics=("third",)))
    assert chosen.name == "reference" and set(chosen.refused) == {"triton", "sdpa"}


def test_never_unasked_on_a_cpu(interpreter):
    rows = check_rows(tokens(1, 4, 8), tokens(1, 6, 8), None, None, False, BASIC)
    assert choice.choose(rows).name == "sdpa"
    assert choice.choose(rows, "triton").name == "triton"


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


def test_installations_that_can_not_compile(monkeypatch):
    check = backend.why_not_here.__wrapped__
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(backend.shutil, "which", lambda name: None)
    assert "C compiler" in check()
    monkeypatch.setattr(backend.sys, "platform", "win32")
    assert "Linux" in check()


def test_old_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "8.0 or more, not 7.5" in backend.why_not_on.__wrapped__(torch.device("cuda"))


def test_sdpa_reads_no_additive_mask_on_cuda():
    unreadable = SimpleNamespace(device=torch.device("cuda"), dtype=HALF, ndim=2, shape=(4, 16))
    assert "waiting for the device" in sdpa.why_not(on_cuda(mask=unreadable))


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
        assert choice.choose(rows).name == "triton"
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
