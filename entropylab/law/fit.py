"""The law of attention entropy, H = log N - sigma^2/2 (paper, Eq. 5), fitted to what was measured and put beside it.

Knows Datasets, and nothing of tensors or models. A straight line alone proves little, since uniform attention has slope
1 too: so a `Fit` carries the deficit log N - H and the measured sigma^2/2 next to its slope.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from ..errors import EntropyLabError
from .averages import (
    Kinds,
    about,
    along_tokens,
    averaged,
    chosen,
    counted,
    foreseen,
    log_tokens,
    over_samples,
    provenance,
    samples_of,
    with_known_samples,
    words_of,
)
from .lines import curvature, smooth_weights, straight_line, theil_sen
from .names import LONG_NAMES, Result, names_by_layer, page, table, text_table

GROUPS = ("layer", "head", "step", "branch")
METHODS = ("least_squares", "weighted", "theil_sen")
CLUSTERED = "cluster-robust, samples as clusters"
BOUNDED = "at most, from the samples' spreads at each size"
ORDINARY = "ordinary least squares"
UNKNOWN = "unknown"
ERRORS = {"clustered": CLUSTERED, "bounded": BOUNDED, "ordinary": ORDINARY}
"""How errors are found: the word that asks for it, and what a `Fit` says of itself."""

SHORT = (
    *("slope", "slope_error", "slope_p", "predicted_slope", "curvature", "curvature_p"),
    *("intercept", "intercept_error", "r_squared", "deficit", "half_sigma2", "unexplained", "power", "level_power"),
)
"""What a table of lines shows of each."""


def variable(name: str) -> Any:
    """A property that hands out a variable of the fit."""
    return property(lambda fit: fit[name], doc=LONG_NAMES[name])


class Fit(Result):
    """The line H = slope * log N + intercept, and the law H = log N - sigma^2/2 beside it.

    What is one number overall is a float, or with ``by`` an `xarray.DataArray` over the groups; what belongs to sizes
    is an `xarray.DataArray`. Entropies in nats. Every name is a variable of ``to_dataset()``, with its unit.
    """

    slope = variable("slope")
    """Slope of entropy against log N; 1 under the law, and for uniform attention too."""
    slope_error = variable("slope_error")
    """Standard error of the slope."""
    intercept = variable("intercept")
    """Intercept [nats]; -sigma^2/2 under the law."""
    intercept_error = variable("intercept_error")
    """Standard error of the intercept [nats]."""
    r_squared = variable("r_squared")
    """R^2 of the line through the averages over samples."""
    deficit = variable("deficit")
    """D = log N - H [nats] by size."""
    half_sigma2 = variable("half_sigma2")
    """Measured sigma^2/2 [nats] by size: what the deficit is under the law."""
    law = variable("law")
    """The law's prediction log N - sigma^2/2 [nats] by size, from measured sigma^2; nothing in it is fitted."""
    residuals = variable("residual")
    """Entropy less the fitted line [nats] by size."""

    def __getitem__(self, name: str) -> Any:
        return plain(super().__getitem__(name))

    @property
    def by(self) -> tuple[str, ...]:
        """The groups that have a line each."""
        return tuple(self.dataset.attrs["by"].split(", ")) if self.dataset.attrs["by"] else ()

    @property
    def errors(self) -> str:
        """How the standard errors were found."""
        return str(self.dataset.attrs["errors"])

    @property
    def method(self) -> str:
        """How the line was laid: "least_squares", "weighted" or "theil_sen"."""
        return str(self.dataset.attrs["method"])

    @property
    def slope_interval(self) -> tuple[Any, Any]:
        """95% confidence interval of the slope."""
        return self["slope_low"], self["slope_high"]

    @property
    def slope_test(self) -> tuple[Any, Any]:
        """Student's t and its two-sided p, of the slope being 1, which is that the deficit does not depend on N."""
        return self["slope_t"], self["slope_p"]

    @property
    def intercept_interval(self) -> tuple[Any, Any]:
        """95% confidence interval of the intercept [nats]."""
        return self["intercept_low"], self["intercept_high"]

    def overall(self, name: str) -> Any:
        """Mean over sizes of what belongs to sizes, e.g. ``fit.overall("deficit")``; what belongs to all as it is."""
        value = super().__getitem__(name)
        return plain(value.mean("size") if "size" in value.dims else value)

    def predict(self, tokens: ArrayLike) -> Any:
        """Entropy [nats] on the fitted line at these numbers of keys: a float, or a DataArray with dim ``tokens``."""
        return plain(in_nats(self.dataset["intercept"] + self.dataset["slope"] * log_of(tokens)))

    def predict_error(self, tokens: ArrayLike) -> Any:
        """Standard error [nats] of `predict`."""
        data = self.dataset
        far = log_of(tokens) - data["center"]
        if self.errors == BOUNDED:
            return plain(in_nats(data["center_error"] + abs(far) * data["slope_error"]))
        variance = data["center_error"] ** 2 + (far * data["slope_error"]) ** 2
        return plain(in_nats((variance + 2 * far * data["center_covariance"]) ** 0.5))

    def to_frame(self) -> pd.DataFrame:
        """The lines as a table, a row for every group; and means over sizes, such as the deficit's and sigma^2/2's."""
        data = self.dataset
        names = ("deficit", "half_sigma2", "freezing", "unexplained", "power", "level_power")
        means = {name: data[name].mean("size") for name in names if name in data}
        lines = [str(name) for name, value in data.data_vars.items() if "size" not in value.dims]
        return table(data[lines].assign(means), self.by).dropna(subset="slope", ignore_index=True)

    def points(self) -> pd.DataFrame:
        """What was fitted as a table, a row for every group and size."""
        return table(self.dataset, (*self.by, "size")).dropna(subset="entropy", ignore_index=True)

    def summary(self) -> str:
        """The fit as text to read."""
        head = f"H = slope * log N + intercept; the law: slope 1, intercept -sigma^2/2\n{self._about()}\n\n"
        if self.by:
            return head + text_table(self._short(), "{:.4g}")
        sizes = self.points().drop(columns=["height", "width"], errors="ignore")
        return f"{head}{self._lines()}\n\n{text_table(sizes, '{:.4f}')}"

    def __repr__(self) -> str:
        if self.by:
            return f"Fit(by={self.by}, {len(self.to_frame())} lines; {self.errors})"
        error = f" ± {self.slope_error:.4f}" if np.isfinite(self.slope_error) else ""
        how = f", {self.errors}" if error else ", errors not known"
        return f"Fit(slope={self.slope:.4f}{error}, intercept={self.intercept:.4f}{how})"

    def _repr_html_(self) -> str:
        lines, rows = ("", self._short()) if self.by else (self._lines(), self.points())
        return page(f"{self._about()}. Entropies in nats.", lines, rows, names_by_layer(self.dataset))

    def _about(self) -> str:
        """What was fitted, and how the errors were found."""
        a = self.dataset.attrs
        places = "heads" if a["heads"] else "layers"
        left = f"; {a['left_out']} {places} left out, not finite at every size" if a["left_out"] else ""
        return f"{about(self.dataset)}, {self.method.replace('_', ' ')}; errors: {self.errors}{left}"

    def _short(self) -> pd.DataFrame:
        """The lines, with what matters most of each."""
        frame = self.to_frame()
        return frame[[*self.by, *(name for name in SHORT if name in frame)]]

    def _lines(self) -> str:
        """The numbers of a fit that has one line; what is not known is said, and not shown."""
        rows = []
        for name in ("slope", "intercept"):
            value, error, low, high = (self[f"{name}{end}"] for end in ("", "_error", "_low", "_high"))
            known = f" ± {error:.4f}   95% [{low:.4f}, {high:.4f}]"
            rows.append(f"{name:<10}{value: .4f}{known if math.isfinite(error) else '   its error is not known'}")
        t, p = self.slope_test
        if math.isfinite(p):
            rows[0] += f"   slope 1? t = {t:.2f}, p = {p:.2g} ({self['degrees_of_freedom']:.0f} degrees of freedom)"
        bend, error, p = (self[f"curvature{end}"] for end in ("", "_error", "_p"))
        if math.isfinite(p):
            rows.append(f"straight? its slope changes by {bend:.4f} ± {error:.4f} for each 1 of log N, p = {p:.2g}")
        data = self.dataset
        if "predicted_slope" in data:
            rows.append(
                f"foreseen  {self['predicted_slope']: .4f}   slope, by leaving out keys at each size; not fitted"
            )
        rows.append(f"R^2       {self.r_squared: .6f}   largest residual {abs(self.residuals).max().item():.4f} nats")
        rows.append(f"deficit   {self.overall('deficit'): .4f} nats, mean over sizes; its slope {1 - self.slope:.4f}")
        if "half_sigma2" in data:
            half, cold = self.overall("half_sigma2"), data["freezing"].max().item()
            rows.append(f"sigma^2/2 {half: .4f} nats, mean over sizes; sigma^2/(2 log N) at most {cold:.3f}")
        if "unexplained" in data:
            share = self.overall("unexplained")
            rows.append(f"rows not Gaussian {share:.1%}, mean over sizes; of Gaussian rows about 5% are so far away")
        if "power" in data:
            ratio, level = self.overall("power"), self.overall("level_power")
            rows.append(f"power of log N {ratio:.2f} keeps H / log N, {level:.2f} keeps H, mean over sizes; not fitted")
        return "\n".join(rows)


