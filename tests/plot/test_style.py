"""Axes, style and names that figures share."""

import matplotlib
import matplotlib.pyplot as plt
import pytest

from entropylab import plot
from entropylab.law.names import short

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


@pytest.mark.parametrize(
    ("block", "words"),
    [("down_blocks.0", "down 0"), ("mid_block", "mid"), ("transformer_blocks.12", "transformer 12"), ("net", "net")],
)
def test_short_names_of_blocks(block: str, words: str) -> None:
    assert short(block) == words
