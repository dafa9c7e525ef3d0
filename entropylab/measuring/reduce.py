"""From one attention call to a few numbers per head: row statistics first, sums over rows, averages afterwards."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..capture import AttentionCall
from ..capture.roles import PARTS, Tokens
from ..entropy.beyond import COLUMNS, sums_beyond, values_of
from ..entropy.rows import (
    BETWEEN,
    BEYOND,
    COUNTS,
    NUMBERS,
    OF_PART,
    STATISTICS,
    KeyParts,
    Rows,
    both,
    masked_out,
)
from ..entropy.sums import head_sums, sums_and_rows, sums_of_several
from ..errors import EntropyLabError, names_of

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
    known = (*ROW_STATISTICS, *BEYOND)
    if not names or not set(names) <= set(known) or len(set(names)) < len(names):
        raise EntropyLabError(f"statistics must be some of {', '.join(known)}, each once. Got {statistics!r}.")
    return names


SAMPLED_ROWS = 256
"""How many query rows the statistics "slope" and "rarefied" are of, where ``rows`` does not say."""


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


Where = Tensor | slice


@dataclass(frozen=True)
class Asked:
    """Some query rows of a call, and which of them count.

    Attributes:
        query: (batch, heads, queries, d).
        mask: their part of the call's mask, or None.
        is_causal: whether a causal mask applies as well.
        keys: how many keys the call has.
        counted: boolean, broadcastable to (batch, heads, queries); None if every row counts.
        fraction: how many rows there are for one that is looked at.
    """

    query: Tensor
    mask: Tensor | None
    is_causal: bool
    keys: int
    counted: Tensor | None = None
    fraction: float = 1.0

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.query.shape[-2]

    @property
    def is_whole(self) -> bool:
        """Whether every row counts and has every key."""
        return self.counted is None and self.mask is None and not self.is_causal


def rows_at(call: AttentionCall, where: Where) -> Asked:
    """The query rows of a call that stand somewhere; padding, which no query attends to, does not count as a row."""
    mask = call.mask if call.mask is None or call.mask.ndim > 1 else call.mask[None]
    counted = None
    if mask is not None and call.query.shape[-2] == call.key.shape[-2] and not crosses(call):
        counted = ~masked_out(mask).all(-2)
    query = call.query
    if isinstance(where, Tensor):
        counted = where[:, None] if counted is None else counted & where[:, None]
    elif where != slice(None):
        query = query[..., where, :]
        mask = mask if mask is None or mask.shape[-2] == 1 else mask[..., where, :]
        counted = counted if counted is None or counted.shape[-1] == 1 else counted[..., where]
        if call.is_causal:
            places = torch.arange(call.query.shape[-2], device=query.device)[where]
            mask = both(mask, torch.arange(call.key.shape[-2], device=query.device) <= places[:, None])
    causal = call.is_causal and query is call.query
    return Asked(query, mask, causal, call.key.shape[-2], counted)


def crosses(call: AttentionCall) -> bool:
    """Whether a call is known to be among keys that are not its queries."""
    if call.roles is not None:
        return call.roles.kind == "cross"
    return call.context is not None and call.key.shape[-2] <= call.context


def some_rows(asked: Asked, rows: int | None) -> Asked:
    """At most ``rows`` of the query rows, the same ones whenever a layer has this many, with their part of the mask."""
    queries = asked.query.shape[-2]
    if rows is None or rows >= queries:
        return asked
    chosen = chosen_rows(queries, rows, asked.query.device)
    mask, counted = asked.mask, asked.counted
    if mask is not None and mask.shape[-2] != 1:
        mask = mask.index_select(-2, chosen)
    if asked.is_causal:
        mask = both(mask, torch.arange(asked.keys, device=chosen.device) <= chosen[:, None])
    if counted is not None and counted.shape[-1] != 1:
        counted = counted.index_select(-1, chosen)
    return Asked(asked.query.index_select(-2, chosen), mask, False, asked.keys, counted, queries / rows)


@lru_cache(maxsize=64)
def chosen_rows(queries: int, rows: int, device: torch.device) -> Tensor:
    """Which ``rows`` of so many queries are looked at, in their order; kept, for a GPU is sent them but once."""
    generator = torch.Generator().manual_seed(queries)
    return torch.randperm(queries, generator=generator)[:rows].sort().values.to(device, non_blocking=True)


class RowsApart(NamedTuple):
    """Query rows of a call, one by one: which, which of these stand where they should (None: all), and what they do.

    ``entropy`` and ``lse`` are (batch, heads, rows), NaN of rows that don't count.
    """

    asked: Asked
    where: Tensor | None
    entropy: Tensor
    lse: Any


class Sums(NamedTuple):
    """What is left of some query rows of a call.

    Attributes:
        sums: (batch, heads, ``entropy.rows.NUMBERS`` and what `sums_beyond` adds), on the device of the call.
        fraction: how many rows there are for one that was looked at.
        parts: what the parts of the keys are, if they were told apart.
        rows: the rows themselves, where maps are kept.
    """

    sums: Tensor
    fraction: float
    parts: tuple[str, ...] = ()
    rows: Any = None


@dataclass(frozen=True)
class Reduction:
    """Which numbers a call is reduced to.

    Attributes:
        statistics: variables of the Dataset, each averaged over query rows.
        rows: how many query rows to look at, a fixed random subset; None for all.
        of_rows: statistics that are left of every row beside the sums, for maps; "entropy", or that and "lse".
    """

    statistics: tuple[str, ...]
    rows: int | None = None
    of_rows: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What the entries of a reduced call are, in order; those of ``SPLIT`` only where attention is joint."""
        spread = ("entropy_std",) if "entropy" in self.statistics else ()
        values = values_of(self.statistics)
        errors = () if self.rows is None else tuple(f"{name}_se" for name in values)
        return ("rows", "rows_empty", "tokens", *values, *spread, *errors, "rows_bad", *SPLIT)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The statistics that one pass sums, as ``row_statistics`` calls them; entropy in any case."""
        streaming = tuple(ROW_STATISTICS[name] for name in self.statistics if name in ROW_STATISTICS)
        return streaming if not self.beyond or "entropy" in streaming else (*streaming, "entropy")

    @cached_property
    def beyond(self) -> tuple[str, ...]:
        """The statistics that no pass sums; "gaussian" first."""
        return tuple(name for name in BEYOND if name in self.statistics)

    def is_plain(self, call: AttentionCall) -> bool:
        """Whether all there is to a call is its queries and keys, every one of which counts, for one thing."""
        is_whole = call.mask is None and not call.is_causal and self.rows is None and not self.of_rows
        return is_whole and (call.roles is None or call.roles.are_simple)

    def __call__(self, call: AttentionCall) -> dict[str, Sums]:
        """Reduce a call on its device, without waiting for it: what its query rows stand for -> the sums over them.

        They stand for "" if for one thing, or if nothing is known.
        """
        if self.is_plain(call):
            return {"": Sums(self.of_plain(call), 1.0)}
        roles = call.roles
        if roles is None or roles.queries.codes is None:
            return {"": self.over_rows(call, slice(None))}
        places = {part: roles.queries.standing_for(part, call.query.device) for part in roles.queries.parts}
        is_quick = call.query.is_cuda and self.rows is None and not self.beyond and not self.of_rows
        several = self.over_several(call, list(places.values())) if is_quick else None
        if several is not None:
            return dict(zip(places, several, strict=True))
        return {part: self.over_rows(call, where) for part, where in places.items()}

    def parts(self, call: AttentionCall) -> tuple[str, ...]:
        """What its query rows stand for, where they are told apart; ("",) where not."""
        return ("",) if call.roles is None or call.roles.queries.codes is None else call.roles.queries.parts

    def of_plain(self, call: AttentionCall) -> Tensor:
        """The sums over the query rows of a plain call."""
        sums = head_sums(Rows(call.query, call.key, call.scale, None, False, self.fields))
        return self.with_beyond(sums, call, rows_at(call, slice(None))) if self.beyond else sums

    def with_beyond(self, sums: Tensor, call: AttentionCall, asked: Asked) -> Tensor:
        """The sums of rows, and those of the statistics that no pass over the keys gives behind them."""
        keys = joint_keys(call)
        codes = None if keys is None else keys.codes_on(call.key.device)
        image = None if codes is None else codes == PARTS.index("image")
        few = some_rows(asked, SAMPLED_ROWS) if self.rows is None else asked
        found = [sums]
        for names, some in ((BEYOND[:1], asked), (BEYOND[1:], few)):
            if wanted := tuple(name for name in names if name in self.beyond):
                found.append(sums_beyond(self.question(call, some), wanted, some.counted, image))
        return torch.cat(found, -1)

    def question(self, call: AttentionCall, asked: Asked) -> Rows:
        """What is asked of some rows of a call, of the statistics that one pass sums."""
        return Rows(asked.query, call.key, call.scale, asked.mask, asked.is_causal, self.fields)

    def over_several(self, call: AttentionCall, places: list[Where]) -> list[Sums] | None:
        """As ``over_rows`` at each place, every row looked at but once; None where a GPU can't."""
        asked, keys = rows_at(call, slice(None)), joint_keys(call)
        parts = None if keys is None else key_parts(keys, call.key.device)
        found = sums_of_several(self.question(call, asked), asked.counted, parts, places)
        names = () if keys is None else keys.parts
        return None if found is None else [Sums(sums, asked.fraction, names) for sums in found]

    def over_rows(self, call: AttentionCall, where: Where) -> Sums:
        """Sums over the query rows that stand somewhere; in joint attention, of each part of the keys by itself too."""
        asked = some_rows(rows_at(call, where), self.rows)
        keys = joint_keys(call)
        parts = None if keys is None else key_parts(keys, call.key.device)
        question, rows = self.question(call, asked), None
        if self.of_rows:
            sums, found = sums_and_rows(question, self.of_rows, asked.counted, parts)
            apart = where if isinstance(where, Tensor) else None
            rows = RowsApart(asked, apart, found["entropy"], found.get("lse"))
        else:
            sums = head_sums(question, asked.counted, parts)
        sums = self.with_beyond(sums, call, asked) if self.beyond else sums
        return Sums(sums, asked.fraction, () if keys is None else keys.parts, rows)

    def entries(self, sums: Tensor, parts: tuple[str, ...], fraction: float) -> Tensor:
        """What the sums (n, `Sums.sums`) of n heads say: (entries, n)."""
        numbers = sums.T
        valid, empty, bad, keys = numbers[: len(COUNTS)]
        places = [len(COUNTS) + STATISTICS.index(name) for name in self.fields]
        means = torch.stack([numbers[place] for place in places]) / valid
        squares = torch.stack([numbers[place + len(STATISTICS)] for place in places]) / valid
        deviation = (squares - means.square()).clamp(min=0).sqrt()
        spread = deviation[self.fields.index("entropy")][None] if "entropy" in self.statistics else deviation[:0]
        errors = deviation if self.rows is None else deviation * standard_error(valid, fraction)
        if self.beyond:
            own, own_errors = self.means_beyond(numbers, means[self.fields.index("entropy")], fraction)
            names = (*self.fields, *values_of(self.beyond))
            order = [names.index(ROW_STATISTICS.get(name, name)) for name in values_of(self.statistics)]
            means, errors = torch.cat([means, own])[order], torch.cat([errors, own_errors])[order]
        errors = errors[:0] if self.rows is None else errors
        found = [torch.stack([valid, empty, keys / (valid + bad)]), means, spread, errors, bad[None]]
        if parts:
            found.append(self.split(numbers, parts))
        return torch.cat(found)

    def means_beyond(self, numbers: Tensor, entropy: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
        """Means of the statistics that no pass sums, and their standard errors: (values, n) each.

        What thinning the keys takes from the rows that were looked at is taken from the mean ``entropy`` of all rows,
        which is known better than that of these.
        """
        names = values_of(self.beyond)
        rows, total, squares, own = numbers[NUMBERS:].unflatten(0, (len(names), COLUMNS)).unbind(1)
        means = total / rows
        deviation = (squares / rows - means.square()).clamp(min=0).sqrt()
        thinned = torch.tensor([name.startswith("rarefied") for name in names])[:, None]
        return torch.where(thinned, means + entropy - own / rows, means), deviation * standard_error(rows, fraction)

    def split(self, numbers: Tensor, parts: tuple[str, ...]) -> Tensor:
        """The entries ``SPLIT`` from the sums (``NUMBERS``, n): (entries, n), NaN where the keys have no such part."""
        valid = numbers[0]
        nothing = torch.full_like(valid, torch.nan)
        found = {"entropy_between": numbers[BETWEEN] / valid, "entropy_from_other": torch.zeros_like(valid)}
        for index, part in enumerate(parts):
            first = BETWEEN + 1 + index * len(OF_PART)
            rows, keys, mass, within, entropy, variance = numbers[first : first + len(OF_PART)]
            found |= {f"keys_{part}": keys / valid, f"mass_{part}": mass / valid, f"entropy_{part}": entropy / rows}
            found[f"sigma2_{part}"] = variance / rows if "sigma2" in self.statistics else nothing
            name = f"entropy_from_{part if part in ('image', 'text') else 'other'}"
            found[name] = found.get(name, 0) + within / valid
        return torch.stack([found.get(name, nothing) for name in SPLIT])


def joint_keys(call: AttentionCall) -> Tokens | None:
    """What the keys of joint attention stand for; None for any other."""
    return call.roles.keys if call.roles is not None and call.roles.kind == "joint" else None


def key_parts(keys: Tokens, device: torch.device) -> KeyParts | None:
    """Which keys are of which part; None if they are of one."""
    if (codes := keys.codes_on(device)) is None:
        return None
    spans = None if keys.spans is None else tuple(keys.spans[part] for part in keys.parts)
    return KeyParts(codes, tuple(PARTS.index(part) for part in keys.parts), spans)


def standard_error(rows: Tensor, fraction: float) -> Tensor:
    """Factor from the deviation of n rows to the standard error of their mean, as an estimate for all n * fraction."""
    return ((1 - 1 / fraction) / (rows - 1).clamp(min=1)).sqrt()
