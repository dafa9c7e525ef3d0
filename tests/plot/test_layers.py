"""Layers and heads: through the steps, on a map, of several models, compared, and under rules, by what was drawn."""

import numpy as np
import pytest
import xarray as xr

from entropylab import EntropyLabError, compare, fit, plot
from entropylab.law.averages import log_tokens
from entropylab.law.check import check
from entropylab.law.drift import MEAN, drift
from entropylab.law.names import layer_names, short
from entropylab.plot.layers import layer_lines
from entropylab.plot.rules import sweep_table

from ..datasets import BOTH, NOISY, own_mean, synthetic
from .conftest import bars, lines, new_axes, starting, x_names, y_names

BLOCKS = ["down 0", "down 1", "mid", "up 0", "up 1"]


def test_entropy_through_the_steps(ds, ax) -> None:
    assert plot.entropy_vs_step(ds, ax) is ax
    part = ds.isel(scaling=0, layer=ds["kind"].values == "self").sel(size="64x64")
    expected = part["entropy"].mean(["branch", "sample", "head"]).transpose("layer", "step")
    np.testing.assert_allclose([line.get_ydata() for line in ax.get_lines()], expected, rtol=1e-5)
    assert ax.get_lines()[0].get_xdata().tolist() == [1, 2, 3]
    half = ax.collections[0].get_paths()[0].vertices
    own = part["entropy"].isel(layer=0, step=0).mean(["branch", "head"])
    np.testing.assert_allclose(np.ptp(half[np.isclose(half[:, 0], 1), 1]), 2 * own.std(ddof=1) / 6**0.5, rtol=1e-4)
    assert "at 64x64" in ax.get_ylabel()
    some = plot.entropy_vs_step(ds.isel(step=[0, 2]), new_axes())
    assert some.get_lines()[0].get_xdata().tolist() == [1, 3], "steps keep their numbers"
    other = plot.entropy_vs_step(ds, new_axes(), size=32, normalised=True)
    assert all(0 < line.get_ydata().min() < line.get_ydata().max() < 1.01 for line in other.get_lines())


def test_heads_on_a_map(ds, ax) -> None:
    assert plot.heads(ds, ax, size=(48, 48)) is ax
    part = ds.isel(scaling=0, layer=ds["kind"].values == "self").sel(size="48x48")
    expected = part["entropy"].mean(["branch", "sample", "step"]) / log_tokens(part)
    (cells,) = ax.collections
    drawn = np.ma.filled(cells.get_array().astype(float), np.nan)
    np.testing.assert_allclose(drawn, expected, rtol=1e-5)
    assert np.isnan(drawn).sum() == 8, "heads that are not there stay blank"
    assert cells.get_clim() == (0, 1)
    assert y_names(ax) == BLOCKS
    assert {tick.get_rotation() for tick in ax.get_yticklabels()} == {0}, "names lie, whatever room they have"
    assert "at 48x48" in ax.figure.axes[1].get_ylabel()


def test_another_variable_on_the_map(ds, ax) -> None:
    plot.heads(ds, ax, name="deficit")
    found = check(ds)["deficit"].sel(size="64x64").transpose("layer", "head")
    np.testing.assert_allclose(np.ma.filled(ax.collections[0].get_array().astype(float), np.nan), found)
    signed = plot.heads(synthetic(noise=0.3), new_axes(), name="law_residual")
    low, high = signed.collections[0].get_clim()
    assert low == -high
    assert "[nats]" in signed.figure.axes[1].get_ylabel()
    with pytest.raises(EntropyLabError, match="differs between heads. Got 'law_bias'"):
        plot.heads(ds, new_axes(), name="law_bias")


def test_names_of_layers() -> None:
    named = {"down_blocks.0": "down 0", "mid_block": "mid", "transformer_blocks.12": "transformer 12", "net": "net"}
    assert [short(block) for block in named] == [*named.values()]
    blocks = ("layer", ["mid_block", "up_blocks.1", "up_blocks.1"])
    twice = xr.Dataset(coords={"layer": ["a", "b", "c"], "block": blocks})
    assert layer_names(twice) == ["mid", "up 1, 0", "up 1, 1"]
    parts = twice.assign_coords(part=("layer", ["all", "image", "text"]))
    assert layer_names(parts) == ["mid", "up 1 image", "up 1 text"]
    assert layer_names(twice.drop_vars("block")) == ["a", "b", "c"]


def test_layers_of_two_models_in_one_panel(ds, ax) -> None:
    runs = {"one": ds, "other": synthetic(slope=0.8, **NOISY)}
    plot.by_layer(runs, ax, name="slope")
    for name, data in runs.items():
        np.testing.assert_allclose(lines(ax)[name].get_ydata(), fit(data, by="layer").to_frame()["slope"])
        np.testing.assert_allclose(lines(ax)[name].get_xdata(), np.linspace(0, 1, 5))
    assert abs(lines(ax)["one"].get_ydata() - lines(ax)["other"].get_ydata()).min() > 0.1
    level = plot.by_layer({"one": ds}, new_axes(), name="deficit")
    np.testing.assert_allclose(level.lines[0].get_ydata(), layer_lines({"one": ds})["deficit"])
    assert level.get_yscale() == "linear"
    wide = plot.by_layer({"one": synthetic(sigma2=(0.1, 1, 10, 100, 1))}, new_axes(), name="half_sigma2")
    assert wide.get_yscale() == "log"


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
    assert x_names(ax) == BLOCKS


# Rules.


