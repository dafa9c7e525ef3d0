"""The fit of the law, against what was put into synthetic Datasets."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure

from entropylab import plot, simulate_dataset
from entropylab.errors import EntropyLabError
from entropylab.law import BOUNDED, CLUSTERED, fit
from entropylab.law.averages import image_part, log_tokens
from entropylab.law.check import check
from entropylab.law.compare import compare
from entropylab.law.drift import drift

from ..datasets import BOTH, NOISY, SIZES, own_log_tokens, own_mean, synthetic
from ..joint_run import flux_run

SIGMA2 = (0.8, 1.4, 2.0, 1.2, 0.6)


def test_every_layer_head_and_step_gets_the_line_put_in() -> None:
    ds = synthetic(slope=0.93, steps=2)
    result = fit(ds)
    assert (result.slope, result.r_squared) == pytest.approx((0.93, 1), abs=1e-6)
    assert result.intercept == pytest.approx(-np.mean(SIGMA2) / 2, abs=1e-5)
    assert abs(result.residuals).max() < 1e-5
    by_layer = fit(ds, by="layer")
    np.testing.assert_allclose(by_layer.intercept, -np.array(SIGMA2) / 2, atol=1e-5)
    assert by_layer.slope.dims == ("layer",)
    assert by_layer.slope["block"].values.tolist()[2] == "mid_block"
    assert fit(ds.isel(layer=4)).slope == pytest.approx(by_layer.slope.values[2])
    both = fit(ds, by=("layer", "head"))
    expected = ds["sigma2"].isel(size=0, scaling=0, branch=0, sample=0, step=0, layer=ds["kind"].values == "self")
    np.testing.assert_allclose(both.intercept, -expected / 2, atol=1e-5)
    assert np.isnan(both.slope.values).sum() == 8, "the four missing heads of each of two layers have no line"
    assert len(both.to_frame()) == 32 == result.dataset.attrs["heads"]
    assert fit(ds, by="step").slope.shape == (2,)
    assert fit(ds, by="head").slope.values == pytest.approx(0.93, abs=1e-5)
    zeros = ds.assign(entropy=ds["entropy"].fillna(0))
    assert fit(zeros).intercept != pytest.approx(result.intercept, abs=0.05), "padding is never counted"


def test_deficit_and_law_from_measured_sigma2() -> None:
    ds = synthetic(cumulants=True)
    result = fit(ds)
    x, h = own_log_tokens(ds), own_mean(ds).mean(1)
    np.testing.assert_allclose(result.deficit, x - h, atol=1e-6)
    np.testing.assert_allclose(result.half_sigma2, np.full(len(SIZES), np.mean(SIGMA2) / 2), atol=1e-6)
    np.testing.assert_allclose(result.law, x - np.mean(SIGMA2) / 2, atol=1e-6)
    np.testing.assert_allclose(result["series"], h, atol=1e-5)
    assert abs(result.law - h).min() > 0.01, "without the third and fourth cumulant the law is off"
    np.testing.assert_allclose(result["freezing"], np.mean(SIGMA2) / (2 * x), atol=1e-6)
    assert result.overall("half_sigma2") == pytest.approx(0.6, abs=1e-6)
    assert log_tokens(ds).attrs["units"] == "nats"
    bare = fit(ds.drop_vars("sigma2"))
    assert bare.slope == pytest.approx(result.slope)
    with pytest.raises(EntropyLabError, match="'half_sigma2' is not in this fit"):
        _ = bare.half_sigma2


@pytest.mark.parametrize("dims", [("branch", "step", "head"), ("sample",)])
def test_averaging_beforehand_changes_no_slope(dims: tuple[str, ...]) -> None:
    whole, part = fit(synthetic(**NOISY)), fit(synthetic(**NOISY, average=dims))
    assert part.slope == pytest.approx(whole.slope, abs=1e-5)
    assert part.intercept == pytest.approx(whole.intercept, abs=1e-5)
    assert part.errors == (BOUNDED if "sample" in dims else CLUSTERED)
    assert part.dataset.attrs["samples"] == 6
    assert (part["entropy_error"] >= whole["entropy_error"] - 1e-6).all(), "of averaged samples a bound is given"
    if "sample" not in dims:
        assert part.slope_error == pytest.approx(whole.slope_error, rel=1e-3)


def test_kinds_and_scalings() -> None:
    ds = synthetic(scalings=("sqrt_log", "original"), removed={"sqrt_log": 0.25})
    assert fit(ds).slope == pytest.approx(1, abs=1e-5)
    assert fit(ds).dataset.attrs["scaling"] == "original"
    assert fit(ds, scaling="sqrt_log").slope == pytest.approx(0.75, abs=1e-5)
    assert fit(ds.sel(scaling=["sqrt_log"])).slope == pytest.approx(0.75, abs=1e-5)
    assert fit(ds.sel(scaling="sqrt_log")).dataset.attrs["scaling"] == "sqrt_log"
    mixed = fit(ds, kind=("self", "cross"))
    assert (mixed.dataset.attrs["kind"], mixed.dataset.attrs["layers"]) == ("self, cross", 10)
    assert mixed.intercept != pytest.approx(fit(ds).intercept, abs=0.1)


def test_a_layer_that_was_selected_is_the_same_layer() -> None:
    """With all that measured ones know of layers; its dim is gone, and comes back."""
    ds = synthetic(samples=3, steps=1, **NOISY).isel(layer=[0, 2])
    parts = {name: ("layer", ["all"] * 2) for name in ("part", "module")}
    ds = ds.assign_coords(**parts, multiplier=(("size", "layer"), np.ones((len(SIZES), 2))))
    single, whole = ds.isel(layer=1), ds.isel(layer=[1])
    for found in (lambda ds: fit(ds, by="layer"), check, lambda ds: compare(ds, whole)):
        assert found(single)._repr_html_() == found(whole)._repr_html_()
        one, other = (found(each).to_dataset().transpose("layer", ...) for each in (single, whole))
        xr.testing.assert_identical(one, other)


def test_joined_lazy_and_loose_datasets_give_what_one_measurement_does() -> None:
    ds = synthetic(steps=1, samples=4, scalings=BOTH, removed={"sqrt_log": 0.3}, **NOISY)
    ds = ds.assign_coords(multiplier=(("size", "scaling", "layer"), np.full((len(SIZES), 2, 10), [[1.0], [1.1]])))
    halves = [
        ds.isel(sample=part).assign_coords({name: ds[name] * factor for name in ("tokens", "train_tokens")})
        for part, factor in (([0, 1], 0.75), ([2, 3], 1.25))  # prompts of other lengths
    ]
    joined = xr.concat(halves, "sample", data_vars="minimal", coords="different", compat="equals")
    loose = [joined, ds.reset_coords(), ds.drop_vars(["height", "width"])]
    if find_spec("dask"):
        loose.append(ds.chunk({"sample": 1}))
    assert "sample" in joined["tokens"].dims and "sample" in joined["train_tokens"].dims
    for each in loose:
        assert fit(each).summary() == fit(ds).summary()
        pd.testing.assert_frame_equal(check(each).layers(), check(ds).layers())
        pd.testing.assert_frame_equal(drift(each)[["drift"]], drift(ds)[["drift"]])
        assert plot.entropy_vs_tokens(each, Figure().subplots())
    rescaled = ds.sel(scaling="sqrt_log")
    assert fit(rescaled.reset_coords()).dataset.attrs["scaling"] == "sqrt_log"
    assert fit(rescaled.drop_vars("scaling")).dataset.attrs["scaling"] == "unknown"
    assert fit(ds.sel(scaling="original", drop=True)).dataset.attrs["scaling"] == "original"


def test_a_head_that_comes_and_goes_is_left_out_and_told() -> None:
    broken = synthetic()
    assert fit(broken).dataset.attrs["left_out"] == 0
    broken["entropy"][2:, ..., 4, 0] = np.nan
    result = fit(broken)
    assert result.slope == pytest.approx(1, abs=1e-5)
    assert result.dataset.attrs["left_out"] == 1


DS = synthetic(steps=2, samples=2)


@pytest.mark.parametrize(
    ("ds", "options", "message"),
    [
        ([1, 2], {}, "must be an xarray.Dataset.* Got list"),
        (xr.Dataset({"a": 1}), {}, "missing entropy, tokens, layer, kind, size"),
        (DS.drop_vars("tokens"), {}, "missing tokens"),
        (DS.mean("layer"), {}, "missing tokens, layer, kind"),
        (DS.drop_vars("scaling"), {}, "missing scaling"),
        (DS.isel(size=[]), {}, "at least one size. Got none"),
        (DS.isel(size=0), {}, "at least two sizes with different N.* Got 32x32"),
        (DS, {"kind": "joint"}, "kind='joint': .* It has: cross, self"),
        (DS, {"kind": ("self", "corss")}, "kind must be of self, .* Got .'self', 'corss'."),
        (DS, {"kind": "image"}, "no joint layers in which rows and keys of the image are told apart"),
        (DS, {"kind": ("image", "self")}, "kind='image' stands alone, for it is of other keys"),
        (DS, {"scaling": "sqrt_log"}, "scaling must be one of those measured: original. Got 'sqrt_log'"),
        (DS, {"method": "lasso"}, "method must be one of least_squares, weighted, theil_sen. Got 'lasso'"),
        (DS, {"errors": "bootstrap"}, r"one of \['clustered', 'ordinary'\]. Got 'bootstrap'"),
        (DS, {"errors": "bounded"}, "of 2 samples apart .* Got 'bounded'"),
        (DS.isel(sample=[0]), {"errors": "clustered"}, r"of 1 samples not apart.*one of \['ordinary'\]"),
        (DS, {"errors": "ordinary", "method": "theil_sen"}, r"one of \['clustered'\]"),
        (DS.isel(sample=[0]), {"method": "weighted"}, "standard errors over samples that weights can be had from"),
        (DS, {"by": "size"}, r"by must be .* Got \['size'\]"),
        (DS.mean("step", keep_attrs=True), {"by": "step"}, r"\['layer', 'head', 'branch'\]. Got \['step'\]"),
        (DS.assign(entropy=DS["entropy"] * np.nan), {}, "must be finite"),
        (DS.assign_coords(tokens=DS["tokens"] * 0), {}, "ds.tokens must be positive"),
        (DS.isel(layer=[0, 1, 0]), {}, "names each layer once. Got 'unet.down_blocks.*' more than once"),
        (DS.isel(size=[0, 1, 0]), {}, "names each size once. Got '32x32' more"),
        (DS.isel(scaling=[0, 0]), {}, "names each scaling once. Got 'original' more than once"),
        (xr.concat([DS, DS * 2], "model"), {}, r"not several along model: .* as with ds.isel\(model=0\)"),
        (DS.isel(size=[0, 1]).swap_dims(size="height"), {}, r"names each size once. Got size\(height\)"),
    ],
)
def test_what_can_not_be_fitted(ds: xr.Dataset, options: dict, message: str) -> None:
    with pytest.raises(EntropyLabError, match=message):
        fit(ds, **options)


def test_a_dimension_of_one_is_no_average() -> None:
    assert fit(DS.expand_dims(model=["one"])).slope == fit(DS).slope


# What a fit says of itself, hands out and predicts.


def test_what_is_not_known_is_not_shown_as_a_number() -> None:
    two = synthetic(**NOISY).isel(size=[0, 2])
    assert fit(two).slope_error > 0
    bare = fit(two.isel(sample=[0]))
    assert np.isnan(bare.slope_error), "two points leave nothing to estimate an error from"
    for text in (bare.summary(), repr(bare)):
        assert "not known" in text and "nan" not in text.lower()


def test_html_has_short_names_and_no_markup_of_others() -> None:
    ds = synthetic(**NOISY, cumulants=True).assign_attrs(model="<b>")
    for result in (fit(ds, by="layer"), check(ds)):
        page = result._repr_html_()
        assert '<span title="unet.mid_block.attentions.0.transformer_blocks.0.attn1">mid</span>' in page
        assert "&lt;b&gt;" in page and "<b>" not in page


def test_tables_files_and_predictions(tmp_path: Path) -> None:
    result = fit(synthetic(**NOISY), by=("layer", "head"))
    data = result.to_dataset()
    assert all(variable.attrs["long_name"] and variable.attrs["units"] for variable in data.data_vars.values())
    data.to_netcdf(tmp_path / "fit.nc", engine="h5netcdf")
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "fit.nc", engine="h5netcdf")["slope"], data["slope"])
    data["slope"][:] = 0
    assert (result.to_frame()["slope"] > 0.5).all(), "what was handed out is a copy"
    one = fit(synthetic(**NOISY))
    assert one.to_frame()["slope"].tolist() == [one.slope]
    assert one.predict(1) == pytest.approx(one.intercept)
    assert one.predict([100, 200]).dims == ("tokens",)
    assert result.predict([100, 200]).dims == ("layer", "head", "tokens")
    with pytest.raises(EntropyLabError, match="tokens must be a positive number"):
        one.predict(0)


def test_the_slope_that_rows_foresee_stands_beside_the_slope() -> None:
    """Of Gaussian rows of sigma 3 the slope is far from 1, entropy is convex in log N, and rows know both."""
    statistics = ("entropy", "sigma2", "slope")
    ds = simulate_dataset((64, 128, 256, 512), sigma=(0.0, 3.0), samples=12, statistics=statistics, heads=8, queries=32)
    result = fit(ds, by="layer")
    np.testing.assert_allclose(result.slope, result["predicted_slope"], atol=0.03)
    assert float(result.slope[0]) == pytest.approx(1, abs=1e-3) and float(result.slope[1]) < 0.85
    local = result["local_slope"].sel(layer="sigma 3")
    assert (np.diff(local) > 0).all()
    assert float(result["curvature"][1]) > 0
    assert "predicted_slope" not in fit(ds.drop_vars("slope")).dataset


def test_rows_that_are_not_gaussian_and_powers_of_log_n_stand_beside_the_slope() -> None:
    statistics = ("entropy", "sigma2", "gaussian", "slope", "sensitivity")
    options = {"statistics": statistics, "samples": 2, "heads": 2, "queries": 64, "d": 32}
    ds = simulate_dataset((256, 1024), sigma=(1.0, 4.0), **options)
    for lines in (fit(ds, by="layer").to_frame(), check(ds).layers()):
        lines = lines.set_index("layer")
        assert (lines["unexplained"] < 0.1).all()
        assert lines.loc["sigma 1", "power"] == pytest.approx(0.5, abs=0.03)
        assert lines.loc["sigma 4", "power"] < 0.42
        level = (ds["slope"] * np.log(ds["tokens"])).mean() / ds["sensitivity"].mean()
        assert lines.loc["sigma 1", "level_power"] > level > lines.loc["sigma 4", "level_power"]
    two = fit(simulate_dataset((256, 1024), sigma=(4.0,), distribution="clustered", **options))
    assert two.overall("unexplained") > 0.3
    assert "rows not Gaussian" in two.summary() and "keeps H / log N" in two.summary()
    assert "unexplained" in check(ds).summary() and "level_power" in check(ds).summary()
    assert "power of log N for H / log N" in check(ds)._repr_html_()
    without = fit(ds.drop_vars(["unexplained", "sensitivity"]))
    assert "unexplained" not in without.dataset and "power" not in without.dataset


def test_the_kind_that_is_there_is_taken_and_said() -> None:
    ds = synthetic(samples=2, steps=1)
    joint = ds.assign_coords(kind=("layer", np.where(ds["kind"] == "self", "joint", "cross")))
    assert fit(joint).slope == fit(joint, kind="joint").slope == fit(ds).slope
    assert fit(ds, kind=("self", "joint", "temporal")).dataset.attrs["kind"] == "self", "those that are there"
    with pytest.raises(EntropyLabError, match="in its cross layers"):
        fit(ds.isel(layer=ds["kind"].values == "cross"))


# The image's part of joint layers, kind "image": the law where it can be meant.


def test_image_rows_among_image_keys_are_fitted_checked_drawn_and_drift() -> None:
    ds = flux_run()
    rows = ds.isel(layer=np.flatnonzero((ds.kind == "joint") & (ds.part == "image")))
    keys = rows.keys_image.astype(float).mean([dim for dim in rows.keys_image.dims if dim not in ("size", "layer")])
    assert keys.transpose("size", "layer").values.tolist() == [[48.0] * 3, [100.0] * 3, [256.0] * 3]
    part = rows[["entropy_image", "sigma2_image"]].rename(entropy_image="entropy", sigma2_image="sigma2")
    part = part.assign_coords(tokens=keys, kind=("layer", ["self"] * 3))
    found, own = fit(ds, kind="image"), fit(part)
    assert (found.slope, found.intercept) == pytest.approx((own.slope, own.intercept), abs=1e-12)
    assert found.slope != pytest.approx(fit(ds, kind="joint").slope, abs=1e-3)
    residuals = [check(each, kind=kind)["law_residual"].values for each, kind in ((ds, "image"), (part, "self"))]
    np.testing.assert_allclose(*residuals, atol=1e-12)
    assert "third and fourth cumulant are of all keys" in check(ds, kind="image").summary()
    assert image_part(ds)["train_tokens"].values.tolist() == [4096.0] * 3
    size = str(ds["size"].values[0])
    for draw in (plot.entropy_vs_tokens, plot.law_residual, plot.phase):
        ax = draw(ds, Figure().subplots(), kind="image")
        assert ax.get_legend() is not None
        assert draw is not plot.entropy_vs_tokens or "N, keys of the image" in ax.get_xlabel()
        assert draw is not plot.entropy_vs_tokens or "within the keys of the image" in ax.get_ylabel()
    assert plot.heads(ds, Figure().subplots(), kind="image", size=size).collections
    assert set(drift(ds, size, kind="image")["layer"]) - {"mean"} == set(rows.layer.values.tolist())
