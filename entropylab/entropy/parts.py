"""A row whose keys fall into parts (image and text, say): the parts' statistics, and the whole row's from theirs.

By the chain rule H = H(part) + sum_m p_m H_m, where p_m is the weight that the row gives to part m, H(part) the entropy
of these weights, and H_m the row's entropy among the keys of m alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .rows import RowStatistics


@dataclass(frozen=True)
class Parts:
    """The statistics of rows among each part of their keys; every one must have entropy and LSE.

    Attributes:
        rows: part -> RowStatistics of tensors (..., heads, queries) among the keys of that part alone.
    """

    rows: Mapping[str, RowStatistics]

    def stacked(self, name: str) -> Tensor:
        """A statistic of every part: (parts, ..., heads, queries), 0 where a row has no key in a part."""
        return torch.stack([found[name].masked_fill(found.keys == 0, 0) for found in self.rows.values()])

    @property
    def counts(self) -> Tensor:
        """Number of keys of every part: (parts, ..., heads, queries)."""
        return torch.stack([found.keys for found in self.rows.values()])

    @property
    def lse(self) -> Tensor:
        """Log-sum-exp over all keys [nats]: (..., heads, queries)."""
        return self.stacked("lse").masked_fill(self.counts == 0, -torch.inf).logsumexp(0)

    @property
    def mass(self) -> Tensor:
        """The weight p_m that each row gives to each part: (parts, ..., heads, queries)."""
        own = self.stacked("lse").masked_fill(self.counts == 0, -torch.inf)
        return (own - self.lse).exp().masked_fill(self.counts.sum(0) == 0, 0)

    @property
    def between(self) -> Tensor:
        """Entropy between the parts, H(part) [nats]: (..., heads, queries)."""
        return -torch.special.xlogy(self.mass, self.mass).sum(0)

    @property
    def within(self) -> Tensor:
        """What each part adds to the row's entropy, p_m H_m [nats]: (parts, ..., heads, queries)."""
        return self.mass * self.stacked("entropy")

    def whole(self) -> RowStatistics:
        """The statistics of the rows over all their keys, as many as the parts have."""
        names = tuple(name for name in next(iter(self.rows.values())).names() if name != "keys")
        keys = self.counts.sum(0)
        found = {"entropy": self.between + self.within.sum(0), "lse": self.lse}
        if "sensitivity" in names:
            found["sensitivity"] = self.sensitivity()
        found |= self.cumulants(keys, names)
        chosen = {name: found[name].masked_fill(keys == 0, torch.nan) for name in names}
        return RowStatistics(keys=keys, **chosen)

    def sensitivity(self) -> Tensor:
        """Var_A[s] over all keys, by the law of total variance."""
        expected = self.stacked("lse") - self.stacked("entropy")
        centre = (self.mass * expected).sum(0)
        return (self.mass * (self.stacked("sensitivity") + (expected - centre).square())).sum(0)

    def cumulants(self, keys: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Mean and cumulants over all keys, from the central moments of the parts."""
        if "mean" not in names:
            return {}
        means = self.stacked("mean")
        share = self.counts.to(means.dtype) / keys.clamp(min=1)
        mean = (share * means).sum(0)
        shift = means - mean
        found = {"mean": mean}
        if "variance" in names:
            second = self.stacked("variance")
            variance = (share * (second + shift.square())).sum(0)
            found["variance"] = variance
        if "third" in names:
            third = self.stacked("third")
            found["third"] = (share * (third + 3 * shift * second + shift.pow(3))).sum(0)
        if "fourth" in names:
            fourth = self.stacked("fourth") + 3 * second.square()
            moment = share * (fourth + 4 * shift * third + 6 * shift.square() * second + shift.pow(4))
            found["fourth"] = moment.sum(0) - 3 * variance.square()
        return found


def needed(names: tuple[str, ...]) -> tuple[str, ...]:
    """Which statistics of the parts the statistics ``names`` of the whole need."""
    wanted = {"entropy", "lse", *names}
    if wanted & {"mean", "variance", "third", "fourth"}:
        wanted.add("mean")
    if wanted & {"third", "fourth"}:
        wanted.add("variance")
    if "fourth" in wanted:
        wanted.add("third")
    return tuple(name for name in RowStatistics.__dataclass_fields__ if name in wanted)
