"""The figures of a report, one panel each, narrow enough for a phone."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import xarray as xr
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import plot
from ..plot.layers import QUANTITIES
from ..plot.style import legend_above
from ..scaling import NEEDS_CALIBRATION
from .blocks import Picture
from .views import View, tried

NARROW, BROAD = (4.2, 3.9), (7.2, 4.0)
"""Width and height [inches]."""

SHARP = 200
"""Pixels an inch: sharp in print, and small."""

Draw = Callable[[Axes], Axes]


def picture(name: str, caption: str, draw: Draw, *, columns: int = 2, wide: bool = False) -> list[Picture]:
    """One figure of one panel, its legend above; nothing if what it would show was not measured."""
    with rc_context(plot.PAPER):
        figure = Figure(figsize=BROAD if wide else NARROW, layout="constrained")
        drawn = tried(lambda: draw(figure.subplots()))
        if not isinstance(drawn, Axes):
            return []
        if drawn.get_legend() is not None:
            legend_above(drawn, columns)
        return [Picture(name, caption, png_of(figure), wide)]


def png_of(figure: Figure) -> bytes:
    """A figure as a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=SHARP, metadata={"Software": None})
    return buffer.getvalue()


def of_view(view: View, stem: str, name: str, caption: str, draw: Callable[..., Axes], **options: Any) -> list[Picture]:
    """A figure that a function of `entropylab.plot` draws of one run."""
    layout = {key: options.pop(key) for key in ("columns", "wide") if key in options}
    return picture(
        f"{stem}_{name}",
        f"{view.label}: {caption}",
        lambda ax: draw(view.data, ax, kind=view.kind, **options),
        **layout,
    )


def fit_pictures(view: View, stem: str) -> list[Picture]:
    """Entropy against log N."""
    caption = (
        "entropy against log N, with its fitted line, the law's prediction from measured σ² in which nothing is "
        "fitted, and uniform attention. Grey: single layers. Bars: one standard error over samples."
    )
    return of_view(view, stem, "entropy", caption, plot.entropy_vs_tokens)


def deficit_pictures(view: View, stem: str) -> list[Picture]:
    """The deficit against log N, and against sigma^2/2."""
    level = "the deficit against log N, and measured σ²/2: under the law both are one level line."
    equal = (
        "the deficit against measured σ²/2, a point for every layer, head and size: under the law on the dashed line."
    )
    return [
        *of_view(view, stem, "deficit", level, plot.deficit_vs_tokens),
        *of_view(view, stem, "sigma2", equal, plot.deficit_vs_sigma2),
    ]


def check_pictures(view: View, stem: str) -> list[Picture]:
    """What the law is off by, and what explains it."""
    off = "measured entropy less the law, by layer and size. Dots: single heads."
    cumulants = "what the law is off by against what skewness and kurtosis say: on the dashed line they explain it all."
    return [
        *of_view(view, stem, "residual", off, plot.law_residual, wide=True, columns=5),
        *of_view(view, stem, "cumulants", cumulants, plot.residual_vs_cumulants, columns=1),
    ]


def drift_pictures(view: View, stem: str) -> list[Picture]:
    """Entropy by layer at a lower and a higher size; calibrated rules, which lie on the reference, are left out."""
    rules = [rule for rule in view.scalings if rule not in NEEDS_CALIBRATION]
    caption = "entropy of every layer at the training size and away from it, as the model is and rescaled."
    return of_view(view, stem, "drift", caption, plot.stabilization, scaling=rules, wide=True)


def head_pictures(view: View, stem: str, size: str) -> list[Picture]:
    """A map of layers and heads at a size."""
    caption = f"entropy / log N of every layer and head at {size}; 1 is uniform."
    return of_view(view, stem, "map", caption, plot.heads, size=size)


def step_pictures(view: View, stem: str, size: str) -> list[Picture]:
    """Entropy through the denoising steps at a size."""
    caption = f"entropy / log N of every layer through the denoising steps at {size}."
    return of_view(view, stem, "entropy", caption, plot.entropy_vs_step, size=size, normalised=True, columns=3)


def phase_pictures(view: View, stem: str) -> list[Picture]:
    """Sigma^2 against log N."""
    caption = "σ² against log N, a point for every layer, head and size, with the line of freezing."
    return of_view(view, stem, "phase", caption, plot.phase, columns=1)


def layer_pictures(views: Mapping[str, View], stem: str) -> list[Picture]:
    """Slope, deficit and sigma^2/2 by layer, all runs in one panel."""
    data: dict[str, xr.Dataset] = {label: view.data for label, view in views.items()}
    kind = next(iter(views.values())).kind
    found = []
    for name, words in QUANTITIES.items():
        bars = ", with 95% intervals" if name == "slope" else ""
        found += picture(
            f"{stem}_{name}",
            f"{words}, by layer{bars}.",
            lambda ax, name=name: plot.by_layer(data, ax, name=name, kind=kind),  # type: ignore[misc]
        )
    return found
