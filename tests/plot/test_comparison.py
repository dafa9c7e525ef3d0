"""The figure of a comparison, by what was drawn."""

import numpy as np
import pytest

from entropylab import EntropyLabError, compare, plot

from .artists import lines


def test_differences_of_layers_with_intervals(ds, ax) -> None:
    found = compare(ds, ds, scaling="original", other_scaling="sqrt_log", size=128)
    rows = found.to_frame()
    plot.compare(found, ax)
    drawn = np.concatenate([line.get_ydata() for text, line in lines(ax).items() if "mean" not in text])
    np.testing.assert_allclose(np.sort(drawn), np.sort(rows["difference"]))
    (bar,) = ax.containers
    ends = np.array([end[:, 1] for end in bar.lines[2][0].get_segments()])
    np.testing.assert_allclose(ends, rows[["difference_low", "difference_high"]])
    assert lines(ax)[f"mean layer, −{-rows['difference'].mean():.3f} nats"].get_ydata()[0] < 0
    assert [text.get_text() for text in ax.get_xticklabels()] == ["down 0", "down 1", "mid", "up 0", "up 1"]


def test_only_a_comparison(ds, ax) -> None:
    with pytest.raises(EntropyLabError, match="comparison must be from entropylab.compare"):
        plot.compare(ds, ax)
