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
from scipy.special import stdtr, stdtrit

from .errors import EntropyLabError

GROUPS = ("layer", "head", "step", "branch")
CLUSTERED = "cluster-robust, samples as clusters"
ORDINARY = "ordinary least squares"
LONG_NAMES = {
    "slope": "slope of entropy against log N",
    "slope_error": "standard error of the slope",
    "slope_low": "slope, lower end of the 95% interval",
    "slope_high": "slope, upper end of the 95% interval",
    "slope_t": "t of the hypothesis that the slope is 1",
    "slope_p": "two-sided p of the hypothesis that the slope is 1",
    "intercept": "intercept of entropy against log N [nats]",
    "intercept_error": "standard error of the intercept [nats]",
    "intercept_low": "intercept, lower end of the 95% interval [nats]",
    "intercept_high": "intercept, upper end of the 95% interval [nats]",
    "r_squared": "R^2 of the line through the averages over samples",
    "degrees_of_freedom": "degrees of freedom of the errors",
    "center": "mean log N of the points",
    "center_error": "standard error of the line at the mean log N [nats]",
    "center_covariance": "covariance of the slope with the line at the mean log N [nats]",
    "log_tokens": "log N, mean over layers [nats]",
    "tokens": "number of keys N, geometric mean over layers [tokens]",
    "entropy": "attention entropy [nats]",
    "entropy_error": "standard error of the entropy over samples [nats]",
    "fitted": "entropy on the fitted line [nats]",
    "residual": "entropy less the fitted line [nats]",
    "deficit": "deficit D = log N - H [nats]",
    "half_sigma2": "measured sigma^2/2 [nats]",
    "law": "the law's prediction log N - sigma^2/2 [nats]",
    "series": "the series to fourth order, log N - k2/2 - k3/3 - k4/8 [nats]",
    "freezing": "sigma^2 / (2 log N): the law fails well before 1",
}
"""Every variable that a `Fit` can hold, with its unit if it has one."""


def log_tokens(ds: xr.Dataset) -> xr.DataArray:
    """Log N [nats] of every size and layer; equals the entropy of uniform attention."""
    tokens = check(ds)["tokens"].astype("float64")
    if not (tokens > 0).all():
        raise EntropyLabError(f"ds.tokens must be positive. Got {tokens.min().item()}.")
    return xr.apply_ufunc(np.log, tokens).assign_attrs(units="nats", long_name="log N")


def deficit(ds: xr.Dataset) -> xr.DataArray:
    """D = log N - H [nats], the divergence of attention from uniform, with all dims of ``ds.entropy``."""
    entropy = check(ds)["entropy"].astype("float64")
    result = (log_tokens(ds) - entropy).transpose(*entropy.dims)
    return result.assign_attrs(units="nats", long_name="deficit log N - H")


def check(ds: xr.Dataset) -> xr.Dataset:
    """The Dataset itself, if it is one that `entropylab.measure` could have made."""
    if not isinstance(ds, xr.Dataset):
        raise EntropyLabError(f"ds must be an xarray.Dataset from entropylab.measure. Got {type(ds).__name__}.")
    missing = [name for name in ("entropy", "tokens", "layer", "kind", "size") if name not in ds.variables]
    if missing:
        raise EntropyLabError(
            f"ds must be a Dataset from entropylab.measure, with its layers: missing {', '.join(missing)}. "
            f"Got variables {sorted(map(str, ds.data_vars))} and coordinates {sorted(map(str, ds.coords))}."
        )
    return ds


def of_kind(ds: xr.Dataset, kind: str | Sequence[str] = "self") -> xr.Dataset:
    """The layers of these kinds ("self", "cross", "joint"), along a dim ``layer`` even if only one is left."""
    ds = check(ds)
    if "layer" not in ds.dims:
        names = [name for name in ("tokens", "kind", "block", "train_tokens") if name in ds.coords]
        ds = ds.expand_dims("layer").assign_coords({name: ds[name].expand_dims("layer", -1) for name in names})
    kinds = kinds_of(kind)
    found = ds["kind"].astype(str)
    if not found.isin(kinds).any():
        had = ", ".join(sorted(set(found.values.tolist()))) or "no layer at all"
        raise EntropyLabError(f"kind={kind!r}: the Dataset has no such layer. It has: {had}.")
    return ds.isel(layer=np.flatnonzero(found.isin(kinds)))