def test_stabilization_draws_every_layer_in_order(ds, ax) -> None:
    assert plot.stabilization(ds, ax) is ax
    rows = drift(ds)
    for size in ("32x32", "128x128"):
        for rule in BOTH:
            own = rows[(rows["size"] == size) & (rows["scaling"] == rule) & (rows["layer"] != MEAN)]
            np.testing.assert_allclose(starting(ax, f"{size}, {rule}").get_ydata(), own["entropy"])
    home = fit(ds, by="layer").to_dataset()["entropy"].sel(size="64x64")
    np.testing.assert_allclose(lines(ax)["64x64, training size"].get_ydata(), home)
    assert "128x128, sqrt_log (30% of the mean drift removed)" in lines(ax)
    assert x_names(ax) == BLOCKS
    assert ax.get_xlabel().startswith("self-attention layer")
    assert ax.get_ylabel() == "attention entropy of a row [nats]"
    looks = {(line.get_linestyle(), line.get_marker(), line.get_mfc() == "white") for line in lines(ax).values()}
    assert len(looks) == 5, "lines differ without colour"
    some = plot.stabilization(ds, new_axes(), sizes=(48, (96, 64)), scaling=())
    assert set(lines(some)) == {"64x64, training size", "48x48, original", "96x64, original"}
    assert "96x96, training size" in lines(plot.stabilization(ds, new_axes(), train_size=96))
    signs = xr.DataArray([1.0, 1, -1, -1, 1, 1, -1, -1, 0.02, 0], dims="layer")  # drifts that cancel in the mean
    opposite = (ds["entropy"].sel(size="64x64", scaling="original") + 0.1 * signs).mean(["branch", "sample", "step"])
    two = ds.sel(size=["64x64", "96x96"])
    two = two.assign(entropy=two["entropy"].where(two["size"] == "64x64", opposite))
    assert "96x96, sqrt_log" in lines(plot.stabilization(two, new_axes())), "100% of nothing is not said"
    alone = lines(plot.stabilization(ds.isel(layer=[0]), new_axes()))
    assert alone["64x64, training size"].get_marker() == "_", "a line of one point would not be seen"


def test_crosses_are_what_the_training_size_foresees(ds, ax) -> None:
    factor = np.sqrt(np.log(ds["tokens"]) / np.log(ds["train_tokens"]))
    multiplier = xr.concat([xr.ones_like(factor), factor], "scaling").transpose("size", "scaling", "layer")
    ds = ds.assign_coords(multiplier=multiplier.drop_vars(["tokens", "train_tokens"], errors="ignore"))
    ds = ds.assign(sensitivity=0.5 * ds["sigma2"])
    plot.stabilization(ds, ax)
    rows = drift(ds)
    own = rows[(rows["size"] == "32x32") & (rows["layer"] != MEAN)]
    before, after = (own[own["scaling"] == rule].reset_index() for rule in BOTH)
    wanted = before["entropy"] - after["predicted_fraction"] * before["drift"]
    np.testing.assert_allclose(lines(ax)["foreseen of the rules at the training size"].get_ydata(), wanted)
    assert abs(wanted - before["entropy"]).min() > 1e-3, "which is not where entropy was"


REMOVED = {"sqrt_log": 0.15, "invariant": 0.5, "calibrated": 1.0, "0.5": -0.6, "2": 0.8, "mine": 0.3}
FACTORS = {"original": 1.0, "sqrt_log": 1.12, "invariant": 1.5, "calibrated": 2.2, "0.5": 0.5, "2": 2.0, "mine": 1.2}
RULES = tuple(FACTORS)


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
    assert "calibrated (100% of the mean drift removed)" in bars(ax)
    home = own_mean(swept.sel(size=["64x64"], scaling=["original"])).mean()
    np.testing.assert_allclose(lines(ax)["64x64, training size"].get_ydata(), home, atol=1e-6)
    (right,) = ax.child_axes
    assert right.get_ylabel() == "drift from the training size [nats]"
    ax.figure.draw_without_rendering()
    np.testing.assert_allclose(right.get_ylim(), np.array(ax.get_ylim()) - home, atol=1e-6)
    assert ax.get_ylabel() == "mean entropy of self-attention [nats]"
    joint = swept.assign_coords(kind=("layer", np.where(swept["kind"] == "self", "joint", "cross")))
    assert plot.sweep(joint, new_axes(), size=128).get_ylabel() == "mean entropy of joint-attention [nats]"


def test_the_table_of_the_sweep(swept) -> None:
    rows = sweep_table(swept, size="32x32")
    assert len(rows) == 6 * len(RULES)
    assert set(rows["size"]) == {"32x32"}
    assert all(layer["multiplier"].is_monotonic_increasing for _, layer in rows.groupby("layer"))
    assert set(rows[rows["curve"]]["scaling"]) == {"original", "0.5", "2"}
    mean = rows[rows["layer"] == MEAN].set_index("scaling")
    np.testing.assert_allclose(mean["fraction_removed"][list(REMOVED)], list(REMOVED.values()), atol=0.02)
    one = sweep_table(swept.sel(size=["64x64", "128x128"]))
    assert one.equals(sweep_table(swept, size=128)), "the only one beside the training size need not be named"
    alone = sweep_table(swept.sel(scaling="original", size=["64x64", "128x128"]).assign_coords(size=[64, 128]))
    kept = ["layer", "multiplier", "entropy", "drift"]
    assert alone[kept].equals(one.loc[one["scaling"] == "original", kept].reset_index(drop=True))
    assert not np.allclose(one["entropy"], rows["entropy"], atol=0.1)
