"""Statistics that no sum of one pass over the keys gives: of Gaussian rows, and of rows with fewer keys.

``gaussian`` is the entropy that N Gaussian logits of the row's variance would have, and with it comes ``unexplained``,
whether the row's own is too far from that for chance. ``slope`` is dH/dlog N from the row alone, by leaving out each
key in turn, and ``rarefied`` its mean entropy among random parts of its keys; both take the row's logits, in chunks of
rows. Sources: see `law.theory`, whose functions say the same of arrays.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..gaussian import LEAST, table
from .choice import answer
from .reference import attention_statistics, by_chunks
from .rows import Rows, RowStatistics

PARTITIONS = {"half": 2, "quarter": 4, "eighth": 8, "sixteenth": 16}
"""Parts of a row's keys among which it is rarefied -> how many such parts all keys make."""

DRAWS = 4
"""Random partitions of the keys; every key is in one part of each, which is worth more than as many random parts."""

MOST = max(PARTITIONS.values())
COLUMNS = 4
"""Of each value, `sums_beyond` leaves: rows, the sums of the value and of its square, and of the rows' entropy."""

Sums = tuple[Tensor, Tensor, Tensor]
"""The largest logit m of some keys, and the sums of exp(s - m) and of exp(s - m) (s - m): their entropy follows."""


VALUES = {"gaussian": ("gaussian", "unexplained"), "rarefied": tuple(f"rarefied_{part}" for part in PARTITIONS)}
"""The values of the statistics of `BEYOND` that have several."""


def values_of(statistics: tuple[str, ...]) -> tuple[str, ...]:
    """The names of all values that statistics have."""
    return tuple(value for name in statistics for value in VALUES.get(name, (name,)))


def values_in(found: Mapping[str, Tensor] | RowStatistics, name: str) -> tuple[Tensor, ...]:
    """The values (..., heads, queries) of one of the statistics that were found, in the order of `values_of`."""
    return found[name].unbind(-1) if name == "rarefied" else tuple(found[each] for each in values_of((name,)))


def sums_beyond(
    rows: Rows, statistics: tuple[str, ...], counted: Tensor | None = None, grows: Tensor | None = None
) -> Tensor:
    """Sums over the rows of each head that count (all if None), in which a value that is not finite does not.

    float64 (batch, heads, `COLUMNS` of each of `values_of` the statistics), without waiting; ``grows`` as of `beyond`.
    """
    found = beyond(rows, statistics, grows)
    entropy = found.get("entropy")
    columns = []
    for name in statistics:
        for value in values_in(found, name):
            good = value.isfinite() if counted is None else value.isfinite() & counted
            value = value.double().masked_fill(~good, 0)
            own = value if entropy is None else entropy.double().masked_fill(~good, 0)
            columns += [good.double().sum(-1), value.sum(-1), value.square().sum(-1), own.sum(-1)]
    return torch.stack(columns, -1)


def beyond(rows: Rows, statistics: tuple[str, ...], grows: Tensor | None = None) -> dict[str, Tensor]:
    """Statistics of `BEYOND` of every row: (..., heads, queries), of "rarefied" (..., heads, queries, parts).

    NaN for rows without keys; slope for those with a single key, and rarefied for those with fewer keys than parts.
    With "gaussian" comes "unexplained", and with "rarefied" the "entropy" of the same rows. ``grows``, boolean
    (batch, keys), says which keys grow with N, if not all do: only these are left out, and slope is still that against
    log of all keys.
    """
    found = {}
    if "gaussian" in statistics:
        whole = answer(replace(rows, statistics=("entropy", "variance")))
        found["gaussian"], spread = gaussian_entropy(whole["variance"], whole.keys)
        far = (whole["entropy"] - found["gaussian"]).abs()
        found["unexplained"] = (far > (2 * spread).clamp(min=LEAST)).to(far.dtype).masked_fill(far.isnan(), torch.nan)
    if "slope" in statistics or "rarefied" in statistics:
        shape, more = rows.q.shape[:-1], {"slope": (), "rarefied": (len(PARTITIONS),)}
        found |= {
            name: rows.q.new_empty((*shape, *more[name]), dtype=rows.dtype) for name in more if name in statistics
        }
        if "rarefied" in found:
            found["entropy"] = rows.q.new_empty(shape, dtype=rows.dtype)
        grows = None if grows is None else grows[:, None, None]
        is_plain = rows.mask is None and not rows.is_causal and grows is None
        for chunk, logits in by_chunks(rows):
            if "slope" in found:
                found["slope"][..., chunk] = slope(logits, grows)
            if "rarefied" in found:
                found["rarefied"][..., chunk, :] = rarefied(logits, is_plain, grows)
                found["entropy"][..., chunk] = attention_statistics(logits)["entropy"]
    return found


