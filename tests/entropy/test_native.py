"""The compiled kernel: against float64, on odd lengths, any number of threads, in parts, and where it can't be had."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from entropylab import EntropyLabError, row_statistics
from entropylab.entropy import STATISTICS, native
from entropylab.entropy.choice import choose, why_not
from entropylab.entropy.rows import Rows, check_rows
from entropylab.entropy.sums import head_sums

from ..seeds import tokens
from .kernel import BASIC

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C compiler on this machine")


def rows_of(q, k, statistics=STATISTICS):
    return check_rows(q, k, None, None, False, statistics)


@pytest.mark.parametrize("statistics", [STATISTICS, ("entropy", "variance")])
def test_one_thread_gives_what_two_give(monkeypatch, statistics):
    q, k = tokens(1, 3, 500, 40), tokens(1, 3, 700, 40, seed=1)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(row_statistics(q, k, statistics=statistics, backend="native"))
        monkeypatch.setattr(native, "parallel", lambda: None)  # from here on with threads of our own
    assert all(torch.equal(found[0][name], other[name]) for other in found[1:] for name in statistics)


def test_small_and_large_logits_agree_with_float64_and_with_the_masked_way():
    """Small logits take a way without a maximum; an open mask takes the other, and so do large logits."""
    q, k = tokens(1, 2, 70, 40), tokens(1, 2, 200, 40, seed=1) + 3
    q[0, 0, 0] *= 30
    wanted = row_statistics(q.double(), k.double(), statistics=BASIC, backend="reference")
    for mask in (None, torch.ones(200, dtype=torch.bool)):
        for rows in (slice(None), slice(1, None)):
            found = row_statistics(q[..., rows, :], k, statistics=BASIC, backend="native", mask=mask)
            for name in BASIC:
                torch.testing.assert_close(found[name].double(), wanted[name][..., rows], rtol=2e-6, atol=4e-6)


def test_gradients_and_tensors_without_memory_are_left_to_others():
    q, k = tokens(1, 2, 5, 8), tokens(1, 2, 6, 8, seed=1)
    assert choose(rows_of(q, k)) == "native"
    assert choose(rows_of(q.clone().requires_grad_(), k)) != "native"
    assert choose(rows_of(q.double(), k.double())) != "native"
    with torch.no_grad():
        assert choose(rows_of(q.clone().requires_grad_(), k)) == "native"
    batched = torch.vmap(lambda one, other: row_statistics(one, other, backend="auto").entropy)
    torch.testing.assert_close(batched(q, k), row_statistics(q, k).entropy)


MAIN = """
#include "native.c"
#include <stdio.h>
int main(void) {
  static const int64_t lengths[] = {1, 31, 32, 97, 257};
  int count = 0;
  for (int x = 0; x < 5 * 5; x++) for (int kind = 0; kind < 12; kind++) {
    int64_t m = lengths[x % 5], n = lengths[x / 5], d = 1 + (x * 7 + kind) % 33;
    int64_t B = 1 + kind % 2, H = 2, G = 1 + kind % 2, masks = kind % 3;
    float *q = malloc(4 * B * H * m * d), *k = malloc(4 * B * G * n * d), *rows[7], *bias = malloc(4 * m * n);
    uint8_t *mask = malloc(m * n), *counted = malloc(m);
    int32_t *order = malloc(4 * B * n);
    int64_t *bounds = malloc(8 * B * 4), *keys = malloc(8 * B * H * m);
    double *sums = malloc(8 * B * H * NUMBERS);
    for (int64_t i = 0; i < B * H * m * d; i++) q[i] = (float)(i * 37 % 101) / 50 - 1;
    for (int64_t i = 0; i < B * G * n * d; i++) k[i] = (float)(i * 53 % 97) / 50 - 1;
    for (int64_t i = 0; i < m * n; i++) { mask[i] = i * 31 % 7 > 2; bias[i] = i % 5 ? -1.f : -1e4f; }
    for (int64_t i = 0; i < m; i++) counted[i] = i % 3 > 0;
    for (int64_t i = 0; i < B * n; i++) order[i] = (int32_t)(n - 1 - i % n);
    for (int64_t b = 0; b < B; b++) for (int p = 0; p < 4; p++) bounds[b * 4 + p] = n * p / 3;
    for (int s = 0; s < 7; s++) rows[s] = malloc(4 * B * H * m);
    Question a = {.batch = B, .heads = H, .key_heads = G, .queries = m, .keys = n, .width = d,
      .parts = 1, .q_strides = {H * m * d, m * d, d, 1}, .k_strides = {G * n * d, n * d, d, 1},
      .scale = 1, .wanted = (kind + x) % 2 ? 127 : 9,
      .row_keys = keys, .threads = 1 + kind % 3, .is_causal = kind / 2 % 2};
    for (int s = 0; s < 7; s++) a.rows[s] = rows[s];
    if (masks) { a.mask = masks == 1 ? mask : NULL; a.bias = masks == 2 ? bias : NULL;
      a.mask_strides[2] = n; a.mask_strides[3] = 1; a.counted = counted; a.counted_strides[2] = 1; }
    if (kind > 6) { a.parts = 3; a.order = order; a.bounds = bounds; }
    if (row_statistics(&a, q, k, sums)) return 2;
    for (int64_t i = 0; i < B * H * m; i++) if (keys[i] && !(rows[0][i] >= 0 && rows[0][i] < 7)) return 3;
    free(q); free(k); free(mask); free(bias); free(counted); free(order); free(bounds); free(keys); free(sums);
    for (int s = 0; s < 7; s++) free(rows[s]);
    count++;
  }
  printf("%d\\n", count);
  return 0;
}
"""


def test_no_byte_out_of_bounds_on_odd_lengths(tmp_path):
    program, source = tmp_path / "program", tmp_path / "main.c"
    source.write_text(MAIN)
    checks = ("-O1", "-g", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    include = f"-I{native.SOURCE.parent}"
    build = [native.compiler(), *checks, include, "-o", str(program), str(source), "-lm", "-lpthread"]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip("this compiler has no sanitizers")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(5 * 5 * 12)), done.stderr[-2000:]


COMPILER = native.compiler()
LIES = f"""
[ "$1" = --version ] && exit 0
while [ "$1" != -o ]; do shift; done
echo "int row_statistics(void *x) {{ return 0; }}" | {COMPILER} -shared -fPIC -xc - -o "$2"
"""


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """An empty cache of the user's, a kernel that nobody asked for yet, and a way to set the compiler."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.kernel.cache_clear()

    def compiled_by(script):
        (tmp_path / "cc").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "cc").chmod(0o755)
        monkeypatch.setenv("CC", str(tmp_path / "cc"))

    yield compiled_by
    native.kernel.cache_clear()


