"""Gradients of row statistics: against finite differences, by hand, and without a map that is kept for them."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from entropylab import row_statistics
from entropylab.entropy import STATISTICS, reference

from ..seeds import tokens

MASKS = ("none", "boolean", "additive", "causal")


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return tokens(*shape, seed=seed, dtype=torch.float64).requires_grad_()


def masked(name: str) -> dict:
    """A mask for 5 queries and 7 keys; a boolean one, and its additive twin with a bias beside it."""
    left = torch.ones(5, 7, dtype=torch.bool)
    left[0, :4] = left[3, 6] = False
    bias = tokens(5, 7, seed=3, dtype=torch.float64)
    of = {"boolean": left, "additive": bias.masked_fill(~left, -torch.inf), "none": None, "causal": None}
    return {"mask": of[name], "is_causal": name == "causal"}


@pytest.mark.parametrize("mask", MASKS)
def test_against_finite_differences(mask: str) -> None:
    q, k = leaf(4, 5, 3), leaf(2, 7, 3, seed=1)

    def statistics(q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        found = row_statistics(q, k, statistics=STATISTICS, backend="reference", **masked(mask))
        return tuple(found[name] for name in STATISTICS)

    assert torch.autograd.gradcheck(statistics, (q, k), fast_mode=True)


def test_of_an_additive_mask() -> None:
    q, k, bias = tokens(1, 5, 3, dtype=torch.float64), tokens(1, 7, 3, seed=1, dtype=torch.float64), leaf(5, 7, seed=2)
    assert torch.autograd.gradcheck(lambda bias: row_statistics(q, k, mask=bias, statistics="entropy").entropy, bias)


@pytest.mark.parametrize("additive", [False, True])
def test_a_row_without_keys_is_nan_and_leaves_the_others_gradients_alone(additive: bool) -> None:
    left = torch.ones(5, 7, dtype=torch.bool)
    left[2] = False
    mask = torch.zeros(5, 7, dtype=torch.float64).masked_fill(~left, -torch.inf) if additive else left
    grads = []
    for rows, own in (([0, 1, 2, 3, 4], mask), ([0, 1, 3, 4], None)):
        q, k = leaf(1, 5, 3).detach()[:, rows].requires_grad_(), leaf(1, 7, 3, seed=1)
        found = row_statistics(q, k, mask=own, statistics=STATISTICS)
        assert found.entropy.isnan().tolist() == [[row == 2 for row in rows]]
        sum(found[name].nansum() for name in STATISTICS).backward()
        grads.append((q.grad, k.grad))
    (with_empty, keys), (alone, keys_alone) = grads
    assert (with_empty[0, 2] == 0).all()
    torch.testing.assert_close(with_empty[:, [0, 1, 3, 4]], alone)
    torch.testing.assert_close(keys, keys_alone)


class Largest(TorchDispatchMode):
    """How many elements the largest tensor has that is computed."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def kept_and_largest(q: Tensor, k: Tensor) -> tuple[int, int]:
    """How many elements the forward keeps for the backward, and those of the largest tensor in both."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with Largest() as seen, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = row_statistics(q, k).entropy.mean()
        before = sum(kept.values())
        loss.backward()
    return before, seen.elements


def test_no_map_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", 2**14)
    q, k = tokens(1, 512, 8).requires_grad_(), tokens(1, 512, 8, seed=1).requires_grad_()
    kept, largest = kept_and_largest(q, k)
    assert kept <= 4 * q.numel() and largest <= 2**14
    monkeypatch.setattr(reference, "checkpoint", lambda compute, *args, **options: compute(*args))
    assert kept_and_largest(q, k)[0] > 512 * 512, "which shows if chunks are not computed again"


def test_gradients_where_they_are_wanted_and_nowhere_else() -> None:
    q, k = tokens(1, 5, 8).requires_grad_(), tokens(1, 7, 8, seed=1)
    assert row_statistics(q, k).entropy.requires_grad and not row_statistics(q, k).keys.requires_grad
    assert not row_statistics(q, k, backend="sdpa").entropy.requires_grad
    assert not row_statistics(q, k, statistics=("slope", "rarefied")).slope.requires_grad
    with torch.no_grad():
        assert not row_statistics(q, k, backend="reference").entropy.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        inside = row_statistics(q, k).entropy
    assert torch.equal(inside, row_statistics(q, k).entropy)