def log_of(tokens: ArrayLike) -> xr.DataArray:
    """Log N of the numbers of keys that a caller names."""
    number = np.asarray(tokens, float)
    if number.ndim > 1 or not (np.isfinite(number) & (number > 0)).all():
        raise EntropyLabError(f"tokens must be a positive number, or a list of them. Got {tokens!r}.")
    x = xr.DataArray(np.log(number), dims=("tokens",)[: number.ndim])
    return x.assign_coords(tokens=number) if number.ndim else x


def in_nats(value: xr.DataArray) -> xr.DataArray:
    """What is on the fitted line, with its name and unit."""
    return value.assign_attrs(units="nats", long_name="entropy on the fitted line")


def plain(value: xr.DataArray) -> Any:
    """One number as a float; several as they are."""
    return value if value.ndim else float(value)


def fit(
    ds: xr.Dataset,
    by: str | Sequence[str] | None = None,
    *,
    kind: Kinds = None,
    scaling: str | None = None,
    method: str = "least_squares",
    errors: str = "auto",
) -> Fit:
    """Fit entropy against log N, H = slope * log N + intercept: overall, or once for every group.

    Samples, not query rows, are the independent unit of every error:

    - "clustered": each sample, with all its sizes, is a cluster; Student's t with one degree of freedom less than there
      are samples. Exact for samples that are normal, however few: 95% intervals held the truth in 94 to 95% of 2000
      simulated measurements with 2 to 10 samples, also where small sizes are noisier, and in 97 to 99% where one sample
      is five times as noisy as the others. Of "theil_sen" by leaving out each sample in turn, which held it as often.
      Taken for "auto" where samples were kept apart.
    - "bounded": where samples were averaged while measuring, how a sample's sizes vary together is lost. From the
      spreads that were kept (``entropy_m2``) the largest error is computed that slope and intercept can have, taken for
      "auto" there; mostly several times too large, since a sample's own level cancels in a slope.
    - "ordinary": points scatter about the line independently; so curvature counts as error, and samples do not. The
      only one for a single sample, and taken for "auto" there.

    Args:
        ds: a Dataset from `entropylab.measure`; branch, sample, step and head may have been averaged away.
        by: None for the mean over heads, then layers, against the mean over layers of log N; or any of "layer", "head",
            "step", "branch", or a tuple of them: a line for each combination.
        kind: which layers: "self", "cross", "joint" (image and text rows, among all their keys), "temporal", or
            several; or "image": the image rows of joint layers among the image's own keys, which alone grow with it. By
            default "self", or if the model has none "joint", "temporal" or "cross"; the summary says which.
        scaling: which scaling; by default the only one, or "original" of several.
        method: "least_squares"; "weighted", each size by its number of samples over their variance, where sizes had
            different numbers of samples or small sizes are noisy: the variances are smoothed along N, for three
            samples tell little of one; "theil_sen", the median of the slopes between all pairs of sizes, where a size
            is broken (a frozen one, say) and should not draw the line.
        errors: "clustered", "bounded", "ordinary", or "auto".

    Returns:
        `Fit`. With the statistic "slope" measured, ``predicted_slope`` stands beside the slope: the mean over log N of
        what rows themselves foresee by leaving out keys, ``local_slope``, in which nothing is fitted. ``curvature`` is
        how much the slope changes with log N, and ``curvature_p`` a test of whether the line is straight at all. With
        "gaussian", ``unexplained`` is the share of rows that are not Gaussian, at each size. With "slope" and
        "sensitivity", ``power`` is the power of log N that the scale would have to follow about that size for H / log N
        to stay as it is, and ``level_power`` that for H itself, of a factor that all rows of the group share.

    Raises:
        EntropyLabError: not such a Dataset; no such layer, scaling, group, method or errors; fewer than two different
            N; errors or weights that the Dataset does not allow.

    Examples:
        >>> ds = entropylab.simulate_dataset(tokens=(64, 256, 1024), sigma=1.0, samples=4)
        >>> fit = entropylab.fit(ds)
        >>> fit
        Fit(slope=0.99... ± 0.0..., intercept=-0.4..., cluster-robust, samples as clusters)
        >>> [round(fit.overall(name), 1) for name in ("deficit", "half_sigma2")]  # equal under the law [nats]
        [0.5, 0.5]
        >>> print(fit.summary())
        H = slope * log N + intercept; the law: slope 1, intercept -sigma^2/2
        ...
    """
    groups = words_of("by", by, f"None, or some of {', '.join(GROUPS)}") if by else ()
    part = with_known_samples(chosen(ds, kind, scaling))
    have = [name for name in GROUPS if name in part["entropy"].dims]
    if not set(groups) <= set(have) or len(set(groups)) < len(groups):
        raise EntropyLabError(f"by must be None or some of the dims that were measured, {have}. Got {list(groups)}.")
    way = way_to_errors(errors, method, part)
    mask = counted(part["entropy"])
    keep = ("size", *groups)
    x = averaged(log_tokens(part), mask, keep)
    y = averaged(part["entropy"], mask, (*keep, "sample"))
    spread = over_samples(part, y, mask, keep)
    line = line_of(part, x, y, spread, groups, method, way)
    if not np.isfinite(line["slope"]).any():
        sizes = ", ".join(part["size"].values)
        weighted = ", with standard errors over samples that weights can be had from" if method == "weighted" else ""
        raise EntropyLabError(
            f"ds must hold at least two sizes with different N in its {part.attrs['kind']} layers{weighted}. "
            f"Got {sizes}."
        )
    data = points_of(part, x, y, spread, mask, keep).assign({key: (groups, value) for key, value in line.items()})
    if "local_slope" in data:
        data["predicted_slope"] = along_tokens(data["local_slope"], data["log_tokens"])
    data["fitted"] = data["intercept"] + data["slope"] * data["log_tokens"]
    data["residual"] = data["entropy"] - data["fitted"]
    total = ((data["entropy"] - data["entropy"].mean("size")) ** 2).sum("size")
    data["r_squared"] = 1 - (data["residual"] ** 2).sum("size") / total.where(total > 0)
    attrs = {"by": ", ".join(groups), "method": method, "errors": ERRORS.get(way, UNKNOWN)}
    return Fit(data.assign_attrs(attrs | provenance(part, mask)))


