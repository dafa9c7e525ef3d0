"""The law put to the test where nothing is fitted: measured entropy beside log N - sigma^2/2 from measured sigma^2.

Knows Datasets, and nothing of tensors or models.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from ..errors import EntropyLabError, check_positive
from ..gaussian import entropy_given_variance
from .averages import (
    IMAGE,
    Kinds,
    about,
    along_tokens,
    averaged,
    chosen,
    counted,
    finite,
    foreseen,
    log_tokens,
    over_samples,
    provenance,
    words_of,
)
from .names import BIASED, FLAGS, RESIDUALS, Result, names_by_layer, page, table, text_table
from .theory import SKEWED, TOLERANCE, finite_term

WORDS = {
    "law": "law off by:",
    "third_order": "with k3:",
    "series": "with k3 and k4:",
    "gaussian": "Gaussian rows off by:",
    "rarefied": "fewer keys off by:",
}
PARTS = {"half": 2, "quarter": 4, "eighth": 8, "sixteenth": 16}
"""The parts of their keys among which the entropy of rows is measured, and how many of them all keys make."""

WEIGHTS: dict[str, dict[str, float]] = {
    "law": {"entropy": 1, "sigma2": 1 / 2},
    "third_order": {"entropy": 1, "sigma2": 1 / 2, "third": 1 / 3},
    "series": {"entropy": 1, "sigma2": 1 / 2, "third": 1 / 3, "fourth": 1 / 8},
    "gaussian": {"entropy": 1, "gaussian": 1},
    "rarefied": {"rarefied": 1},  # whose spread over samples is not kept
}
"""The statistics that a residual is made of, each with the size of its coefficient."""


class Check(Result):
    """Measured entropy beside what the law and its refinements predict from measured cumulants; entropies in nats.

    Attributes:
        dataset: with dims (size, layer, head), without head where it was averaged away: ``entropy``, ``law``,
            ``gaussian``, ``third_order``, ``series`` and ``rarefied`` if measured, ``..._residual`` = entropy less
            each, with ``..._residual_error`` over samples, ``freezing`` = sigma^2/(2 log N), and the flags as booleans.
            With dim layer ``..._bias``, the mean residual over heads and sizes, and ``..._bias_error``; the ``slope``
            of entropy against log N, ``predicted_slope`` if "slope" was measured, and with "sensitivity" ``power`` and
            ``level_power``. ``unexplained`` if "gaussian" was measured. ``to_dataset()`` is a copy.
    """

    @property
    def has_series(self) -> bool:
        """Whether the third and fourth cumulant were measured."""
        return "series" in self.dataset

    @property
    def flags(self) -> xr.DataArray:
        """The flags of every row in words: "skewed, near freezing", or "" where no threshold is passed."""
        text = xr.zeros_like(self["entropy"], dtype=object).where(False, "")
        for name, words in FLAGS.items():
            if name in self.dataset:
                text = xr.where(self[name], text + f", {words}", text)
        return xr.apply_ufunc(lambda values: np.char.lstrip(values.astype(str), ", "), text).drop_attrs()

    def to_frame(self) -> pd.DataFrame:
        """A row for every layer, head and size, in that order."""
        dims = [dim for dim in ("layer", "head", "size") if dim in self.dataset.dims]
        return table(self.dataset.assign(flags=self.flags), dims).dropna(subset="entropy", ignore_index=True)

    def grouped(self, by: str | Sequence[str] = "layer") -> pd.DataFrame:
        """A row for every group of rows (layer, head and size).

        Columns, in nats: means of entropy, deficit and sigma^2/2; the largest ``freezing``; ``..._off``, means of
        absolute residuals; ``law_worst``, the largest; and the fraction of rows that each flag is up in. ``rows`` are
        in the group.

        Args:
            by: one or several of "layer", "head" and "size"; all of them give every row.

        Raises:
            EntropyLabError: a name that is none of these, is given twice, or was averaged away.
        """
        names = list(words_of("by", by, "some of layer, head and size"))
        have = [dim for dim in ("layer", "head", "size") if dim in self.dataset.dims]
        if len(set(names)) < len(names) or not set(names) <= set(have):
            raise EntropyLabError(f"by must be some of {', '.join(have)}, each once. Got {by!r}.")
        rows = self.to_frame()
        residuals = {f"{name}_residual": f"{name}_off" for name in RESIDUALS if f"{name}_residual" in rows}
        rows = rows.assign(**rows[[*residuals]].abs())
        groups = rows.groupby(names, sort=False)
        shares = [name for name in FLAGS if name in rows]
        known = ["unexplained"] if "unexplained" in rows else []
        means = groups[["tokens", "entropy", "deficit", "half_sigma2", *residuals, *known, *shares]].mean()
        means = means.rename(columns=residuals).assign(
            rows=groups.size(), freezing=groups["freezing"].max(), law_worst=groups["law_residual"].max()
        )
        first = ["rows", "tokens", "entropy", "deficit", "half_sigma2", "freezing"]
        return means[[*first, *residuals.values(), *known, "law_worst", *shares]].reset_index()

    def layers(self) -> pd.DataFrame:
        """A row for every layer: how far off the law and its refinements are, and the flags.

        Columns ``..._off`` are means over heads and sizes of the absolute residual [nats], so that heads can't hide
        each other; ``law_worst`` is the largest. ``explained`` is the part of ``law_off`` that the series takes away: 1
        all of it, 0 none, below 0 it makes the law worse. Flags are the fraction of heads and sizes that they are up
        in; ``tokens`` the smallest and the largest N. ``..._bias`` is the mean over heads and sizes of entropy less the
        law, Gaussian rows and fewer keys [nats], and ``..._z`` the same in standard errors over samples;
        ``unexplained`` the share of rows that Gaussian logits don't explain; ``slope`` is that of entropy against log
        N, and ``predicted_slope`` what rows foresee by leaving out keys; ``power`` that of log N which the scale must
        follow to keep H / log N, and ``level_power`` to keep H.
        """
        frame = self._layers()
        tokens = self._keys()
        ends = zip(tokens.min("size").values, tokens.max("size").values, strict=True)
        frame["tokens"] = [f"{low:.0f}-{high:.0f}" for low, high in ends]
        rows = self.grouped().set_index("layer").drop(columns=["rows", "tokens", "entropy"])
        frame[[*rows]] = rows.reindex(frame["layer"]).values
        if self.has_series:
            place = frame.columns.get_loc("law_worst") + 1
            frame.insert(place, "explained", 1 - frame["series_off"] / frame["law_off"].where(frame["law_off"] > 0))
        for name in ("slope", "predicted_slope", "power", "level_power"):
            if name in self.dataset:
                frame[name] = self[name].values
        for name in BIASED:
            if f"{name}_bias" in self.dataset:
                bias, error = self[f"{name}_bias"], self[f"{name}_bias_error"]
                frame[f"{name}_bias"], frame[f"{name}_z"] = bias.values, (bias / error.where(error > 0)).values
        return frame

    def _layers(self) -> pd.DataFrame:
        """Names of the layers, with their blocks and parts if they have any."""
        names = [name for name in ("layer", "block", "part") if name in self.dataset.coords]
        return pd.DataFrame({name: self.dataset[name].values.astype(str).tolist() for name in names})

    def _keys(self) -> xr.DataArray:
        """N (size, layer) where the layer has an entropy."""
        tokens = self["tokens"].where(finite(self["entropy"]))
        return tokens.max([dim for dim in tokens.dims if dim == "head"])

    def smallest(self, tolerance: float = TOLERANCE) -> pd.DataFrame:
        """The number of keys from which on the law is off by at most ``tolerance`` [nats], a row for every layer.

        It answers the paper's own doubt (section 4.2), that an asymptotic equality may fail below some N, three ways:

        - ``tokens_law``: the smallest N measured, and ``size_law`` its size, such that from there on measured entropy
          is that close to log N - sigma^2/2 from measured sigma^2. Missing if the law is off at the largest size too,
          which then is no matter of N.
        - ``tokens_level``: the same for the deficit log N - H against its own value at the largest size; it asks
          only that the deficit no longer depends on N, whatever it is. Missing if only the largest is that close.
        - ``tokens_gaussian``: what independent Gaussian keys with the largest size's sigma^2 would need; infinite past
          a million million.

        Absolute differences are averaged over heads, ``off_at_largest`` is the law's at the largest size. Where
        ``tokens_law`` is ``tokens_min``, all sizes measured hold.

        Raises:
            EntropyLabError: a tolerance that is no positive number.
        """
        check_positive("tolerance", tolerance, "nats")
        tokens = self._keys().reset_coords(drop=True)
        heads = [dim for dim in self["entropy"].dims if dim == "head"]
        most = tokens.max("size")
        at_most = tokens.isel(size=slice(None, None, -1)).fillna(0).idxmax("size")  # of several the last

        def from_where_on(off: xr.DataArray) -> xr.DataArray:
            """The sizes from which on all of ``off`` is within the tolerance, sizes with as many tokens together."""
            outside = tokens.where(~(off.mean(heads) <= tolerance)).max("size")
            return tokens.where(tokens > outside.fillna(0))

        core = self.dataset[["law_residual", "deficit", "sigma2"]].reset_coords(drop=True)
        last = core.sel(size=at_most).reset_coords(drop=True)
        law = from_where_on(abs(core["law_residual"]))
        level = from_where_on(abs(core["deficit"] - last["deficit"])).min("size")
        needed = np.ceil(xr.apply_ufunc(finite_term, last["sigma2"], 1.0).mean(heads) / tolerance)
        columns = {
            "tokens_min": tokens.min("size"),
            "tokens_max": most,
            "tokens_law": law.min("size"),
            "size_law": law.idxmin("size").fillna(""),
            "tokens_level": level.where(level < most),  # the largest is the reference itself, which says nothing
            "tokens_gaussian": needed.where(needed < 1e12, np.inf).where(most.notnull()),
            "off_at_largest": abs(last["law_residual"]).mean(heads).where(most.notnull()),
        }
        return self._layers().assign(**{name: value.values for name, value in columns.items()})

    def slope(self, unflagged: bool = False) -> float:
        """Slope of the deficit against measured sigma^2/2 over all rows, or those without a flag; 1 under the law.

        A line through the origin, which is uniform attention. NaN if there is no such row, or sigma^2 is 0 in all.
        """
        rows = self.to_frame()
        rows = rows[rows["flags"] == ""] if unflagged else rows
        half = rows["half_sigma2"]
        square = (half**2).sum()
        return float((half * rows["deficit"]).sum() / square) if square > 0 else np.nan

    def summary(self) -> str:
        """The check as text to read."""
        layers = self.layers()
        last = [name for name in layers if name.endswith(("slope", "power", "_bias", "_z"))]
        rows = text_table(layers.drop(columns=last).rename(columns=FLAGS), "{:.3g}")
        more = text_table(layers[["layer", *last]].rename(columns=lambda name: name.replace("_bias", "")), "{:.3g}")
        note = "H less each prediction, mean over heads and sizes [nats]; _z the same in standard errors over samples"
        return f"{self._about()}\n\n{self._lines(layers)}\n\n{rows}\n\n{note}\n{more}"

    def __repr__(self) -> str:
        return f"Check({self.dataset.attrs['layers']} layers, law: {off_in_words(self.layers(), 'law')})"

    def _repr_html_(self) -> str:
        layers, names = self.layers(), names_by_layer(self.dataset)
        notes = "Entropies in nats. Off by: mean over heads and sizes. Flags: share of heads and sizes."
        lines = self._lines(layers.assign(layer=layers["layer"].map(names)))
        return page(f"{'. '.join(self._about().splitlines())}. {notes}", lines, layers, names)

    def _about(self) -> str:
        """What was checked."""
        return f"H beside log N - sigma^2/2 from measured sigma^2; nothing is fitted\n{about(self.dataset)}"

    def _lines(self, layers: pd.DataFrame) -> str:
        """How far off everything is over layers, and what explains it."""
        rows = self.to_frame()
        free = rows[rows["flags"] == ""]
        lines = [f"{words:<24}{off_in_words(layers, name)}" for name, words in WORDS.items() if name in rows]
        if self.has_series:
            parts = []
            for some, words in ((rows, "all rows"), (rows[~rows["near_freezing"]], "rows not near freezing")):
                law, series = (some[f"{name}_residual"].abs().sum() for name in ("law", "series"))
                parts.append(f"{1 - series / law:.0%} of {words}" if law else f"nothing of {words}")
            explained = ", ".join(parts)
            lines.append(f"k3 and k4 explain:      {explained} (100% all of the residual; below 0 they make it worse)")
        elif self.dataset.attrs["kind"] == IMAGE:
            lines.append("third and fourth cumulant are of all keys: there is no series among the image's")
        else:
            lines.append(
                "third and fourth cumulant were not measured; statistics=(..., 'third', 'fourth') gives the series"
            )
        counts = ", ".join(f"{words} {rows[name].sum():.0f}" for name, words in FLAGS.items() if name in rows)
        lines.append(f"flagged, of {len(rows)} rows:   {counts}; none of them {len(free)}")
        if len(free):
            off = free["law_residual"].abs()
            lines.append(
                f"rows without a flag:    law off by {off.median():.3f} nats (median), {off.max():.3f} (worst)"
            )
        slopes = {"over all rows": self.slope(), "without a flag": self.slope(True)}
        known = ", ".join(f"{value:.3f} {words}" for words, value in slopes.items() if np.isfinite(value))
        lines.append(f"deficit = a sigma^2/2:  a = {known or 'not known'}; 1 under the law")
        return "\n".join(lines)


def off_in_words(layers: pd.DataFrame, name: str) -> str:
    """Median and worst layer of a mean absolute residual, in words."""
    off = layers[f"{name}_off"]
    if off.isna().all():
        return "not known in any layer"
    worst = layers["layer"][off.idxmax()]
    return f"{off.median():.3f} nats in the median layer, {off.max():.3f} in the worst ({worst})"


def check(ds: xr.Dataset, *, kind: Kinds = None, scaling: str | None = None) -> Check:
    """Entropy beside the law, with nothing fitted, for every size, layer and head; and what explains the difference.

    All in nats, each with its residual (measured entropy less it):

    - ``law``: log N - sigma^2/2 from measured sigma^2 (paper, Eq. 5);
    - ``third_order``: also - k3/3; ``series``: also - k4/8. Entropy is log N - sum over n of k_n (n-1)/n!, for logits
      of any distribution, of which the law is the first term. Only if "third" and "fourth" were measured; the series
      helps where its terms shrink, and past sigma^2 of about 2 they mostly do not;
    - ``gaussian``: what N Gaussian logits of that variance have, at any sigma and N. Of each row, if the statistic
      "gaussian" was measured; else of the mean sigma^2 of each cell of the Dataset, which where rows differ much can be
      several tenths of a nat off;
    - ``rarefied``, if that was measured: at each size the entropy of the rows at the largest size among as few of their
      keys, down to a sixteenth of them, between two parts by a straight line in log N.

    A Dataset holds means over query rows. Law and series are linear in the cumulants, so that the mean over rows of the
    law is the law of the means, exactly.

    Rows of the result are flagged where the law can be off by 0.1 nats:

    - ``skewed``: |k3|/3 + |k4|/8 > 0.05 nats, by simulation (``recipes/thresholds.py``); the logits are not Gaussian;
    - ``near_freezing``: ``gaussian`` is off the law by more than 0.1 nats: few keys carry the rows.

    A row that is flagged may still be on the law. One that is not was within it in simulation, where keys are
    independent and rows alike; those of a model are neither.

    Args:
        ds: a Dataset from `entropylab.measure` with sigma2, and "third" and "fourth" if the series is of interest; one
            size or more; branch, sample, step and head may have been averaged away.
        kind: which layers, as for `entropylab.fit`; of "image" third and fourth cumulant are not known.
        scaling: which scaling; by default the only one, or "original" of several.

    Returns:
        `Check`, with standard errors over samples of entropy and residuals (where samples were averaged while
        measuring, the largest that they can be; NaN for one sample).

    Raises:
        EntropyLabError: not such a Dataset; no sigma2; no such layer or scaling.

    Examples:
        >>> ds = entropylab.simulate_dataset(tokens=(64, 1024), sigma=(0.5, 3.0))
        >>> found = entropylab.check(ds)
        >>> [round(off, 1) for off in found.layers().law_off]  # nats that the law is off by, for each sigma
        [0.0, 1.5]
        >>> found.flags.sel(size="8x8", layer="sigma 3", head=0).item()
        'skewed, near freezing'
    """
    part = chosen(ds, kind, scaling)
    if "sigma2" not in part:
        raise EntropyLabError(f"ds must hold sigma2, which the law is computed from. Got {sorted(map(str, part))}.")
    keep = tuple(dim for dim in ("size", "layer", "head") if dim in part["entropy"].dims)
    logs = log_tokens(part)
    # Coordinates of layers, samples and sizes would be compared at every step, which takes most of the time.
    plain = part.drop_vars(list(part.coords)).assign(tokens=part["tokens"].variable, log_tokens=logs.variable)
    mask = counted(plain["entropy"])
    data = compared(plain, mask, keep)
    own = {str(n): value.variable for n, value in part.coords.items() if set(value.dims) <= set(keep) and value.dims}
    named = data.assign_coords({n: value for n, value in own.items() if n != "tokens"})
    return Check(named.assign_attrs(provenance(part, mask)))


def compared(part: xr.Dataset, mask: xr.DataArray, keep: Sequence[str]) -> xr.Dataset:
    """Entropy, the law's terms, its predictions, their residuals and the flags; means over all dims but ``keep``."""
    cells = predictions(part)
    means = {key: averaged(value, mask, keep) for key, value in cells.items()}
    x = part["log_tokens"].broadcast_like(means["entropy"]).where(mask)
    data = {"tokens": part["tokens"].astype("float64").broadcast_like(x).where(mask), "log_tokens": x, **means}
    data["entropy_error"] = over_samples(part, averaged(part["entropy"], mask, (*keep, "sample")), mask, keep)
    data["deficit"] = x - means["entropy"]
    data["half_sigma2"] = means["sigma2"] / 2
    data["freezing"] = data["half_sigma2"] / x.where(x > 0)
    for key in RESIDUALS:
        if key in cells:
            residual = cells["entropy"] - cells[key]
            data[f"{key}_residual"] = means["entropy"] - means[key]
            data[f"{key}_residual_error"] = residual_error(part, residual, key, mask, keep)
            data[f"{key}_bias"] = averaged(residual, mask, ("layer",))
            data[f"{key}_bias_error"] = residual_error(part, residual, key, mask, ("layer",))
    up = {}
    if "series" in data:
        data["correction"] = -means["third"] / 3 - means["fourth"] / 8
        up["skewed"] = abs(means["third"]) / 3 + abs(means["fourth"]) / 8 > SKEWED
    data["gaussian_term"] = data["gaussian"] - data["law"]
    up["near_freezing"] = abs(data["gaussian_term"]) > TOLERANCE
    data |= {flag: passed.where(mask, False) for flag, passed in up.items()}
    by_layer = foreseen(part, part["log_tokens"], mask, ("layer",))
    if "unexplained" in part:
        by_layer["unexplained"] = averaged(part["unexplained"], mask, keep)
    return xr.Dataset(data | by_layer | slopes(part, mask)).transpose(*keep, ..., missing_dims="ignore")


