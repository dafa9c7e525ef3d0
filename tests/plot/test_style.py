"""Axes, style and names that figures share."""

import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import pytest
from matplotlib import rc_context

from entropylab import plot
from entropylab.law.names import short


def test_current_axes_by_default_and_nothing_set(ds) -> None:
    matplotlib.use("Agg")
    before = dict(matplotlib.rcParams)
    _, axes = plt.subplots()
    try:
        assert plot.entropy_vs_tokens(ds) is axes
        assert plot.deficit_vs_tokens(ds) is axes
        assert plot.stabilization(ds) is axes
        assert dict(matplotlib.rcParams) == before
    finally:
        plt.close("all")


def test_paper_style_is_a_value() -> None:
    with rc_context(plot.PAPER):
        assert matplotlib.rcParams["pdf.fonttype"] == 42


@pytest.mark.parametrize(
    ("block", "words"),
    [("down_blocks.0", "down 0"), ("mid_block", "mid"), ("transformer_blocks.12", "transformer 12"), ("net", "net")],
)
def test_short_names_of_blocks(block: str, words: str) -> None:
    assert short(block) == words


def test_figures_need_no_torch() -> None:
    subprocess.run([sys.executable, "-c", "import sys, entropylab.plot; assert 'torch' not in sys.modules"], check=True)
