"""Axes, style and names that figures share."""

import matplotlib
import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from entropylab import plot
from entropylab.law.names import short
from entropylab.plot.style import legend

from ..datasets import under_both


def test_current_axes_by_default_and_nothing_set() -> None:
    matplotlib.use("Agg")
    before, ds = dict(matplotlib.rcParams), under_both(samples=2, steps=2, cumulants=True)
    names = (
        "entropy_vs_tokens",
        "deficit_vs_tokens",
        "stabilization",
        "law_residual",
        "residual_vs_cumulants",
        "phase",
    )
    try:
        for name in (*names, "entropy_vs_step", "heads"):
            _, axes = plt.subplots()
            assert getattr(plot, name)(ds) is axes
        assert dict(matplotlib.rcParams) == before
    finally:
        plt.close("all")


def test_columns_of_a_legend_are_filled_evenly() -> None:
    """Six names that have room for five columns are two rows of three."""
    ax = Figure(figsize=(8, 4)).subplots()
    for place in range(6):
        ax.plot([0, 1], label=f"layer {place}")
    legend(ax)
    ax.figure.draw_without_rendering()
    places = [text.get_window_extent() for text in ax.get_legend().get_texts()]
    assert len({round(place.x0) for place in places}) == 3 and len({round(place.y0) for place in places}) == 2


@pytest.mark.parametrize(
    ("block", "words"),
    [("down_blocks.0", "down 0"), ("mid_block", "mid"), ("transformer_blocks.12", "transformer 12"), ("net", "net")],
)
def test_short_names_of_blocks(block: str, words: str) -> None:
    assert short(block) == words