def slopes(part: xr.Dataset, mask: xr.DataArray) -> dict[str, xr.DataArray]:
    """The slope of entropy against log N of every layer, and that which its rows foresee if they were asked."""
    x, y = (averaged(values, mask, ("layer", "size")) for values in (part["log_tokens"], part["entropy"]))
    spread = x.where(y.notnull()).var("size", ddof=1)
    line = xr.cov(x, y, "size") / spread.where(spread > 1e-12)
    if line.isnull().all():
        return {}
    if "slope" not in part:
        return {"slope": line}
    local = averaged(part["slope"], mask, ("layer", "size"))
    return {"slope": line, "predicted_slope": along_tokens(local, x.where(y.notnull()))}


def predictions(part: xr.Dataset) -> dict[str, xr.DataArray]:
    """What was measured and what is predicted from it, cell by cell."""
    names = [name for name in ("entropy", "sigma2", "third", "fourth") if name in part]
    found = {name: part[name].astype("float64") for name in names}
    found["law"] = part["log_tokens"] - found["sigma2"] / 2
    if "gaussian" in part:
        found["gaussian"] = part["gaussian"].astype("float64")
    else:
        found["gaussian"] = xr.apply_ufunc(entropy_given_variance, found["sigma2"], part["tokens"].astype("float64"))
    if "rarefied_half" in part and part.sizes["size"] > 1:
        found["rarefied"] = rarefied(part)
    if "third" in found:
        found["third_order"] = found["law"] - found["third"] / 3
        if "fourth" in found:
            found["series"] = found["third_order"] - found["fourth"] / 8
    return found


