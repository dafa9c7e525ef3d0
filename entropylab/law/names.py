"""What fits, checks and comparisons have in common: names and units of what they hold, and how it is shown."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import xarray as xr

from ..errors import EntropyLabError

RESIDUALS = {
    "law": "the law's prediction",
    "third_order": "the series to third order",
    "series": "the series to fourth order",
    "gaussian": "that of Gaussian rows of the same N and sigma",
    "rarefied": "that among fewer keys at the largest size",
}
"""Predictions of entropy in which nothing is fitted, and their words."""

FLAGS = {"skewed": "skewed", "near_freezing": "near freezing"}
"""What is flagged, and its words."""

BIASED = {"law": "law", "gaussian": "Gaussian rows", "rarefied": "fewer keys"}
"""Predictions whose mean difference from entropy is shown with its sign, and their words in a heading."""

DIFFERENCE = {
    "": "entropy of the other less the first [nats]",
    "_error": "standard error of the difference over pairs of samples [nats]",
    "_low": "difference, lower end of the 95% interval [nats]",
    "_high": "difference, upper end of the 95% interval [nats]",
    "_p": "two-sided p of no difference",
    "_holm": "two-sided p of no difference in any layer, corrected for their number",
}
"""What is known of a difference, and its words."""

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
    "degrees_of_freedom": "degrees of freedom of the errors",
    "center": "mean log N of the points",
    "center_error": "standard error of the line at the mean log N [nats]",
    "center_covariance": "covariance of the slope with the line at the mean log N [nats]",
    "r_squared": "R^2 of the line through the averages over samples",
    "curvature": "change of the slope with log N",
    "curvature_error": "standard error of the change of the slope",
    "curvature_t": "t of the hypothesis that the line is straight",
    "curvature_p": "two-sided p of the hypothesis that the line is straight",
    "log_tokens": "log N, mean over layers [nats]",
    "tokens": "number of keys N, geometric mean over layers [tokens]",
    "entropy": "attention entropy [nats]",
    "entropy_error": "standard error of the entropy over samples [nats]",
    "fitted": "entropy on the fitted line [nats]",
    "residual": "entropy less the fitted line [nats]",
    "deficit": "deficit D = log N - H [nats]",
    "half_sigma2": "measured sigma^2/2 [nats]",
    "sigma2": "measured sigma^2 [nats^2]",
    "third": "measured third cumulant k3 [nats^3]",
    "fourth": "measured fourth cumulant k4 [nats^4]",
    "law": "the law's prediction log N - sigma^2/2 [nats]",
    "third_order": "the series to third order, log N - k2/2 - k3/3 [nats]",
    "series": "the series to fourth order, log N - k2/2 - k3/3 - k4/8 [nats]",
    "correction": "what third and fourth cumulant add to the law, - k3/3 - k4/8 [nats]",
    "gaussian": "entropy of Gaussian rows of the same N and sigma [nats]",
    "gaussian_term": "what Gaussian rows of the same N and sigma are off the law by [nats]",
    "rarefied": "entropy among fewer keys of the rows at the largest size [nats]",
    "freezing": "sigma^2 / (2 log N): the law fails well before 1",
    "skewed": "past the threshold on |k3|/3 + |k4|/8",
    "near_freezing": "Gaussian rows would be off the law by more than 0.1 nats",
    "unexplained": "share of rows whose entropy is more than two spreads from that of Gaussian rows",
    "local_slope": "slope dH/dlog N that rows themselves foresee, at one size",
    "predicted_slope": "mean over log N of the slope that rows themselves foresee",
    "power": "power of log N that the scale must follow to keep H / log N, as rows themselves foresee",
    "level_power": "power of log N that the scale must follow to keep H, as rows themselves foresee",
    "other_entropy": "attention entropy of the other [nats]",
    "unpaired_error": "standard error that the difference would have between different samples [nats]",
    **{f"difference{end}": words for end, words in DIFFERENCE.items()},
    **{f"mean_difference{end}": f"mean layer: {words}" for end, words in DIFFERENCE.items()},
    **{f"{name}_residual": f"entropy less {words} [nats]" for name, words in RESIDUALS.items()},
    **{
        f"{name}_residual_error": f"standard error over samples of the entropy less {words} [nats]"
        for name, words in RESIDUALS.items()
    },
    **{f"{name}_bias": f"entropy less {words}, mean over heads and sizes [nats]" for name, words in RESIDUALS.items()},
    **{f"{name}_bias_error": f"standard error over samples of {name}_bias [nats]" for name in RESIDUALS},
}
"""Every variable that a `Fit`, a `Check` or a `Comparison` can hold, with its unit if it has one."""

HEADINGS = {
    "layer": "layer", "head": "head", "step": "step", "branch": "branch", "size": "size",
    "slope": "slope", "slope_error": "± slope", "slope_p": "p (slope 1)", "predicted_slope": "slope foreseen",
    "curvature": "slope changes by", "curvature_p": "p (straight)", "local_slope": "slope foreseen",
    "intercept": "intercept", "intercept_error": "± intercept", "r_squared": "R²",
    "log_tokens": "log N", "tokens": "N", "entropy": "H", "entropy_error": "± H",
    "fitted": "line", "residual": "H − line", "deficit": "D = log N − H", "half_sigma2": "σ²/2",
    "law": "log N − σ²/2", "series": "with k3, k4", "freezing": "σ²/(2 log N)", "unexplained": "rows not Gaussian",
    "law_off": "law off by", "third_order_off": "with k3", "series_off": "with k3, k4", "law_worst": "worst",
    "gaussian_off": "Gaussian rows off by", "rarefied_off": "fewer keys off by", "explained": "explained",
    "power": "power of log N for H / log N", "level_power": "for H",
    "other_entropy": "H, other", "difference": "other − H", "difference_error": "± other − H",
    "difference_holm": "p (Holm)", "unpaired_error": "± if not paired",
    **{f"{name}_bias": f"H − {words}" for name, words in BIASED.items()},
    **{f"{name}_z": "in errors" for name in BIASED},
    **FLAGS,
}  # fmt: skip
"""What a notebook shows of a table, and the heading of each column."""

FORMATS = {
    **dict.fromkeys(("explained", "unexplained", *FLAGS), "{:.0%}"),
    **dict.fromkeys(("power", "level_power"), "{:.2f}"),
    **dict.fromkeys(("slope_p", "curvature_p", "difference_holm"), "{:.2g}"),
    **{f"{name}_z": "{:.1f}" for name in BIASED},
    "tokens": "{:.0f}",
}
"""How numbers of a column are written in a notebook; all others with four decimals."""


@dataclass(frozen=True, repr=False, eq=False)
class Result:
    """Numbers that describe themselves: a Dataset in which every variable has its name and unit."""

    dataset: xr.Dataset

    def __post_init__(self) -> None:
        for name, variable in self.dataset.data_vars.items():
            long_name, _, unit = LONG_NAMES[str(name)].rstrip("]").partition(" [")
            variable.attrs = {"long_name": long_name, "units": unit or "1"}

    def __getitem__(self, name: str) -> Any:
        if name not in self.dataset:
            what = type(self).__name__.lower()
            raise EntropyLabError(
                f"{name!r} is not in this {what} (was its statistic measured?). Got {list(self.dataset)}."
            )
        return self.dataset[name]

    def to_dataset(self) -> xr.Dataset:
        """Everything in it, as a Dataset of its own."""
        return self.dataset.copy(deep=True)


def table(data: xr.Dataset, dims: Sequence[str]) -> pd.DataFrame:
    """A row for every place along ``dims``, in that order: their labels and coordinates, variables that have all."""
    own = [str(name) for name, value in data.data_vars.items() if set(value.dims) == set(dims)]
    if not dims:
        return pd.DataFrame([{name: float(data[name]) for name in own}])
    coords = [str(name) for name, value in data.coords.items() if value.dims and set(value.dims) <= set(dims)]
    frame = data[own].to_dataframe(dim_order=list(dims)).reset_index()
    return frame[[*dims, *(name for name in coords if name not in dims), *own]]


def short(block: str) -> str:
    """A block's name for a tick: "down 0" of "down_blocks.0", "mid" of "mid_block"."""
    name, _, number = block.rpartition(".") if "." in block else (block, "", "")
    return f"{name.removesuffix('_blocks').removesuffix('_block').replace('_', ' ')} {number}".strip()


