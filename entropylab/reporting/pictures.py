"""The figures of a report, one panel each, narrow enough for a phone."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import plot
from ..errors import EntropyLabError
from ..plot.layers import QUANTITIES
from ..plot.style import legend_above
from ..scaling import NEEDS_CALIBRATION
from .views import Run, View

NARROW, BROAD = (4.2, 3.9), (7.2, 4.0)
"""Width and height [inches]."""

SHARP = 200
"""Pixels an inch: sharp in print, and small."""

LAW = {
    "entropy": "entropy against log N, with its fitted line, the law's prediction from measured σ² in which nothing is "
    "fitted, and uniform attention. Grey: single layers. Bars: one standard error over samples.",
    "deficit": "the deficit against log N, and measured σ²/2: under the law both are one level line.",
    "sigma2": "the deficit against measured σ²/2, a point for each layer, head and size; dashed: equal, the law.",
    "phase": "σ² against log N, a point for every layer, head and size, with the line of freezing.",
    "residual": "measured entropy less the law, by layer and size. Dots: single heads.",
    "cumulants": "what the law is off by against what skewness and kurtosis say: on the dashed line they explain all.",
}
"""Captions of figures of the law."""


@dataclass(frozen=True)
class Picture:
    """A figure: name of its file without an ending, what it shows, the PNG, and whether it is as wide as a page."""

    name: str
    caption: str
    png: bytes = field(repr=False)
    wide: bool = False


def pictures_of(runs: Sequence[Run]) -> dict[str, list[Picture]]:
    """Every figure that these runs have data for, by section."""
    sections = ("fit", "deficit", "checks", "drift", "heads", "steps", "phase", "joint", "compare")
    found: dict[str, list[Picture]] = {section: [] for section in sections}

    def add(section: str, name: str, view: View, words: str, draw: Any, wide: bool = False, **options: Any) -> None:
        panel = partial(draw, view.data, kind=view.kind, **options)
        found[section] += drawn(name, f"{view.label}: {words}", panel, wide)

    own = [run.own for run in runs]
    for n, view in enumerate(own, 1):
        at: dict[str, Any] = {"size": view.shown_size}
        add("fit", f"fit{n}_entropy", view, LAW["entropy"], plot.entropy_vs_tokens)
        add("deficit", f"deficit{n}_deficit", view, LAW["deficit"], plot.deficit_vs_tokens)
        add("deficit", f"deficit{n}_sigma2", view, LAW["sigma2"], plot.deficit_vs_sigma2)
        add("checks", f"check{n}_residual", view, LAW["residual"], plot.law_residual, wide=True)
        add("checks", f"check{n}_cumulants", view, LAW["cumulants"], plot.residual_vs_cumulants)
        if view.drift is not None:  # calibrated rules lie on the reference, and are left out
            rules = ["original", *(rule for rule in view.rules if rule not in NEEDS_CALIBRATION)]
            words = "entropy of every layer at the training size and away from it, as the model is and rescaled."
            add("drift", f"drift{n}_drift", view, words, plot.stabilization, scaling=rules, wide=True)
        if view.heads is not None:
            words = f"entropy / log N of every layer and head at {view.shown_size}; 1 is uniform."
            add("heads", f"heads{n}_map", view, words, plot.heads, **at)
        if view.steps is not None:
            words = f"entropy / log N of every layer through the denoising steps at {view.shown_size}."
            add("steps", f"steps{n}_entropy", view, words, plot.entropy_vs_step, **at, normalised=True)
        add("phase", f"phase{n}_phase", view, LAW["phase"], plot.phase)
    for n, view in enumerate((run.image for run in runs if run.image not in (None, run.own)), 1):
        add("joint", f"joint{n}_entropy", view, LAW["entropy"], plot.entropy_vs_tokens)
        add("joint", f"joint{n}_deficit", view, LAW["deficit"], plot.deficit_vs_tokens)
        add("joint", f"joint{n}_sigma2", view, LAW["sigma2"], plot.deficit_vs_sigma2)
        add("joint", f"joint{n}_phase", view, LAW["phase"], plot.phase)
    section, stem = ("compare", "compared") if len(own) > 1 else ("fit", "layers")
    for quantity, words in QUANTITIES.items():
        caption = f"{words}, by layer{', with 95% intervals' if quantity == 'slope' else ''}."
        panel = partial(plot.by_layer, {view.label: view.data for view in own}, name=quantity)
        found[section] += drawn(f"{stem}_{quantity}", caption, panel)
    return found


def drawn(name: str, caption: str, draw: Callable[..., Axes], wide: bool = False) -> list[Picture]:
    """One panel, its legend above; nothing if what it would show was not measured. Same data, same bytes."""
    with rc_context(plot.PAPER):
        figure = Figure(figsize=BROAD if wide else NARROW, layout="constrained")
        try:
            ax = draw(ax=figure.subplots())
        except EntropyLabError:
            return []
        legend_above(ax)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=SHARP, metadata={"Software": None})
        return [Picture(name, caption, buffer.getvalue(), wide)]
