"""Room in figures: legends that cover nothing, names that are long, layers that are many, rules that are many."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from entropylab import plot
from entropylab.plot.layers import NAMED
from entropylab.plot.style import legend, legend_above

from .. import datasets
from ..datasets import synthetic

RULES = ("original", "sqrt_log", "0.5", "0.75", "1.25", "1.5", "invariant", "calibrated")


@pytest.fixture
def ax() -> Axes:
    return Figure(layout="constrained").subplots()


@pytest.fixture(scope="module")
def many():
    """Forty layers, and a seventh size."""
    blocks = tuple((f"single_transformer_blocks.{number}", 1, 3) for number in range(40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "BLOCKS", blocks)
        return synthetic(samples=2, steps=2, sigma2=np.linspace(0.3, 3, 40), cumulants=True)


@pytest.mark.parametrize(("names", "within"), [(3, True), (7, False)])
def test_a_legend_covers_nothing(ax, names, within) -> None:
    for number in range(names):
        ax.plot([0, 1], [number, number], label=f"line {number}")
    legend(ax)
    ax.figure.draw_without_rendering()
    box, frame = ax.get_legend().get_window_extent(), ax.get_window_extent()
    assert (box.y0 < frame.y1) == within
    assert box.width < 1.2 * frame.width


def test_without_names_there_is_no_legend(ax) -> None:
    legend_above(ax)
    legend(ax)
    assert ax.get_legend() is None


def test_many_layers_are_told_by_colour(many, ax) -> None:
    plot.entropy_vs_step(many, ax, size=64)
    assert ax.get_legend() is None
    (bar,) = (other for other in ax.figure.axes if other is not ax)
    assert bar.get_ylabel() == "layer, in order"
    few = plot.entropy_vs_step(many.isel(layer=range(NAMED)), Figure().subplots(), size=64)
    assert len(few.get_legend().get_texts()) == NAMED / 2, "the other half is cross-attention"


def test_names_of_many_layers_do_not_touch(many, ax) -> None:
    plot.heads(many, ax, size=64)
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.get_yticklabels()]
    assert all(lower.y1 < upper.y0 for upper, lower in pairwise(boxes))


def test_heads_that_no_layer_shown_has_are_left_out(ax) -> None:
    ds = synthetic(samples=1)
    plot.heads(ds.isel(layer=[0]), ax, size=64)
    assert len(ax.get_xticks()) == 4 < ds.sizes["head"]


def test_one_layer_has_a_reference_that_can_be_seen(ax) -> None:
    plot.stabilization(synthetic(scalings=("original", "sqrt_log"), samples=2).isel(layer=[0]), ax)
    reference = next(line for line in ax.get_lines() if str(line.get_label()).endswith("training size"))
    assert reference.get_marker() == "_"


def test_every_rule_and_every_size_has_a_look_of_its_own(many, ax) -> None:
    plot.stabilization(synthetic(scalings=RULES, samples=1, steps=1), ax)
    looks = [(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in ax.get_lines()]
    named = [look for look, line in zip(looks, ax.get_lines(), strict=True) if not line.get_label().startswith("_")]
    assert len(named) == 1 + 2 * len(RULES)
    assert len(set(named)) == len(named)
    sizes = plot.law_residual(many, Figure().subplots()).containers
    points = {(bar.lines[0].get_color(), bar.lines[0].get_marker()) for bar in sizes}
    assert len(points) == len(sizes) == many.sizes["size"]
