"""The sweep of the multiplier, by what was drawn."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from entropylab import plot
from entropylab.errors import EntropyLabError
from entropylab.law.drift import MEAN, drift
from entropylab.plot.rules import sweep_table

from ..datasets import own_mean, synthetic
from .artists import bars, lines

RULES = ("original", "sqrt_log", "invariant", "calibrated", "0.5", "2", "mine")
REMOVED = {"sqrt_log": 0.15, "invariant": 0.5, "calibrated": 1.0, "0.5": -0.6, "2": 0.8, "mine": 0.3}
FACTORS = {"original": 1.0, "sqrt_log": 1.12, "invariant": 1.5, "calibrated": 2.2, "0.5": 0.5, "2": 2.0, "mine": 1.2}


@pytest.fixture(scope="module")
def swept() -> xr.Dataset:
    """Two sizes under numbers and rules, the training size as the model is; multipliers differ between layers."""
    ds = synthetic(sizes=((64, 64), (32, 32), (128, 128)), scalings=RULES, removed=REMOVED, noise=0.02, samples=3)
    layers = np.where(ds["kind"] == "self", np.linspace(-0.2, 0.2, ds.sizes["layer"]), 0)
    factors = np.array(list(FACTORS.values()))[None, :, None]
    spread = np.isin(RULES, RULES[1:4])[None, :, None] * layers
    ds = ds.assign_coords(multiplier=(("size", "scaling", "layer"), np.repeat(factors + spread, 3, axis=0)))
    away = (ds["size"] != "64x64") | (ds["scaling"] == "original")
    return ds.assign(entropy=ds["entropy"].where(away)).assign_attrs(ds.attrs)


def test_the_sweep_has_numbers_as_a_curve_and_rules_as_points(swept, ax) -> None:
    assert plot.sweep(swept, ax, size=128) is ax
    rows = drift(swept)
    mean = rows[(rows["layer"] == MEAN) & (rows["size"] == "128x128")].set_index("scaling")["entropy"]
    curve = lines(ax)["128x128, one multiplier everywhere"]
    np.testing.assert_allclose(curve.get_xdata(), [0.5, 1.0, 2.0])
    np.testing.assert_allclose(curve.get_ydata(), mean[["0.5", "original", "2"]])
    points = {text.split(" ")[0]: bar.lines[0] for text, bar in bars(ax).items()}
    assert list(points) == ["original", "sqrt_log", "invariant", "calibrated", "mine"]
    for name, point in points.items():
        own = swept["multiplier"].sel(size="128x128", scaling=name)[swept["kind"].values == "self"]
        np.testing.assert_allclose(point.get_xdata().astype(float), own.mean())
        np.testing.assert_allclose(point.get_ydata().astype(float), mean[name])
    assert len({point.get_marker() for point in points.values()}) == 5


def test_the_sweep_refers_to_the_training_size(swept, ax) -> None:
    plot.sweep(swept, ax, size=(32, 32))
    home = own_mean(swept.sel(size=["64x64"], scaling=["original"])).mean()
    np.testing.assert_allclose(lines(ax)["64x64, training size"].get_ydata(), home, atol=1e-6)
    (right,) = ax.child_axes
    assert right.get_ylabel() == "drift from the training size [nats]"
    ax.figure.draw_without_rendering()
    np.testing.assert_allclose(right.get_ylim(), np.array(ax.get_ylim()) - home, atol=1e-6)
    assert "calibrated (100% of the mean drift removed)" in bars(ax)
    assert "[nats]" in ax.get_ylabel()
    assert "multiplier" in ax.get_xlabel()


def test_the_table_of_the_sweep(swept) -> None:
    rows = sweep_table(swept, size="32x32")
    assert len(rows) == 6 * len(RULES)
    assert set(rows["size"]) == {"32x32"}
    assert all(layer["multiplier"].is_monotonic_increasing for _, layer in rows.groupby("layer"))
    assert set(rows[rows["curve"]]["scaling"]) == {"original", "0.5", "2"}
    mean = rows[rows["layer"] == MEAN].set_index("scaling")
    np.testing.assert_allclose(mean["fraction_removed"][list(REMOVED)], list(REMOVED.values()), atol=0.02)
    one = swept.sel(size=["64x64", "128x128"])
    pd.testing.assert_frame_equal(sweep_table(one), sweep_table(swept, size=128))
    assert not np.allclose(sweep_table(one)["entropy"], rows["entropy"], atol=0.1)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda ds: ds, {}, r"size must be named: one of \['64x64', '32x32', '128x128'\]"),
        (lambda ds: ds, {"size": 48}, "size must be one of those measured.* Got 48"),
        (lambda ds: ds.drop_vars("multiplier"), {"size": 32}, "must have a coordinate multiplier"),
        (lambda ds: ds.isel(size=[1, 2]), {"size": 32}, "train_size must be named"),
    ],
)
def test_what_is_no_sweep(swept, ax, change, options: dict, message: str) -> None:
    with pytest.raises(EntropyLabError, match=message):
        plot.sweep(change(swept), ax, **options)
    assert not ax.get_lines()