def layer_names(ds: xr.Dataset) -> list[str]:
    """Short names of layers: of their blocks, numbered in a block that has several ("up 1, 0"); with their parts,
    if these differ.
    """
    blocks = [short(str(block)) for block in ds["block" if "block" in ds.coords else "layer"].values]
    if "part" in ds.coords:
        parts = [str(part) for part in ds["part"].values]
        parts = parts if len(set(parts)) > 1 else ["all"] * len(parts)
        blocks = [block if part == "all" else f"{block} {part}" for block, part in zip(blocks, parts, strict=True)]
    again = {block for block in blocks if blocks.count(block) > 1}
    return [f"{name}, {blocks[:i].count(name)}" if name in again else name for i, name in enumerate(blocks)]


def names_by_layer(ds: xr.Dataset) -> dict[str, str]:
    """Path of each layer -> its short name."""
    return dict(zip(ds["layer"].values.tolist(), layer_names(ds), strict=True)) if "layer" in ds.dims else {}


def text_table(rows: pd.DataFrame, form: str) -> str:
    """Rows as text, numbers written as ``form`` says, without the columns of which nothing is known."""
    known = rows.dropna(axis="columns", how="all")
    return known.to_string(index=False, float_format=form.format, na_rep="-")


def page(about: str, lines: str, rows: pd.DataFrame, names: Mapping[str, str]) -> str:
    """What a notebook shows: what it is, lines of text whose columns align, and a table that scrolls if it is wide.

    Of ``rows`` the columns in `HEADINGS` are shown. Layers go by their short ``names``; the full path shows where the
    pointer rests on one.
    """

    def written(column: str, value: object) -> str:
        if column == "layer" and value in names:
            return f'<span title="{html.escape(str(value))}">{html.escape(names[str(value)])}</span>'
        if not isinstance(value, float):
            return html.escape(str(value))
        return "–" if pd.isna(value) else FORMATS.get(column, "{:.4f}").format(value)

    groups = [name for name in rows if name in ("head", "step", "branch")]
    columns = [*groups, *(name for name in rows if name in HEADINGS and name not in groups)]
    cells = pd.DataFrame({name: [written(name, value) for value in rows[name]] for name in columns})
    cells.columns = pd.Index([HEADINGS[name] for name in columns])  # some are the same: a dict would keep the last
    shown = cells.to_html(index=False, escape=False, border=0)
    # A notebook's own style may set <pre> in another font, in which columns of text don't align.
    fixed = f'<pre style="font-family: monospace">{html.escape(lines)}</pre>' if lines else ""
    return f'<p>{html.escape(about)}</p><div style="overflow-x: auto; white-space: nowrap">{fixed}{shown}</div>'
