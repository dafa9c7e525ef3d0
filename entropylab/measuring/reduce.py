"""From one attention call to a few numbers per head: row statistics first, averages over rows afterwards."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..capture import AttentionCall
from ..entropy import RowStatistics
from ..entropy.parts import Parts, needed
from ..errors import EntropyLabError, names_of
from .asked import Where, rows_at, some_rows
from .looks import Look, joined, look_among

ROW_STATISTICS = {
    "entropy": "entropy",
    "sigma2": "variance",
    "third": "third",
    "fourth": "fourth",
    "sensitivity": "sensitivity",
    "lse": "lse",
    "mean": "mean",
}
"""Variable of the Dataset -> field of RowStatistics."""


def check_statistics(statistics: Any) -> tuple[str, ...]:
    """``statistics`` as a tuple of known names, or an EntropyLabError."""
    names = names_of(statistics)
    unknown = [name for name in names if name not in ROW_STATISTICS]
    if unknown or not names or len(set(names)) < len(names):
        raise EntropyLabError(f"statistics must be some of {', '.join(ROW_STATISTICS)}, each once. Got {statistics!r}.")
    return names


SPLIT = (
    "keys_image",
    "mass_image",
    "mass_text",
    "entropy_between",
    "entropy_from_image",
    "entropy_from_text",
    "entropy_from_other",
    "entropy_image",
    "entropy_text",
    "sigma2_image",
)
"""What joint attention has beside: its entropy by the chain rule, and what its rows do among the image's keys alone."""


@dataclass(frozen=True)
class Reduction:
    """Which numbers a call is reduced to.

    Attributes:
        statistics: variables of the Dataset, each averaged over query rows.
        rows: how many query rows to look at, a fixed random subset; None for all.
    """

    statistics: tuple[str, ...]
    rows: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What the entries of a reduced call are, in order; those of ``SPLIT`` only where attention is joint."""
        spread = ("entropy_std",) if "entropy" in self.statistics else ()
        errors = () if self.rows is None else tuple(f"{name}_se" for name in self.statistics)
        return ("rows", "rows_empty", "tokens", *self.statistics, *spread, *errors, "rows_bad", *SPLIT)

    @property
    def fields(self) -> tuple[str, ...]:
        """The statistics as ``row_statistics`` calls them."""
        return tuple(ROW_STATISTICS[name] for name in self.statistics)

    def __call__(self, call: AttentionCall) -> dict[str, Tensor]:
        """Reduce a call, on its device, without waiting for it.

        Returns:
            What the query rows stand for ("" if for one thing, or nothing is known) -> (entries, batch, heads).
        """
        return {part: self.average(look) for part, look in self.look(call).items()}

    def look(self, call: AttentionCall) -> dict[str, Look]:
        """Look at the rows of a call, and average them later: what its query rows stand for -> a look at them."""
        roles = call.roles
        if roles is None or roles.queries.codes is None:
            return {"": self.look_at(call, slice(None))}
        return {part: self.look_at(call, roles.queries.standing_for(part)) for part in roles.queries.parts}

    def look_at(self, call: AttentionCall, where: Where) -> Look:
        """Look at the query rows that stand somewhere; of joint attention, at each part of the keys by itself."""
        asked = some_rows(rows_at(call, where), self.rows)
        roles = call.roles
        if roles is None or roles.kind != "joint":
            return look_among({"": slice(None)}, call, asked, self.fields)
        parts = {part: roles.keys.standing_for(part) for part in roles.keys.parts}
        return look_among(parts, call, asked, needed(self.fields))

    def averages(self, looks: Sequence[Look]) -> list[Tensor]:
        """The looks' numbers, (entries, batch, heads) each; looks that are alike are averaged in one go.

        A layer needs some hundred small operations, and a GPU waits for the launch of every one.
        """
        groups: dict[Hashable, list[int]] = {}
        for index, one in enumerate(looks):
            groups.setdefault(index if one.likeness is None else one.likeness, []).append(index)
        found: dict[int, Tensor] = {}
        for members in groups.values():
            together = joined([looks[index] for index in members])
            widths = [len(looks[index].query_sums) for index in members]
            found.update(zip(members, self.average(together).split(widths, 1), strict=True))
        return [found[index] for index in range(len(looks))]

    def average(self, look: Look) -> Tensor:
        """Means over the query rows of a look: (entries, batch, heads)."""
        if look.whole is not None:
            return self.averaged(look.whole, look)
        parts = Parts(look.found)
        return torch.cat([self.averaged(parts.whole(), look), self.split(parts, look)])

    def averaged(self, found: RowStatistics, look: Look) -> Tensor:
        """Means over the query rows that count, have keys and are not bad: (entries, batch, heads)."""
        rows = torch.stack([found[name] for name in self.fields]).to(torch.float32)
        bad = ~(rows.sum(0) + look.sums).isfinite()  # a sum is finite if all its terms are
        shape = bad.shape[:2]
        if look.is_whole:
            good, empty, keys = ~bad, rows.new_zeros(shape), rows.new_full(shape, look.total)
        else:
            counts = bad.new_ones(()) if look.counted is None else look.counted
            counted = ((found.keys > 0) & counts).expand(bad.shape)
            bad, good = counted & bad, counted & ~bad
            empty = ((found.keys == 0) & counts).expand(bad.shape).sum(-1)
            keys = (found.keys * counted).sum(-1) / counted.sum(-1)
        valid = good.sum(-1)
        rows = rows.masked_fill(~good, 0)
        mean = rows.sum(-1) / valid
        entries = [torch.stack([valid, empty, keys]).to(torch.float32), mean]
        if "entropy" in self.statistics or self.rows is not None:
            deviation = (((rows - mean[..., None]).square() * good).sum(-1) / valid).sqrt()
            if "entropy" in self.statistics:
                entries.append(deviation[self.statistics.index("entropy")][None])
            if self.rows is not None:
                entries.append(deviation * standard_error(valid, look.fraction))
        return torch.cat([*entries, bad.sum(-1)[None].to(torch.float32)])

    def split(self, parts: Parts, look: Look) -> Tensor:
        """The entries ``SPLIT``, NaN where the keys have no such part: (entries, batch, heads)."""
        names, mass, within = list(parts.rows), parts.mass, parts.within
        nothing = torch.full_like(parts.between, torch.nan)
        found: dict[str, Tensor] = {
            "entropy_between": parts.between,
            "entropy_from_other": torch.zeros_like(parts.between),
        }
        for part, share, adds in zip(names, mass, within, strict=True):
            found[f"mass_{part}"] = share
            name = f"entropy_from_{part if part in ('image', 'text') else 'other'}"
            found[name] = found.get(name, 0) + adds
            found[f"entropy_{part}"] = parts.rows[part]["entropy"]
            found[f"keys_{part}"] = parts.rows[part].keys.to(mass.dtype)
            found[f"sigma2_{part}"] = parts.rows[part]["variance"] if "sigma2" in self.statistics else nothing
        rows = torch.stack([found.get(name, nothing).to(torch.float32).expand_as(nothing) for name in SPLIT])
        keys = parts.counts.sum(0)
        counted = keys > 0 if look.counted is None else (keys > 0) & look.counted
        bad = ~(look.sums + parts.lse).isfinite()
        return rows.masked_fill(~counted | bad, torch.nan).nanmean(-1)


def standard_error(rows: Tensor, fraction: float) -> Tensor:
    """Factor from the deviation of n rows to the standard error of their mean, as an estimate for all n * fraction."""
    return ((1 - 1 / fraction) / (rows - 1).clamp(min=1)).sqrt()