@pytest.mark.parametrize(
    ("script", "mode", "reason"),
    [
        (None, 0o700, "no C compiler"),
        ("exit 3", 0o700, "failed"),
        (LIES, 0o700, "does not give the entropies"),
        (f'exec {COMPILER} "$@"', 0o777, "may be written by others"),
    ],
    ids=["none", "fails", "lies", "open cache"],
)
def test_without_a_kernel_that_can_be_trusted_another_backend_answers(
    anew, monkeypatch, tmp_path, script, mode, reason
):
    (tmp_path / "entropylab").mkdir()
    (tmp_path / "entropylab").chmod(mode)
    if script is None:
        monkeypatch.setenv("PATH", "")
        monkeypatch.setenv("CC", "")
    else:
        anew(script)
    rows = rows_of(torch.zeros(1, 1, 3, 8), torch.zeros(1, 1, 4, 8), ("entropy",))
    assert choose(rows) == "sdpa"
    assert "no compiled kernel: " in why_not("native", rows, unasked=True) and reason in native.kernel()


def test_ten_that_compile_at_once_all_succeed(anew, tmp_path):
    library = Path(tmp_path, "library")
    shutil.copy(native.compiled(), library)
    native.kernel.cache_clear()
    shutil.rmtree(tmp_path / "entropylab")
    anew(f'while [ $# -gt 0 ] && [ "$1" != -o ]; do shift; done; [ -z "$2" ] || cp {library} "$2"; sleep 0.1')
    with ThreadPoolExecutor(10) as pool:
        paths = list(pool.map(lambda _: native.compiled(), range(10)))
    assert list(Path(tmp_path, "entropylab").iterdir()) == [paths[0]]
    assert not isinstance(native.kernel(), str)


def test_what_does_not_fit_is_refused_before_the_kernel_sees_it():
    for q, k in (((1, 2, 5, 8), (1, 2, 0, 8)), ((1, 2, 5, 8), (1, 2, 5, 4)), ((1, 3, 5, 8), (1, 2, 5, 8))):
        with pytest.raises(EntropyLabError, match="must"):
            head_sums(Rows(torch.zeros(q), torch.zeros(k), 1.0, None, False, ("entropy",)))


def test_a_short_call_costs_few_python_calls():
    q, k = tokens(1, 2, 16, 8), tokens(1, 2, 16, 8, seed=1)
    calls = []
    head_sums(Rows(q, k, 1.0, None, False, ("entropy",)))
    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
    try:
        head_sums(Rows(q, k, 1.0, None, False, ("entropy",)))
    finally:
        sys.setprofile(None)
    assert len(calls) <= 8, calls


def test_a_prepared_question_is_of_what_looks_alike():
    q, k, names = tokens(2, 4, 9, 16), tokens(2, 2, 13, 16, seed=1), ("entropy", "variance")
    ask = native.prepared(q, k, 0.25, names)
    for seed in (0, 5):
        other = tokens(2, 4, 9, 16, seed=seed)
        assert torch.equal(ask(other, k, 0.25), head_sums(Rows(other, k, 0.25, None, False, names)).flatten(0, 1))
    assert not torch.equal(ask(q, k, 0.25), ask(other, k, 0.25))
    turned = q.transpose(1, 2).contiguous().transpose(1, 2)
    negative = torch.complex(torch.zeros_like(q), -q).conj().imag
    assert torch.equal(negative, q) and negative.is_neg()
    for unlike in (turned, negative, q.bfloat16(), q[:, :, :8], torch.nn.Parameter(q)):
        assert ask(unlike, k, 0.25) is None
    assert ask(q, k, 0.5) is None
    assert native.prepared(q, k, 0.25, ("mean", "variance")) is None, "they need no pass over the keys"
    assert native.prepared(q.double(), k.double(), 0.25, names) is None