def way_to_errors(errors: str, method: str, part: xr.Dataset) -> str:
    """How errors are found, one of `ERRORS` or "unknown"; "auto" is the best that the Dataset allows."""
    if method not in METHODS:
        raise EntropyLabError(f"method must be one of {', '.join(METHODS)}. Got {method!r}.")
    number = samples_of(part)
    apart = part.sizes.get("sample", 1) > 1
    have = ["clustered"] if apart else []
    if not apart and "entropy_m2" in part and number > 1 and method != "theil_sen":
        have.append("bounded")
    if method == "least_squares" or (method == "weighted" and not apart):
        have.append("ordinary")
    if errors not in ("auto", *have):
        raise EntropyLabError(
            f"errors must be 'auto' or, of {number} samples {'apart' if apart else 'not apart'} with "
            f"method={method!r}, one of {have}. Got {errors!r}."
        )
    return next(iter(have), "unknown") if errors == "auto" else errors


def line_of(
    part: xr.Dataset,
    x: xr.DataArray,
    y: xr.DataArray,
    spread: xr.DataArray,
    groups: Sequence[str],
    method: str,
    way: str,
) -> dict[str, Any]:
    """The line of y against x for every group; ``spread`` are the standard errors of y over samples."""
    if "sample" in y.dims:
        number = y.notnull().sum("sample")
        y = y.mean("sample").expand_dims("sample") if way == "ordinary" else y
    else:
        number = part.get("samples", xr.ones_like(y))
        y = y.expand_dims("sample")
    y = y.transpose(*groups, "size", "sample")
    one = y.isel(sample=[0])
    n, error = (value.broadcast_like(one).transpose(*y.dims).values for value in (number, spread))
    xs, ys = x.broadcast_like(y).transpose(*y.dims).values, y.values
    bound = (error, samples_of(part)) if way == "bounded" else ()
    straight = curvature(xs, ys, *bound)
    if method == "theil_sen":
        return theil_sen(xs, ys) | straight
    weights = smooth_weights(xs[..., :1], error, n) if method == "weighted" else 1.0
    return straight_line(xs, ys, weights, *bound) | straight


