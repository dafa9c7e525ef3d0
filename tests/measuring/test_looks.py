"""Looks at attention calls that are averaged together, against the same ones averaged alone and against float64."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from entropylab.capture import AttentionCall
from entropylab.capture.inputs import Inputs
from entropylab.capture.roles import Roles, Tokens
from entropylab.measuring import steps
from entropylab.measuring.looks import joined
from entropylab.measuring.reduce import Reduction
from entropylab.measuring.steps import DenoiserCall

from ..maps import entropy_of, logits_of

STATISTICS = ("entropy", "sigma2", "sensitivity")


def new_call(seed: int, batch: int = 2, heads: int = 3, queries: int = 20, keys: int = 20, **fields) -> AttentionCall:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, heads, queries, 8, generator=generator)
    k = torch.randn(batch, heads, keys, 8, generator=generator)
    return AttentionCall("layer", nn.Identity(), q, k, None, 0.4, False, None, **fields)


def joint() -> Roles:
    parts = Tokens(
        ("image", "text"),
        {"image": slice(0, 15), "text": slice(15, 20)},
        {"image": 15, "text": 5},
        (torch.arange(20) >= 15).long().expand(2, 20),
    )
    return Roles(parts, parts)


def several() -> list[AttentionCall]:
    """Calls that are alike, differ in batch, keys, heads, or have a mask; joint ones among them."""
    mask = torch.ones(20, 20, dtype=torch.bool).tril()
    spoiled = new_call(8)
    spoiled.query[0, 1, 4] = torch.nan
    return [
        new_call(0),
        new_call(1, keys=7),
        new_call(2),
        replace(new_call(3), mask=mask),
        new_call(4, batch=4),
        new_call(5, heads=6),
        new_call(6, roles=joint()),
        new_call(7, roles=joint()),
        spoiled,
        replace(new_call(9), is_causal=True),
    ]


@pytest.mark.parametrize("rows", [None, 6])
def test_layers_averaged_together_give_what_each_gives_alone(rows: int | None) -> None:
    reduction = Reduction(STATISTICS, rows)
    looks = [look for call in several() for look in reduction.look(call).values()]
    alone = [values for call in several() for values in reduction(call).values()]
    assert len({look.likeness for look in looks}) < len(looks)
    for together, each in zip(reduction.averages(looks), alone, strict=True):
        torch.testing.assert_close(together, each, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_entropies_against_whole_maps() -> None:
    reduction = Reduction(("entropy",))
    calls = [new_call(seed) for seed in range(3)]
    values = reduction.averages([reduction.look(call)[""] for call in calls])
    for call, found in zip(calls, values, strict=True):
        expected = entropy_of(logits_of(call.query, call.key, call.scale)).mean(-1)
        entropy = found[reduction.names.index("entropy")]
        torch.testing.assert_close(entropy.double(), expected, rtol=0, atol=1e-5)


def test_looks_that_are_not_alike_would_be_mixed_up() -> None:
    """The partner: joined against their likeness, looks give other numbers."""
    reduction = Reduction(("entropy",))
    long, short = (reduction.look(new_call(0, keys=keys))[""] for keys in (20, 7))
    assert long.likeness != short.likeness
    wrong = reduction.average(joined([long, short])).split(2, 1)[1]
    right = reduction.average(short)
    keys = reduction.names.index("tokens")
    assert wrong[keys, 0, 0] == 20
    assert right[keys, 0, 0] == 7


def test_what_is_held_is_averaged_before_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "HELD", 3000)
    reduction = Reduction(("entropy",))
    forward = DenoiserCall(Inputs([torch.zeros(2, 4, 4, 5)], False, None, {}, (), (), []), reduction)
    held = []
    for number in range(20):
        call = new_call(number)
        forward.see(f"layer {number}", reduction.look(call)[""], call, f"layer {number}")
        held.append(sum(seen.look.size for seen in forward.looks))
    assert max(held) <= 3000
    forward.settle()
    assert list(forward.values) == [f"layer {number}" for number in range(20)]
    for number, values in enumerate(forward.values.values()):
        torch.testing.assert_close(values, reduction(new_call(number))[""], rtol=1e-5, atol=1e-5, equal_nan=True)