def kinds_of(kind: str | Sequence[str]) -> tuple[str, ...]:
    """The ``kind`` argument as a tuple."""
    return (kind,) if isinstance(kind, str) else tuple(kind)


def scalings_of(ds: xr.Dataset) -> list[str]:
    """The scalings that a Dataset holds; one that does not say was measured as the model is."""
    return [str(name) for name in np.atleast_1d(ds["scaling"].values)] if "scaling" in ds.coords else ["original"]


def under(ds: xr.Dataset, scaling: str | None) -> tuple[xr.Dataset, str]:
    """The part measured under one scaling, and its name; by default the only one, or "original" of several."""
    have = scalings_of(ds)
    name = scaling if scaling is not None else have[0] if len(have) == 1 else "original"
    if name not in have:
        raise EntropyLabError(f"scaling must be one of those measured: {', '.join(have)}. Got {name!r}.")
    return (ds.isel(scaling=have.index(name), drop=True) if "scaling" in ds.dims else ds), name


def finite(values: xr.DataArray) -> xr.DataArray:
    """Where values are finite."""
    return xr.apply_ufunc(np.isfinite, values)


def counted(entropy: xr.DataArray) -> xr.DataArray:
    """Which layers and heads count: those finite wherever any is.

    Padding is NaN everywhere. A head that is NaN at some sizes only would move the averages by coming and going.
    """
    known = finite(entropy)
    places = [dim for dim in entropy.dims if dim in ("layer", "head")]
    others = [dim for dim in entropy.dims if dim not in places]
    mask = (known | ~known.any(places)).all(others) & known.any(others)
    if not mask.any():
        raise EntropyLabError("ds.entropy must be finite at every size in at least one head. Got none that is.")
    return mask


def averaged(values: xr.DataArray, mask: xr.DataArray, keep: Sequence[str]) -> xr.DataArray:
    """Mean of what counts over all dims but ``keep``: heads first, so that every layer has the same weight."""
    values = values.astype("float64").where(mask)
    for dim in ("head", "layer"):
        values = values.mean(dim) if dim in values.dims and dim not in keep else values
    return values.mean([dim for dim in values.dims if dim not in keep])


def over_samples(ds: xr.Dataset, entropy: xr.DataArray, mask: xr.DataArray, keep: Sequence[str]) -> xr.DataArray:
    """Standard error over samples [nats] of the averaged entropy; NaN if the samples are not known.

    Where samples were averaged while measuring, how layers and heads vary together is lost: the mean of their standard
    errors is then given, which the standard error of the mean can't exceed.
    """
    if "sample" in entropy.dims:
        number = entropy.notnull().sum("sample")
        spread = entropy.std("sample", ddof=1) if entropy.sizes["sample"] > 1 else entropy.mean("sample") * np.nan
        return spread / np.sqrt(number)
    if "entropy_m2" in ds and "samples" in ds:
        number = ds["samples"].where(ds["samples"] > 1)
        return averaged((ds["entropy_m2"] / (number - 1) / number) ** 0.5, mask, keep)
    return entropy * np.nan


