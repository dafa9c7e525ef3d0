"""Fits and checks as HTML, for notebooks: short names and headings, what is wide scrolls, numbers line up.

Knows fits, checks and their words, and nothing of how they were found.
"""

import html
from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from . import check_text, fit_text
from .naming import layer_names

if TYPE_CHECKING:
    from .checked import Check
    from .fitted import Fit

HEADINGS = {
    "size": "size",
    "layer": "layer",
    "tokens": "N",
    "log_tokens": "log N",
    "entropy": "H",
    "entropy_error": "± H",
    "fitted": "line",
    "residual": "H − line",
    "law": "log N − σ²/2",
    "series": "with k3, k4",
    "slope": "slope",
    "slope_error": "± slope",
    "slope_p": "p (slope 1)",
    "intercept": "intercept",
    "intercept_error": "± intercept",
    "r_squared": "R²",
    "deficit": "D = log N − H",
    "half_sigma2": "σ²/2",
    "freezing": "σ²/(2 log N)",
    "law_off": "law off by",
    "third_order_off": "with k3",
    "series_off": "with k3, k4",
    "finite_off": "with finite N",
    "law_worst": "worst",
    "explained": "explained",
    "skewed": "skewed",
    "small_n": "small N",
    "near_freezing": "near freezing",
}
"""What is shown of a table, in its own order, and the heading of each."""

SHARES = ("explained", "skewed", "small_n", "near_freezing")
COUNTS = ("tokens",)
ENTROPIES = "Entropies in nats."


def of_fit(fit: "Fit") -> str:
    """A fit for a notebook."""
    frame = fit_text.short(fit) if fit.by else fit.points()
    words = "" if fit.by else pre(fit_text.lines(fit))
    return boxed(f"{fit_text.about(fit)}. {ENTROPIES}", words, table(frame, named(fit.dataset)))


def of_check(found: "Check") -> str:
    """A check for a notebook."""
    layers, names = found.layers(), named(found.dataset)
    lines = check_text.lines(found, layers.assign(layer=layers["layer"].map(names)))
    notes = "Off by: mean over heads and sizes. Flags: share of heads and sizes."
    return boxed(
        f"{'. '.join(check_text.about(found).splitlines())}. {ENTROPIES} {notes}", pre(lines), table(layers, names)
    )


def named(ds: xr.Dataset) -> dict[str, str]:
    """Path of each layer -> its short name."""
    return dict(zip(ds["layer"].values.tolist(), layer_names(ds), strict=True)) if "layer" in ds.dims else {}


def boxed(about: str, *parts: str) -> str:
    """Parts under a line that says what they are."""
    scrolls = '<div style="overflow-x: auto; white-space: nowrap">'
    return f"<p>{html.escape(about)}</p>{scrolls}{''.join(parts)}</div>"


def pre(text: str) -> str:
    """Lines as they are."""
    return f"<pre>{html.escape(text)}</pre>"


def table(frame: pd.DataFrame, names: dict[str, str]) -> str:
    """What has a heading of a table, other groups first; a layer's full path shows where the pointer rests on it."""
    groups = [name for name in frame if name in ("head", "step", "branch")]
    shown = [*groups, *(name for name in frame if name in HEADINGS)]
    cells = pd.DataFrame({name: [cell(str(name), value, names) for value in frame[name]] for name in shown})
    return cells.rename(columns=HEADINGS).to_html(index=False, escape=False, border=0)


def cell(column: str, value: object, names: dict[str, str]) -> str:
    """A value as it is shown: a number, a share in per cent, a layer by its short name, a dash for nothing."""
    if column == "layer" and value in names:
        return f'<span title="{html.escape(str(value))}">{html.escape(names[str(value)])}</span>'
    if not isinstance(value, float):
        return html.escape(str(value))
    if pd.isna(value):
        return "–"
    if column in SHARES:
        return f"{value:.0%}"
    if column == "slope_p":
        return f"{value:.2g}"
    return f"{value:.0f}" if column in COUNTS else f"{value:.4f}"
