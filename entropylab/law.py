"""The law of attention entropy, H = log N - sigma^2/2 (paper, Eq. 5), fitted to what was measured and put beside it.

Knows Datasets, and nothing of tensors or models. A straight line alone proves little, since uniform attention has slope
1 too: so a `Fit` carries the deficit log N - H and the measured sigma^2/2 next to its slope.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from . import report_text
from .averages import averaged, counted, finite, kinds_of, log_tokens, of_kind, over_samples, under
from .errors import EntropyLabError
from .regression import straight_line
from .report_text import described

GROUPS = ("layer", "head", "step", "branch")
CLUSTERED = "cluster-robust, samples as clusters"
ORDINARY = "ordinary least squares"


def fit(
    ds: xr.Dataset,
    by: str | Sequence[str] | None = None,
    *,
    kind: str | Sequence[str] = "self",
    scaling: str | None = None,
) -> "Fit":
    """Fit entropy against log N, H = slope * log N + intercept: overall, or once for every group.

    Args:
        ds: a Dataset from `entropylab.measure`; branch, sample, step and head may have been averaged away.
        by: None for the mean over heads, then layers, against the mean over layers of log N; or any of "layer", "head",
            "step", "branch", or a tuple of them, for a line each.
        kind: which layers: "self", "cross", "joint", or several.
        scaling: which scaling; by default the only one, or "original" of several.

    Returns:
        `Fit`, with standard errors over samples if the Dataset still has at least two (each with all its sizes is one
        cluster), else ordinary ones.

    Raises:
        EntropyLabError: not such a Dataset; no such layer, scaling or group; fewer than two different N.
    """
    groups = (by,) if isinstance(by, str) else tuple(by or ())
    part, name = under(of_kind(ds, kind), scaling)
    check_groups(groups, part)
    mask = counted(part["entropy"])
    keep = ("size", *groups)
    x = averaged(log_tokens(part), mask, keep)
    y = averaged(part["entropy"], mask, (*keep, "sample"))
    line = line_of(x, y, groups) if "size" in y.dims else {}
    if not line or not np.isfinite(line["slope"]).any():
        sizes = ", ".join(map(str, np.atleast_1d(part["size"].values).tolist()))
        raise EntropyLabError(f"ds must hold at least two sizes with different N in its {kind} layers. Got {sizes}.")
    data = points_of(part, x, y, mask, keep).assign({key: (groups, value) for key, value in line.items()})
    data["fitted"] = data["intercept"] + data["slope"] * data["log_tokens"]
    data["residual"] = data["entropy"] - data["fitted"]
    data["r_squared"] = explained(data["entropy"], data["residual"])
    attrs = {"by": ", ".join(groups), "kind": ", ".join(kinds_of(kind)), "scaling": name}
    return Fit(described(data).assign_attrs(attrs | provenance(part, mask)))


def line_of(x: xr.DataArray, y: xr.DataArray, groups: Sequence[str]) -> dict[str, NDArray[Any]]:
    """`straight_line` of y against x for every group, samples as clusters."""
    y = (y if "sample" in y.dims else y.expand_dims("sample")).transpose(*groups, "size", "sample")
    return straight_line(x.broadcast_like(y).transpose(*y.dims).values, y.values)


def points_of(
    part: xr.Dataset, x: xr.DataArray, y: xr.DataArray, mask: xr.DataArray, keep: Sequence[str]
) -> xr.Dataset:
    """What is fitted, size by size, and the law's own terms beside it as far as they were measured."""
    mean = y.mean("sample") if "sample" in y.dims else y
    x = x.broadcast_like(mean)
    data = {"tokens": xr.apply_ufunc(np.exp, x), "log_tokens": x, "entropy": mean}
    data["entropy_error"] = over_samples(part, y, mask, keep)
    data["deficit"] = x - mean
    terms = {name: averaged(part[name], mask, keep) for name in ("sigma2", "third", "fourth") if name in part}
    if "sigma2" in terms:
        data["half_sigma2"] = terms["sigma2"] / 2
        data["law"] = x - data["half_sigma2"]
        data["freezing"] = data["half_sigma2"] / x.where(x > 0)
    if len(terms) == 3:
        data["series"] = data["law"] - terms["third"] / 3 - terms["fourth"] / 8
    own = ("tokens", "sample", "samples", "prompt", "seed")
    arrays = {name: value.drop_vars(own, errors="ignore").transpose(*keep, ...) for name, value in data.items()}
    return xr.Dataset(arrays)