def straight_line(x: NDArray[Any], y: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Least squares of y on x, both (..., points, clusters); NaN in y is left out. Results have shape (...).

    With two or more clusters errors are cluster-robust with the factor G/(G-1) and G-1 degrees of freedom: for
    clusters that share their x, as samples do, exactly the standard error of the mean of the clusters' own slopes. They
    hold what another draw of clusters would change, not a curvature that all share. With one they are ordinary errors.
    """
    use = np.isfinite(y) & np.isfinite(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        n = use.sum((-2, -1)).astype(float)
        center, level = (np.where(use, v, 0).sum((-2, -1)) / n for v in (x, y))
        dx, dy = (np.where(use, v - m[..., None, None], 0) for v, m in ((x, center), (y, level)))
        sxx = (dx**2).sum((-2, -1))
        sxx = np.where(sxx > 1e-12 * n, sxx, np.nan)
        slope = (dx * dy).sum((-2, -1)) / sxx
        left = dy - slope[..., None, None] * dx
        if y.shape[-1] > 1:
            number = use.any(-2).sum(-1).astype(float)
            dof = np.where(number > 1, number - 1, np.nan)
            factor = number / dof
            along, level_sum = (dx * left).sum(-2) / sxx[..., None], left.sum(-2) / n[..., None]
            slope_var, level_var = (along**2).sum(-1) * factor, (level_sum**2).sum(-1) * factor
            covariance = (along * level_sum).sum(-1) * factor
        else:
            dof = np.where(n > 2, n - 2, np.nan)
            variance = (left**2).sum((-2, -1)) / dof
            slope_var, level_var, covariance = variance / sxx, variance / n, 0 * variance
        intercept_var = level_var + center**2 * slope_var - 2 * center * covariance
        result = {
            "slope": slope,
            "slope_error": np.sqrt(slope_var),
            "intercept": level - slope * center,
            "intercept_error": np.sqrt(intercept_var),
            "slope_t": (slope - 1) / np.sqrt(slope_var),
        }
        result["slope_p"] = 2 * stdtr(dof, -np.abs(result["slope_t"]))
        for name in ("slope", "intercept"):
            reach = stdtrit(dof, 0.975) * result[f"{name}_error"]
            result |= {f"{name}_low": result[name] - reach, f"{name}_high": result[name] + reach}
    return result | {
        "degrees_of_freedom": dof,
        "center": center,
        "center_error": np.sqrt(level_var),
        "center_covariance": covariance,
    }


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


def described(data: xr.Dataset) -> xr.Dataset:
    """The same, every variable with its name and unit."""
    for name, variable in data.data_vars.items():
        long_name, _, unit = LONG_NAMES[str(name)].rstrip("]").partition(" [")
        variable.attrs = {"long_name": long_name, "units": unit or "1"}
    return data


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
        head = f"H = slope * log N + intercept; the law: slope 1, intercept -sigma^2/2\n{self._about()}\n\n"
        if self.by:
            return head + self._short().to_string(index=False, float_format="{:.4g}".format)
        sizes = self.points().drop(columns=["height", "width"], errors="ignore")
        return head + self._lines() + "\n\n" + sizes.to_string(index=False, float_format="{:.4f}".format)

    def _about(self) -> str:
        a = self.dataset.attrs
        heads = f" and {a['heads']} heads" if a["heads"] else ""
        places = "heads" if a["heads"] else "layers"
        left = f"; {a['left_out']} {places} left out, not finite at every size" if a["left_out"] else ""
        return (
            f"{a['model'] or 'model'}: {a['layers']} {a['kind']} layers{heads}, {self.dataset.sizes['size']} sizes, "
            f"{a['samples']} samples, scaling {a['scaling']}; errors: {a['errors']}{left}"
        )

    def _lines(self) -> str:
        rows = [
            f"{name:<10}{self[name]: .4f} ± {self[f'{name}_error']:.4f}"
            f"   95% [{self[f'{name}_low']:.4f}, {self[f'{name}_high']:.4f}]"
            for name in ("slope", "intercept")
        ]
        t, p = self.slope_test
        rows[0] += f"   slope 1? t = {t:.2f}, p = {p:.2g} ({self['degrees_of_freedom']:.0f} degrees of freedom)"
        rows.append(f"R^2       {self.r_squared: .6f}   largest residual {abs(self.residuals).max().item():.4f} nats")
        rows.append(f"deficit   {self.overall('deficit'): .4f} nats, mean over sizes; its slope {1 - self.slope:.4f}")
        if "half_sigma2" in self.dataset:
            half, cold = self.overall("half_sigma2"), self.dataset["freezing"].max().item()
            rows.append(f"sigma^2/2 {half: .4f} nats, mean over sizes; sigma^2/(2 log N) at most {cold:.3f}")
        return "\n".join(rows)

    def _short(self) -> pd.DataFrame:
        wanted = (
            "slope",
            "slope_error",
            "slope_p",
            "intercept",
            "intercept_error",
            "r_squared",
            "deficit",
            "half_sigma2",
        )
        frame = self.to_frame()
        return frame[[*self.by, *(name for name in wanted if name in frame)]]

    def __repr__(self) -> str:
        if self.by:
            return f"Fit(by={self.by}, {len(self.to_frame())} lines; {self.errors})"
        return f"Fit(slope={self.slope:.4f} ± {self.slope_error:.4f}, intercept={self.intercept:.4f}, {self.errors})"

    def _repr_html_(self) -> str:
        table = self._short() if self.by else self.points()
        lines = "" if self.by else f"<pre>{self._lines()}</pre>"
        return f"<p>{self._about()}</p>{lines}{table.to_html(index=False, float_format='{:.4f}'.format)}"
