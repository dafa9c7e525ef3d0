"""What checking the law gives: measured entropy, predictions, residuals and flags; by row, by layer, and in words.

Knows Datasets, and nothing of how they were measured.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..errors import EntropyLabError, check_positive
from . import check_text, markup
from .validity import TOLERANCE, finite_term
from .variables import FLAGS

EXPLANATIONS = ("law", "third_order", "series", "finite")
"""Predictions of entropy in which nothing is fitted."""


@dataclass(frozen=True, repr=False, eq=False)
class Check:
    """Measured entropy beside what the law and its refinements predict from measured cumulants; entropies in nats.

    Attributes:
        dataset: with dims (size, layer, head), without head where it was averaged away: ``entropy``, ``law``,
            ``finite``, ``third_order`` and ``series`` if measured, ``..._residual`` = entropy less each, with
            ``..._residual_error`` over samples, ``freezing`` = sigma^2/(2 log N), and the flags as booleans.
    """

    dataset: xr.Dataset

    def __getitem__(self, name: str) -> xr.DataArray:
        if name not in self.dataset:
            raise EntropyLabError(
                f"{name!r} is not in this check (were 'third' and 'fourth' measured?). Got {list(self.dataset)}."
            )
        return self.dataset[name]

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

    def to_dataset(self) -> xr.Dataset:
        """Everything in this check, as a Dataset of its own."""
        return self.dataset.copy(deep=True)

    def to_frame(self) -> pd.DataFrame:
        """A row for every layer, head and size, in that order."""
        dims = [dim for dim in ("layer", "head", "size") if dim in self.dataset.dims]
        frame = self.dataset.assign(flags=self.flags).to_dataframe(dim_order=dims).reset_index()
        about = [str(name) for name in self.dataset.coords if name not in dims and name in frame]
        names = [*dims, *about, *(str(name) for name in self.dataset.data_vars), "flags"]
        return frame[names].dropna(subset="entropy", ignore_index=True)

    def layers(self) -> pd.DataFrame:
        """A row for every layer: how far off the law and its refinements are, and the flags.

        Columns ``..._off`` are means over heads and sizes of the absolute residual [nats], so that heads can't hide
        each other (``finite_off`` over those where it is defined); ``law_worst`` is the largest. ``explained`` is the
        part of ``law_off`` that the series takes away: 1 all of it, 0 none, below 0 it makes the law worse. Flags are
        the fraction of heads and sizes that they are up in; ``tokens`` the smallest and the largest N.
        """
        flat = {str(n): flattened(value) for n, value in self.dataset.data_vars.items()}
        known = np.isfinite(flat["entropy"])
        tokens = np.where(known, flat["tokens"], np.nan)
        frame = pd.DataFrame(self._about_layers())
        ranges = zip(*(reduce(tokens, reducer) for reducer in (np.nanmin, np.nanmax)), strict=True)
        frame["tokens"] = [f"{low:.0f}-{high:.0f}" for low, high in ranges]
        for name in ("deficit", "half_sigma2"):
            frame[name] = reduce(flat[name], np.nanmean)
        frame["freezing"] = reduce(flat["freezing"], np.nanmax)
        for name in EXPLANATIONS:
            if name in flat:
                frame[f"{name}_off"] = reduce(abs(flat[f"{name}_residual"]), np.nanmean)
        frame["law_worst"] = reduce(abs(flat["law_residual"]), np.nanmax)
        if self.has_series:
            frame["explained"] = 1 - frame["series_off"] / frame["law_off"].where(frame["law_off"] > 0)
        for name in FLAGS:
            if name in flat:
                frame[name] = reduce(np.where(known, flat[name], np.nan), np.nanmean)
        return frame

    def _about_layers(self) -> dict[str, list[str]]:
        """Names of the layers, with their blocks and parts if they have any."""
        names = [name for name in ("layer", "block", "part") if name in self.dataset.coords]
        return {name: self.dataset[name].values.astype(str).tolist() for name in names}

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
        about = pd.DataFrame(self._about_layers())
        core = self.dataset[["tokens", "entropy", "law_residual", "deficit", "sigma2"]].reset_coords(drop=True)
        rows = [smallest_of(core.isel(layer=place, drop=True), tolerance) for place in range(len(about))]
        return pd.concat([about, pd.DataFrame(rows)], axis=1)

    def slope(self, unflagged: bool = False) -> float:
        """Slope of the deficit against measured sigma^2/2 over all rows, or those without a flag; 1 under the law.

        A line through the origin, which is uniform attention. NaN if there is no such row.
        """
        chosen = self["entropy"].notnull() & ((self.flags == "") if unflagged else True)
        half, deficit = (self[name].where(chosen) for name in ("half_sigma2", "deficit"))
        return float((half * deficit).sum() / (half**2).sum()) if bool(chosen.any()) else np.nan

    def summary(self) -> str:
        """The check as text to read."""
        return check_text.summary(self)

    def __repr__(self) -> str:
        off = check_text.off_over_layers(self.layers(), "law")
        return f"Check({self.dataset.attrs['layers']} layers, law: {off})"

    def _repr_html_(self) -> str:
        return markup.of_check(self)


def flattened(values: xr.DataArray) -> np.ndarray:
    """Values by layer: (layer, everything else)."""
    return values.transpose("layer", ...).values.reshape(values.sizes["layer"], -1).astype(float)


def reduce(values: np.ndarray, reducer: Any) -> np.ndarray:
    """A statistic of what is known of every row; NaN where nothing is."""
    known = np.isfinite(values).any(-1)
    return np.where(known, reducer(np.where(known[:, None], values, 0), axis=-1), np.nan)


def smallest_of(data: xr.Dataset, tolerance: float) -> dict[str, Any]:
    """The row of one layer in `Check.smallest`, from its (size, head)."""
    heads = [dim for dim in data["entropy"].dims if dim != "size"]
    data = data.isel(size=np.argsort(data["tokens"].max(heads).values, kind="stable"))
    data = data.dropna("size", how="all", subset=["entropy"])
    if not data.sizes["size"]:  # it did not run at every size, and counts at none
        unknown = ("tokens_min", "tokens_max", "tokens_law", "tokens_level", "tokens_gaussian", "off_at_largest")
        return {**dict.fromkeys(unknown, np.nan), "size_law": ""}
    tokens = data["tokens"].max(heads).values
    off = {
        "law": abs(data["law_residual"]).mean(heads).values,
        "level": abs(data["deficit"] - data["deficit"].isel(size=-1, drop=True)).mean(heads).values,
    }
    starts = {name: first_within(values, tokens, tolerance) for name, values in off.items()}
    if starts["level"] is not None and tokens[starts["level"]] == tokens[-1]:
        starts["level"] = None  # the reference itself, which says nothing
    needed = np.ceil(float(xr.apply_ufunc(finite_term, data["sigma2"].isel(size=-1), 1.0).mean()) / tolerance)
    return {
        "tokens_min": tokens[0],
        "tokens_max": tokens[-1],
        "tokens_law": np.nan if starts["law"] is None else tokens[starts["law"]],
        "size_law": "" if starts["law"] is None else str(data["size"].values[starts["law"]]),
        "tokens_level": np.nan if starts["level"] is None else tokens[starts["level"]],
        "tokens_gaussian": np.inf if needed >= 1e12 else needed,
        "off_at_largest": off["law"][-1],
    }


def first_within(off: np.ndarray, tokens: np.ndarray, tolerance: float) -> int | None:
    """The first place from which on all of ``off`` is within the tolerance, sizes with as many tokens together."""
    outside = np.flatnonzero(~(off <= tolerance))
    if not len(outside):
        return 0
    later = np.flatnonzero(tokens > tokens[outside[-1]])
    return int(later[0]) if len(later) else None