def explained(entropy: xr.DataArray, residual: xr.DataArray) -> xr.DataArray:
    """R^2: the part of the variance over sizes that is not residual."""
    total = ((entropy - entropy.mean("size")) ** 2).sum("size")
    return 1 - (residual**2).sum("size") / total.where(total > 0)


def provenance(part: xr.Dataset, mask: xr.DataArray) -> dict[str, Any]:
    """How many layers, heads and samples stand behind a fit, how its errors were found, what was left out."""
    known = finite(part["entropy"])
    met = known.any([dim for dim in known.dims if dim not in mask.dims])
    heads = "head" in mask.dims
    samples = part.sizes.get("sample", int(part["samples"].min()) if "samples" in part else 1)
    return {
        "model": str(part.attrs.get("model", "")),
        "layers": int((mask.any("head") if heads else mask).sum()),
        "heads": int(mask.sum()) if heads else 0,
        "left_out": int((met & ~mask).sum()),
        "samples": samples,
        "errors": CLUSTERED if part.sizes.get("sample", 1) > 1 else ORDINARY,
    }


def check_groups(groups: Sequence[str], part: xr.Dataset) -> None:
    """Every group must be a dim of what was measured, named once."""
    bad = [name for name in groups if name not in GROUPS or name not in part["entropy"].dims]
    if bad or len(set(groups)) < len(groups):
        have = [name for name in GROUPS if name in part["entropy"].dims]
        raise EntropyLabError(f"by must be None or some of the dims that were measured, {have}. Got {list(groups)}.")