def points_of(
    part: xr.Dataset, x: xr.DataArray, y: xr.DataArray, spread: xr.DataArray, mask: xr.DataArray, keep: Sequence[str]
) -> xr.Dataset:
    """What is fitted, size by size, and the law's own terms beside it as far as they were measured."""
    mean = y.mean("sample") if "sample" in y.dims else y
    x = x.broadcast_like(mean)
    data = {"tokens": xr.apply_ufunc(np.exp, x), "log_tokens": x, "entropy": mean}
    data |= {"entropy_error": spread, "deficit": x - mean}
    terms = {name: averaged(part[name], mask, keep) for name in ("sigma2", "third", "fourth") if name in part}
    if "sigma2" in terms:
        data["half_sigma2"] = terms["sigma2"] / 2
        data["law"] = x - data["half_sigma2"]
        data["freezing"] = data["half_sigma2"] / x.where(x > 0)
    if len(terms) == 3:
        data["series"] = data["law"] - terms["third"] / 3 - terms["fourth"] / 8
    if "slope" in part:
        data["local_slope"] = averaged(part["slope"], mask, keep)
    data |= foreseen(part, log_tokens(part), mask, keep)
    own = ("tokens", "sample", "samples", "prompt", "seed")
    return xr.Dataset({n: value.drop_vars(own, errors="ignore").transpose(*keep, ...) for n, value in data.items()})