def gaussian_entropy(variance: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread [nats] of the entropy of N Gaussian logits of a measured variance, as `gaussian` of arrays."""
    means, spreads, tokens, sigmas = table_on(variance.device)
    squares = sigmas.square()
    known = variance.nan_to_num(0, 0, 0).clamp(min=0)
    right = (known.sqrt().log1p() * ((len(sigmas) - 1) / sigmas[-1].log1p())).long().clamp(max=len(sigmas) - 2)
    across = ((known - squares[right]) / (squares[right + 1] - squares[right])).clamp(max=1)
    log_keys, knots = keys.clamp(min=1).to(variance.dtype).log(), tokens.log()
    up = (torch.bucketize(log_keys, knots, right=True) - 1).clamp(max=len(tokens) - 2)
    along = ((log_keys - knots[up]) / (knots[up + 1] - knots[up])).clamp(max=1)
    far = squares[-1] / known.clamp(min=squares[-1])
    nothing = (keys == 0) | ~variance.isfinite()
    found = []
    for values, power in ((means, 1 / 2), (spreads, 1 / 4)):
        below, above = (values[row, right] * (1 - across) + values[row, right + 1] * across for row in (up, up + 1))
        found.append(((below + (above - below) * along) * far**power).masked_fill(nothing, torch.nan))
    return found[0], found[1]


@lru_cache(maxsize=16)
def table_on(device: torch.device) -> tuple[Tensor, ...]:
    """The table of Gaussian rows: entropies and their spreads (tokens, sigma), its tokens and its sigmas."""
    known = table()
    names = ("entropy", "spread", "tokens", "sigma")
    return tuple(torch.from_numpy(known[name]).to(device, non_blocking=True) for name in names)


def slope(logits: Tensor, grows: Tensor | None = None) -> Tensor:
    """dH/dlog N of rows (..., keys), -inf where a key is left out: the sum over keys of H less H without the key."""
    falls = falls_of(logits)
    if grows is None:
        return falls.sum(-1)
    left = logits != -torch.inf
    return falls.masked_fill(~grows, 0).sum(-1) * left.sum(-1) / (left & grows).sum(-1)


def falls_of(logits: Tensor) -> Tensor:
    """H less H without a key, for each key of rows (..., keys); 0 where a key is left out.

    That is -A (H + log A) / (1 - A) - log(1 - A) of a key of weight A, written so that nothing large is subtracted. Of
    the largest weight, which alone can be near 1, H without it is computed from the other keys.
    """
    top = logits.argmax(-1, keepdim=True)
    shifted = logits - logits.gather(-1, top)
    weight = shifted.exp()
    total = weight.sum(-1, keepdim=True)
    share = weight / total
    log_share = (shifted - total.log()).masked_fill(weight == 0, 0)
    entropy = -(share * log_share).sum(-1, keepdim=True)
    falls = -share * (entropy + log_share) / (1 - share) - torch.log1p(-share)
    others = attention_statistics(logits.scatter(-1, top, -torch.inf))["entropy"]
    return falls.scatter(-1, top, entropy - others[..., None])


def rarefied(logits: Tensor, is_plain: bool = False, grows: Tensor | None = None) -> Tensor:
    """Mean entropy [nats] of rows (..., keys) among random parts of their keys: (..., parts), as in `PARTITIONS`.

    Where N is no multiple of the number of parts, some have a key more than others. ``is_plain`` says that no key is
    left out of any row, which saves ranking the keys of each row by themselves.
    """
    thinned = logits if grows is None else logits.masked_fill(~grows, -torch.inf)
    rest = None if grows is None else sums_over_keys(logits.masked_fill(grows, -torch.inf)[..., None])
    total = logits.new_zeros((*logits.shape[:-1], len(PARTITIONS)))
    for priority in priorities(logits.shape[-1], logits.device):
        if is_plain:
            shuffled = thinned[..., priority.argsort()]
        else:  # the k-th of a row's own keys is in part k modulo their number, whichever are left out
            ranked = torch.where(thinned == -torch.inf, 2, priority).argsort(-1)
            shuffled = thinned.gather(-1, ranked)
        padded = pad(shuffled, (0, -shuffled.shape[-1] % MOST), value=-torch.inf)
        parts = sums_over_keys(padded.unflatten(-1, (-1, MOST)))
        for place in reversed(range(len(PARTITIONS))):
            total[..., place] += entropy_of(parts if rest is None else merged(parts, rest)).mean(-1)
            first, second = zip(*(each.chunk(2, -1) for each in parts), strict=True)
            parts = merged(first, second)
    left = (thinned != -torch.inf).sum(-1)
    too_few = torch.stack([left < number for number in PARTITIONS.values()], -1)
    return (total / DRAWS).masked_fill(too_few, torch.nan)


@lru_cache(maxsize=64)
def priorities(keys: int, device: torch.device) -> Tensor:
    """Random numbers below 1 (draws, keys), the same ones whenever there are as many keys."""
    generator = torch.Generator().manual_seed(keys)
    return torch.rand(DRAWS, keys, generator=generator).to(device, non_blocking=True)


def sums_over_keys(logits: Tensor) -> Sums:
    """The sums over the last dimension but one."""
    most = logits.amax(-2, keepdim=True)
    shifted = logits - most.masked_fill(most == -torch.inf, 0)
    weight = shifted.exp()
    return most[..., 0, :], weight.sum(-2), (weight * shifted.masked_fill(weight == 0, 0)).sum(-2)


def merged(first: Sums, second: Sums) -> Sums:
    """The sums over the keys of both."""
    most = torch.maximum(first[0], second[0])
    level = most.masked_fill(most == -torch.inf, 0)
    weight, moment = torch.zeros_like(most), torch.zeros_like(most)
    for own, total, along in (first, second):
        move = own - level
        scale = move.exp()
        weight = weight + scale * total
        moment = moment + scale * (along + move.masked_fill(scale == 0, 0) * total)
    return most, weight, moment


def entropy_of(sums: Sums) -> Tensor:
    """The entropy [nats] of keys whose sums are known."""
    return sums[1].log() - sums[2] / sums[1]