def rarefied(part: xr.Dataset) -> xr.DataArray:
    """At each size the entropy of the rows at the largest size among as few of their keys [nats], cell by cell.

    NaN at the largest size itself, and below a sixteenth of its keys. In joint attention only the image's keys grow.
    """
    x = part["log_tokens"]
    most = x.max("size")
    whole = part.isel(size=x.fillna(-np.inf).argmax("size"))
    number = xr.apply_ufunc(np.exp, most)
    image = whole["keys_image"] if "keys_image" in whole else most * np.nan
    found = whole["entropy"] * np.nan
    above, high = most, whole["entropy"]
    for name, parts in PARTS.items():
        left = (number - image * (1 - 1 / parts)).where(finite(image), number / parts)
        below, low = xr.apply_ufunc(np.log, left), whole[f"rarefied_{name}"]
        share = (x - below) / (above - below)
        inside = (share > -1e-6) & (share <= 1 + 1e-6) & (x < most - 1e-6)
        found = xr.where(inside, low + share * (high - low), found)
        above, high = below, low
    return found.astype("float64")


def residual_error(
    part: xr.Dataset, residual: xr.DataArray, key: str, mask: xr.DataArray, keep: Sequence[str]
) -> xr.DataArray:
    """Standard error over samples of a residual: of its own values, or the largest that those of its terms allow."""
    mean = averaged(residual, mask, (*keep, "sample"))
    if "sample" in mean.dims:
        return over_samples(part, mean, mask, keep)
    terms = [weight * over_samples(part, mean, mask, keep, name) for name, weight in WEIGHTS[key].items()]
    return sum(terms[1:], terms[0])
