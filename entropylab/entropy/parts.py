"""A row whose keys fall into parts (image and text, say): the parts' statistics, and the whole row's from theirs.

By the chain rule H = H(part) + sum_m p_m H_m, where p_m is the weight that the row gives to part m, H(part) the entropy
of these weights, and H_m the row's entropy among the keys of m alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .rows import STATISTICS, RowStatistics

MOST_PARTS = 4
COUNTS = ("valid", "empty", "bad", "keys")
OF_PART = ("rows", "keys", "mass", "within", "entropy", "variance")
"""What is summed over rows: these counts, statistics and their squares, the entropy between parts, and this of each."""

BETWEEN = len(COUNTS) + 2 * len(STATISTICS)
NUMBERS = BETWEEN + 1 + MOST_PARTS * len(OF_PART)

CUMULANTS = ("mean", "variance", "third", "fourth")


@dataclass(frozen=True)
class KeyParts:
    """Which keys are of which part.

    Attributes:
        codes: (batch, keys), the part of every key.
        parts: which codes there are, at most ``MOST_PARTS``; the keys of others are nobody's.
        spans: where each part stands, if that is one stretch and the same for every image; else None.
    """

    codes: Tensor
    parts: tuple[int, ...]
    spans: tuple[slice, ...] | None = None

    @property
    def places(self) -> list[slice | Tensor]:
        """Where each part stands: slices of the keys, or boolean (batch, keys)."""
        return list(self.spans) if self.spans is not None else [self.codes == part for part in self.parts]

    @cached_property
    def order(self) -> Tensor:
        """(batch, keys) int32: the keys, those of one part after those of another."""
        ranks = torch.zeros_like(self.codes)
        for rank, part in enumerate(self.parts):
            ranks[self.codes == part] = rank
        return ranks.argsort(dim=1, stable=True).to(torch.int32).contiguous()

    @cached_property
    def bounds(self) -> Tensor:
        """(batch, parts + 1) int64: where in this order each part begins and ends."""
        counts = torch.stack([(self.codes == part).sum(1) for part in self.parts], 1).cumsum(1)
        return torch.cat([counts.new_zeros(len(counts), 1), counts], 1).contiguous()


@dataclass(frozen=True)
class Parts:
    """Rows by the parts of their keys.

    Attributes:
        rows: the statistics among the keys of each part, (..., heads, queries).
        whole: the statistics over all keys, as many as the parts have.
        mass: the weight p_m that each row gives to each part, (parts, ..., heads, queries).
        within: what each part adds to the row's entropy, p_m H_m [nats], (parts, ..., heads, queries).
        between: entropy between the parts, H(part) [nats], (..., heads, queries).
    """

    rows: Sequence[RowStatistics]
    whole: RowStatistics
    mass: Tensor
    within: Tensor
    between: Tensor


def needed(names: tuple[str, ...]) -> tuple[str, ...]:
    """Which statistics of the parts the statistics ``names`` of the whole need."""
    highest = max((CUMULANTS.index(name) for name in names if name in CUMULANTS), default=0)
    wanted = {"entropy", "lse", *names, *CUMULANTS[: highest + 1]}
    return tuple(name for name in STATISTICS if name in wanted)


def joined(rows: Sequence[RowStatistics]) -> Parts:
    """All about rows from what is `needed` of them among each part of their keys."""
    own = {name: torch.stack([each[name].masked_fill(each.keys == 0, 0) for each in rows]) for name in rows[0].names()}
    counts = own.pop("keys")
    keys = counts.sum(0)
    own_lse = own["lse"].masked_fill(counts == 0, -torch.inf)
    lse = own_lse.logsumexp(0)
    mass = (own_lse - lse).exp().masked_fill(keys == 0, 0)
    within, between = mass * own["entropy"], -torch.special.xlogy(mass, mass).sum(0)
    found = {"entropy": between + within.sum(0), "lse": lse}
    if "sensitivity" in own:  # the law of total variance
        expected = own["lse"] - own["entropy"]
        apart = expected - (mass * expected).sum(0)
        found["sensitivity"] = (mass * (own["sensitivity"] + apart.square())).sum(0)
    share = counts.to(mass.dtype) / keys.clamp(min=1)
    mean = (share * own["mean"]).sum(0)
    shift = own["mean"] - mean
    found["mean"] = mean
    if "variance" in own:
        second = own["variance"]
        found["variance"] = (share * (second + shift.square())).sum(0)
    if "third" in own:
        third = own["third"]
        found["third"] = (share * (third + 3 * shift * second + shift.pow(3))).sum(0)
    if "fourth" in own:
        moment = own["fourth"] + 3 * second.square()
        moment = moment + 4 * shift * third + 6 * shift.square() * second + shift.pow(4)
        found["fourth"] = (share * moment).sum(0) - 3 * found["variance"].square()
    found = {name: values.masked_fill(keys == 0, torch.nan) for name, values in found.items()}
    return Parts(rows, RowStatistics(keys=keys, **found), mass, within, between)