@dataclass(frozen=True, repr=False, eq=False)
class Fit:
    """The line H = slope * log N + intercept, and the law H = log N - sigma^2/2 beside it.

    What is one number overall is a float, or with ``by`` an `xarray.DataArray` over the groups; what belongs to sizes
    is an `xarray.DataArray`. Entropies in nats. Every name is a variable of ``to_dataset()``, with its unit.
    """

    dataset: xr.Dataset

    def __getitem__(self, name: str) -> Any:
        if name not in self.dataset:
            raise EntropyLabError(
                f"{name!r} is not in this fit (was its statistic measured?). Got {list(self.dataset)}."
            )
        value = self.dataset[name]
        return value if value.ndim else float(value)

    @property
    def by(self) -> tuple[str, ...]:
        """The groups that have a line each."""
        return tuple(self.dataset.attrs["by"].split(", ")) if self.dataset.attrs["by"] else ()

    @property
    def errors(self) -> str:
        """How the standard errors were found."""
        return str(self.dataset.attrs["errors"])

    @property
    def slope(self) -> Any:
        """Slope of entropy against log N; 1 under the law, and for uniform attention too."""
        return self["slope"]

    @property
    def slope_error(self) -> Any:
        """Standard error of the slope."""
        return self["slope_error"]

    @property
    def slope_interval(self) -> tuple[Any, Any]:
        """95% confidence interval of the slope."""
        return self["slope_low"], self["slope_high"]

    @property
    def slope_test(self) -> tuple[Any, Any]:
        """T and two-sided p of the hypothesis that the slope is 1, which is that the deficit does not depend on N."""
        return self["slope_t"], self["slope_p"]

    @property
    def intercept(self) -> Any:
        """Intercept [nats]; -sigma^2/2 under the law."""
        return self["intercept"]

    @property
    def intercept_error(self) -> Any:
        """Standard error of the intercept [nats]."""
        return self["intercept_error"]

    @property
    def intercept_interval(self) -> tuple[Any, Any]:
        """95% confidence interval of the intercept [nats]."""
        return self["intercept_low"], self["intercept_high"]

    @property
    def r_squared(self) -> Any:
        """R^2 of the line through the averages over samples."""
        return self["r_squared"]

    @property
    def deficit(self) -> xr.DataArray:
        """D = log N - H [nats] by size."""
        return self["deficit"]

    @property
    def half_sigma2(self) -> xr.DataArray:
        """Measured sigma^2/2 [nats] by size: what the deficit is under the law."""
        return self["half_sigma2"]

    @property
    def law(self) -> xr.DataArray:
        """The law's prediction log N - sigma^2/2 [nats] by size, from measured sigma^2; nothing in it is fitted."""
        return self["law"]

    @property
    def residuals(self) -> xr.DataArray:
        """Entropy less the fitted line [nats] by size."""
        return self["residual"]

    def overall(self, name: str) -> Any:
        """Mean over sizes of what belongs to sizes, e.g. ``fit.overall("deficit")``."""
        self[name]
        value = self.dataset[name].mean("size")
        return value if value.ndim else float(value)

    def predict(self, tokens: ArrayLike) -> Any:
        """Entropy [nats] on the fitted line at these numbers of keys: a float, or a DataArray with dim ``tokens``."""
        return self._at(tokens, lambda data, x: data["intercept"] + data["slope"] * x)

    def predict_error(self, tokens: ArrayLike) -> Any:
        """Standard error [nats] of `predict`."""

        def error(data: xr.Dataset, x: xr.DataArray) -> xr.DataArray:
            far = x - data["center"]
            variance = data["center_error"] ** 2 + (far * data["slope_error"]) ** 2
            return (variance + 2 * far * data["center_covariance"]) ** 0.5

        return self._at(tokens, error)

    def _at(self, tokens: ArrayLike, line: Any) -> Any:
        number = np.asarray(tokens, float)
        if number.ndim > 1 or not (np.isfinite(number) & (number > 0)).all():
            raise EntropyLabError(f"tokens must be a positive number, or a list of them. Got {tokens!r}.")
        x = xr.DataArray(np.log(number), dims=("tokens",)[: number.ndim])
        value = line(self.dataset, x.assign_coords(tokens=number) if number.ndim else x)
        value.attrs = {"units": "nats", "long_name": "entropy on the fitted line"}
        return value if value.ndim else float(value)

    def to_dataset(self) -> xr.Dataset:
        """Everything in this fit, as a Dataset of its own."""
        return self.dataset.copy(deep=True)

    def to_frame(self) -> pd.DataFrame:
        """The lines as a table, a row for every group; and the means over sizes of deficit and sigma^2/2."""
        data = self.dataset
        means = {str(n): data[n].mean("size") for n in ("deficit", "half_sigma2", "freezing") if n in data}
        lines = [str(name) for name, value in data.data_vars.items() if "size" not in value.dims]
        return self._frame(data[lines].assign(means)).dropna(subset="slope", ignore_index=True)

    def points(self) -> pd.DataFrame:
        """What was fitted as a table, a row for every group and size."""
        names = [str(name) for name, value in self.dataset.data_vars.items() if "size" in value.dims]
        return self._frame(self.dataset[names], "size").dropna(subset="entropy", ignore_index=True)

    def _frame(self, data: xr.Dataset, *more: str) -> pd.DataFrame:
        dims = [*self.by, *more]
        if not dims:
            return pd.DataFrame([{str(name): float(value) for name, value in data.data_vars.items()}])
        about = [str(name) for name, value in data.coords.items() if value.dims and set(value.dims) <= set(dims)]
        frame = data.to_dataframe(dim_order=dims).reset_index()
        order = [*dims, *(name for name in about if name not in dims)]
        return frame[[*order, *map(str, data.data_vars)]]

    def summary(self) -> str:
        """The fit as text to read."""
        return report_text.summary(self)

    def __repr__(self) -> str:
        if self.by:
            return f"Fit(by={self.by}, {len(self.to_frame())} lines; {self.errors})"
        return f"Fit(slope={self.slope:.4f} ± {self.slope_error:.4f}, intercept={self.intercept:.4f}, {self.errors})"

    def _repr_html_(self) -> str:
        return report_text.html(self)
