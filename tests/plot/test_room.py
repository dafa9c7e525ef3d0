"""Room in figures: legends that cover nothing, names that are long, layers and rules that are many; nothing is set."""

from itertools import pairwise

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from entropylab import plot
from entropylab.plot.layers import NAMED
from entropylab.plot.style import legend

from .. import datasets
from ..datasets import synthetic
from .conftest import lines, new_axes

RULES = ("original", "sqrt_log", "0.5", "0.75", "1.25", "1.5", "invariant", "calibrated")


@pytest.fixture(scope="module")
def many():
    """Forty layers, and a seventh size."""
    blocks = tuple((f"single_transformer_blocks.{number}", 1, 3) for number in range(40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "BLOCKS", blocks)
        return synthetic(samples=2, steps=2, sigma2=np.linspace(0.3, 3, 40), cumulants=True)


def test_current_axes_by_default_and_nothing_set(ds) -> None:
    before = dict(matplotlib.rcParams)
    names = ("entropy_vs_tokens", "deficit_vs_tokens", "stabilization", "law_residual", "phase", "heads")
    try:
        for name in names:
            _, axes = plt.subplots()
            assert getattr(plot, name)(ds) is axes
        assert dict(matplotlib.rcParams) == before
    finally:
        plt.close("all")


@pytest.mark.parametrize(("names", "within"), [(3, True), (7, False)])
def test_a_legend_covers_nothing(ax, names, within) -> None:
    for number in range(names):
        ax.plot([0, 1], [number, number], label=f"line {number}")
    legend(ax)
    ax.figure.draw_without_rendering()
    box, frame = ax.get_legend().get_window_extent(), ax.get_window_extent()
    assert (box.y0 < frame.y1) == within
    assert box.width < 1.2 * frame.width


def test_columns_of_a_legend_are_filled_evenly_and_as_many_as_the_laid_out_axes_have_room_for() -> None:
    """Six names that have room for four columns are two rows of three; beside long names of ticks there are two."""
    found = []
    for name in ("a", "a name as long as this"):
        ax = Figure(figsize=(5, 4), layout="constrained").subplots()
        ax.set_yticks([0, 1], [name] * 2)
        for place in range(6):
            ax.plot([0, 1], label=f"layer {place}")
        legend(ax)
        ax.figure.draw_without_rendering()
        places = [text.get_window_extent() for text in ax.get_legend().get_texts()]
        found.append((len({round(place.x0) for place in places}), len({round(place.y0) for place in places})))
    assert found == [(3, 2), (2, 3)]


def test_many_layers_are_told_by_colour(many, ax) -> None:
    plot.entropy_vs_step(many, ax, size=64)
    assert ax.get_legend() is None
    (bar,) = (other for other in ax.figure.axes if other is not ax)
    assert bar.get_ylabel() == "layer, in order"
    few = plot.entropy_vs_step(many.isel(layer=range(NAMED)), new_axes(), size=64)
    assert len(few.get_legend().get_texts()) == NAMED / 2, "the other half is cross-attention"


def test_names_of_many_layers_do_not_touch(many, ax) -> None:
    plot.heads(many, ax, size=64)
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.get_yticklabels()]
    assert all(lower.y1 < upper.y0 for upper, lower in pairwise(boxes))


def test_every_rule_and_every_size_has_a_look_of_its_own(many, ax) -> None:
    plot.stabilization(synthetic(scalings=RULES, samples=1, steps=1), ax)
    looks = [(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in lines(ax).values()]
    assert len(set(looks)) == len(looks) == 1 + 2 * len(RULES)
    sizes = plot.law_residual(many, new_axes()).containers
    points = {(bar.lines[0].get_color(), bar.lines[0].get_marker()) for bar in sizes}
    assert len(points) == len(sizes) == many.sizes["size"]
    assert len({(str(look["linestyle"]), look["marker"]) for look in plot.PAPER["axes.prop_cycle"]}) == 6
