"""What fitting the law gives: the line, and the law's own terms beside it.

Knows Datasets, and nothing of how the line was found.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from ..errors import EntropyLabError
from . import fit_text, markup

BOUNDED = "at most, from the samples' spreads at each size"
"""How errors were found where samples were averaged while measuring."""


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
    def method(self) -> str:
        """How the line was laid: "least_squares", "weighted" or "theil_sen"."""
        return str(self.dataset.attrs["method"])

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
        """Student's t and its two-sided p, of the slope being 1, which is that the deficit does not depend on N."""
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
            if self.errors == BOUNDED:
                return data["center_error"] + abs(far) * data["slope_error"]
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
        return fit_text.summary(self)

    def __repr__(self) -> str:
        if self.by:
            return f"Fit(by={self.by}, {len(self.to_frame())} lines; {self.errors})"
        error = f" ± {self.slope_error:.4f}" if np.isfinite(self.slope_error) else ""
        how = f", {self.errors}" if error else ", errors not known"
        return f"Fit(slope={self.slope:.4f}{error}, intercept={self.intercept:.4f}{how})"

    def _repr_html_(self) -> str:
        return markup.of_fit(self)
