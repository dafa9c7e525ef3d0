"""Figures of models side by side, by what was drawn."""

from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import entropylab
from entropylab import EntropyLabError, check, plot
from entropylab.plot.layers import layer_lines

from ..datasets import NOISY, synthetic


def test_layers_of_two_models_in_one_panel(ds: xr.Dataset) -> None:
    other = synthetic(slope=0.8, **NOISY)
    ax = plot.by_layer({"one": ds, "other": other}, Figure().subplots(), name="slope")
    lines = {str(line.get_label()): line for line in ax.lines}
    for name, data in (("one", ds), ("other", other)):
        np.testing.assert_allclose(lines[name].get_ydata(), entropylab.fit(data, by="layer").to_frame()["slope"])
        np.testing.assert_allclose(lines[name].get_xdata(), np.linspace(0, 1, 5))
    assert abs(np.subtract(lines["one"].get_ydata(), lines["other"].get_ydata())).min() > 0.1
    ax = plot.by_layer({"one": ds}, Figure().subplots(), name="deficit")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), layer_lines({"one": ds})["deficit"])
    assert ax.get_yscale() == "linear"
    wide = plot.by_layer({"one": synthetic(sigma2=(0.1, 1, 10, 100, 1))}, Figure().subplots(), name="half_sigma2")
    assert wide.get_yscale() == "log"


@pytest.mark.parametrize(
    ("runs", "name", "message"),
    [({}, "slope", "runs must map"), ([1], "slope", "runs must map"), (None, "wisdom", "name must be one of slope")],
)
def test_layers_that_can_not_be_compared(runs: Any, name: str, message: str, ds: xr.Dataset) -> None:
    with pytest.raises(EntropyLabError, match=message):
        plot.by_layer({"one": ds} if runs is None else runs, Figure().subplots(), name=name)


def test_deficit_beside_sigma2() -> None:
    data = synthetic(sigma2=(0.2, 1.4, 6.0, 1.2, 0.6), noise=1e-3)
    ax = plot.deficit_vs_sigma2(data, Figure().subplots())
    rows = check(data).to_frame()
    free = rows[rows["flags"] == ""]
    drawn = {str(line.get_label()): line for line in ax.lines}
    np.testing.assert_allclose(drawn[f"no flag ({len(free)})"].get_ydata(), free["deficit"])
    np.testing.assert_allclose(drawn[f"no flag ({len(free)})"].get_xdata(), free["half_sigma2"])
    assert 0 < len(free) < len(rows)
    assert ax.get_xscale() == ax.get_yscale() == "log"
    uniform = plot.deficit_vs_sigma2(synthetic(sigma2=(0,) * 5), Figure().subplots())
    assert any("not above 0" in text.get_text() for text in uniform.get_legend().get_texts())
