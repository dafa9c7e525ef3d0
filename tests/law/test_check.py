"""The check of the law, against Datasets whose truth is known."""

import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from entropylab import EntropyLabError, check, simulate_dataset
from entropylab.law.theory import TOLERANCE, row_entropy

from ..datasets import NOISY, SIZES, SMALL, synthetic, thinned


def test_law_and_series_from_what_was_put_in() -> None:
    ds = synthetic(cumulants=True)
    found = check(ds)
    sigma2 = found["sigma2"]
    np.testing.assert_allclose(found["law_residual"], -sigma2 / 30 - sigma2 / 80, atol=1e-5)
    np.testing.assert_allclose(found["third_order_residual"], -sigma2 / 80, atol=1e-5)
    np.testing.assert_allclose(found["series_residual"], 0 * sigma2, atol=1e-5)
    np.testing.assert_allclose(found["correction"], found["law_residual"], atol=1e-5)
    np.testing.assert_allclose(found["freezing"], sigma2 / (2 * found["log_tokens"]), rtol=1e-6)
    np.testing.assert_allclose(found["deficit"], found["log_tokens"] - found["entropy"])
    layers = found.layers()
    np.testing.assert_allclose(layers["explained"], 1, atol=1e-3)
    broken = check(ds.assign(fourth=-ds["fourth"])).layers()
    assert (abs(broken["explained"] - 1) > 0.2).all()
    bare = check(synthetic())
    assert not bare.has_series and "skewed" not in bare.dataset
    assert "third_order" in check(ds.drop_vars("fourth")).dataset


def test_law_and_series_are_linear_and_gaussian_rows_are_not() -> None:
    ds = synthetic(cumulants=True, **NOISY, sigma2=(0.8, 1.4, 2.0, 1.2, 0.6))
    ds["sigma2"] = ds["sigma2"] * (1 + 0.5 * ds["sample"] / 6)
    before, after = check(ds), check(ds.mean(["sample", "step", "branch"], keep_attrs=True))
    for name in ("law", "series", "law_residual", "series_residual"):
        np.testing.assert_allclose(before[name], after[name], rtol=1e-5, atol=1e-5)
    assert abs(before["gaussian"] - after["gaussian"]).max() > 0.005, "of means it is another, as is said"


def test_only_residuals_of_gaussian_rows_vanish_and_intervals_hold_the_truth() -> None:
    """Independent Gaussian logits: a replicate of the whole measurement in the place of each layer."""
    rng, number = np.random.default_rng(256), 200
    own = 1.2 * np.exp(0.1 * rng.standard_normal((1, 6, number, 1, 1)))  # samples differ in sigma, as pictures do
    logits = own * rng.standard_normal((1, 6, number, 16, 256))
    data = {name: of.mean(-1) for name, of in (("entropy", row_entropy(logits)), ("sigma2", logits.var(-1)))}
    coords = {
        "size": ["one"],
        "layer": [str(i) for i in range(number)],
        "kind": ("layer", ["self"] * number),
        "tokens": (("size", "layer"), np.full((1, number), 256.0)),
    }
    found = check(xr.Dataset({name: (("size", "sample", "layer"), value) for name, value in data.items()}, coords))
    law, gaussian = (found[f"{name}_residual"].values.ravel() for name in ("law", "gaussian"))
    assert abs(gaussian.mean()) < 0.005
    assert law.mean() > max(0.012, 5 * stats.sem(gaussian)), "the law itself is off"
    off, reach = abs(law - law.mean()), stats.t.ppf(0.975, 5) * found["law_residual_error"].values.ravel()
    assert 0.90 <= np.mean(off < reach) <= 0.98
    assert np.mean(off < reach / 6**0.5) < 0.75, "an error of the mean taken for that of one"


def test_errors_where_samples_were_averaged_are_the_largest_that_they_can_be() -> None:
    ds = synthetic(cumulants=True, **NOISY)
    rng = np.random.default_rng(0)
    for name in ("sigma2", "third"):
        ds[name] = ds[name] * (1 + 0.1 * rng.standard_normal(ds.sizes["sample"]))[:, None, None, None]
    kept, bound = check(ds), check(thinned(ds, ("branch", "step", "sample")))
    for name in ("law", "third_order", "series"):
        own, most = kept[f"{name}_residual_error"], bound[f"{name}_residual_error"]
        assert float((most - own).min()) >= -1e-6
        assert float(most.max()) < 4 * float(own.max())
    assert bound["gaussian_residual_error"].isnull().all()
    assert check(ds.isel(sample=[0]))["law_residual_error"].isnull().all()


def test_dims_that_were_averaged_and_a_single_size() -> None:
    ds = synthetic(cumulants=True)
    whole = check(ds)
    headless = check(ds.mean("head", keep_attrs=True))
    np.testing.assert_allclose(headless["law_residual"], whole["law_residual"].mean("head"), atol=1e-5)
    single = check(ds.sel(size="64x64"))
    assert single["law"].sizes["size"] == 1
    np.testing.assert_allclose(single["law"].isel(size=0), whole["law"].sel(size="64x64"))
    assert len(single.smallest()) == 5
    assert check(ds, kind=("self", "cross")).dataset.sizes["layer"] == 10
    assert len(whole.to_frame()) == 32 * len(SIZES), "no row for the padding of heads"
    assert not bool(whole["near_freezing"].where(whole["entropy"].isnull(), False).any())


def test_a_check_describes_itself() -> None:
    found = check(simulate_dataset((64, 512), sigma=(0.5, 1.5), distribution="clustered", **SMALL))
    assert "2 self layers and 4 heads" in found.summary() and "sigma 1.5" in found.summary()
    assert found.slope() < 0.8
    assert found.slope(unflagged=True) == pytest.approx(1, abs=0.1)
    with pytest.raises(FrozenInstanceError):
        found.dataset = xr.Dataset()  # type: ignore[misc]
    uniform = check(simulate_dataset((64, 256), sigma=0.0, **SMALL))
    assert (uniform.flags == "").all()
    np.testing.assert_allclose(uniform["law_residual"], 0, atol=1e-5)
    assert "a = not known" in uniform.summary()
    with pytest.raises(EntropyLabError, match="must be a Dataset from entropylab.measure"):
        check(uniform.to_dataset())


def test_what_is_rarefied_from_nothing_is_not_known() -> None:
    one = simulate_dataset((64,), statistics=("entropy", "sigma2", "rarefied"), **SMALL)  # N the same, as in cross
    ds = xr.concat(
        [one, one.assign_coords(size=["another"])], "size", data_vars="minimal", coords="minimal", compat="override"
    )
    assert "fewer keys off by:      not known" in check(ds).summary()


def test_what_can_not_be_checked() -> None:
    ds = synthetic(steps=1, samples=2)
    with pytest.raises(EntropyLabError, match="ds must hold sigma2.* Got "):
        check(ds.drop_vars("sigma2"))
    with pytest.raises(EntropyLabError, match="every statistic along the dims of entropy"):
        check(ds.assign(sigma2=ds["sigma2"].isel(size=0, drop=True)))


def test_groups_of_layers_are_the_layers_of_the_check() -> None:
    found = check(synthetic(cumulants=True, **NOISY))
    residual = abs(found["law_residual"])
    own = found.grouped()
    np.testing.assert_allclose(own["law_off"], residual.mean(["head", "size"]))
    np.testing.assert_allclose(own["law_worst"], residual.max(["head", "size"]))
    np.testing.assert_allclose(found.layers()["law_off"], own["law_off"])
    never = synthetic(cumulants=True)
    never["entropy"][..., 0, :] = np.nan
    layers = check(never).layers()
    assert len(layers) == 5 and layers.loc[1:, "law_off"].notna().all()
    assert layers.loc[0, ["deficit", "law_off", "explained", "skewed"]].isna().all(), "a layer that never ran"
    heads = found.grouped(["layer", "head"])
    assert len(heads) == 32
    assert heads["law_off"].nunique() > len(own)
    assert found.grouped(("layer", "head", "size"))["rows"].eq(1).all()
    with pytest.raises(EntropyLabError, match="by must be some of layer, size, each once. Got 'head'"):
        check(synthetic().mean("head", keep_attrs=True)).grouped("head")


# What rows foresee.


def foreseen(**settings: object) -> xr.Dataset:
    options = {"statistics": ("entropy", "sigma2", "gaussian", "slope", "rarefied"), "queries": 64, "heads": 2, "d": 16}
    return simulate_dataset((64, 128, 256, 1024), samples=4, **{**options, **settings})


@pytest.mark.parametrize("distribution", ["gaussian", "clustered"])
def test_rarefaction_and_slopes_hold_of_exchangeable_keys_where_the_law_does_not(distribution: str) -> None:
    found = check(foreseen(sigma=(1.0, 4.0), distribution=distribution))
    layers = found.layers().set_index("layer")
    np.testing.assert_allclose(found["rarefied_residual"].sel(size=["8x16", "16x16"]), 0, atol=0.25)
    assert abs(layers["rarefied_bias"]).max() < 0.08
    np.testing.assert_allclose(layers["slope"], layers["predicted_slope"], atol=0.05)
    assert layers.loc["sigma 4", "law_bias"] > 2
    if distribution == "gaussian":
        assert layers.loc["sigma 4", "slope"] < 0.75, "far from 1, as foreseen"
        assert abs(layers["gaussian_bias"]).max() < 0.05
    else:
        assert abs(layers["gaussian_bias"]).max() > 0.1, "these are not Gaussian"
    assert found["rarefied_residual"].sel(size="32x32").isnull().all(), "the largest size foresees, and is not foreseen"


def test_rarefaction_is_read_between_the_parts_that_were_measured() -> None:
    """Of uniform attention it is log N at every size between the parts; below a sixteenth there is none."""
    ds = simulate_dataset((16, 100, 300, 1024), sigma=0.0, statistics=("entropy", "sigma2", "rarefied"), **SMALL)
    found = check(ds).dataset["rarefied"].isel(layer=0, head=0)
    np.testing.assert_allclose(found, [np.nan, np.log(100), np.log(300), np.nan], atol=2e-3)
    off = ds.assign(rarefied_quarter=ds["rarefied_quarter"] + 1)
    assert abs(check(off).dataset["rarefied"].isel(layer=0, head=0) - found).max() > 0.5


def test_biases_in_errors_over_samples() -> None:
    ds = foreseen(sigma=(1.0, 4.0))
    layers = check(ds).layers()
    residual = (ds["entropy"] - ds["gaussian"]).squeeze("scaling").mean(["size", "head"])
    error = residual.std("sample", ddof=1) / residual.sizes["sample"] ** 0.5
    np.testing.assert_allclose(layers["gaussian_bias"], residual.mean("sample"), atol=1e-6)
    np.testing.assert_allclose(layers["gaussian_z"], residual.mean("sample") / error, rtol=1e-4)
    assert "gaussian_z" not in check(ds.isel(sample=[0])).summary(), "of one sample it is not known"


def test_in_joint_layers_the_image_alone_is_thinned_and_their_kind_is_the_default() -> None:
    """60 of N keys are text. Uniform rows among a half of the image's keys have log(60 + half of the others)."""
    tokens = np.array([124.0, 188.0, 316.0, 572.0])
    ds = simulate_dataset((64, 128, 256, 512), sigma=0.0, statistics=("entropy", "sigma2", "rarefied"), **SMALL)
    ds = ds.assign_coords(tokens=(("size", "layer"), tokens[:, None]), kind=("layer", ["joint"]))
    log = ds["entropy"] * 0 + np.log(ds["tokens"])
    parts = {
        f"rarefied_{name}": log * 0 + np.log(60 + 512 / n) for name, n in (("half", 2), ("quarter", 4), ("eighth", 8))
    }
    ds = ds.assign(entropy=log, keys_image=log * 0 + ds["tokens"] - 60, **parts)
    found = check(ds)
    assert found.dataset.attrs["kind"] == "joint"
    np.testing.assert_allclose(found["rarefied_residual"].isel(size=slice(3)), 0, atol=1e-5)
    alone = check(ds.drop_vars("keys_image"))
    assert abs(alone["rarefied_residual"].isel(size=slice(3))).max() > 0.1


# Flags.


def test_what_is_not_flagged_is_within_the_tolerance_and_what_is_off_is_flagged() -> None:
    off = {True: [], False: []}
    for distribution in ("gaussian", "skewed", "clustered", "positional", "low_rank"):
        ds = simulate_dataset((64, 512), sigma=(0.3, 0.7, 1.0, 1.5, 2.5), distribution=distribution, **SMALL)
        found = check(ds.mean("head", keep_attrs=True))
        flags = (found.flags != "").values.ravel()
        for value, flag in zip(found["law_residual"].values.ravel(), flags, strict=True):
            off[bool(flag)].append(abs(value))
    assert len(off[False]) > 10
    assert max(off[False]) <= 1.2 * TOLERANCE
    assert np.mean(np.array(off[True]) > TOLERANCE) > 0.5, "and the flags are not up everywhere"


# The smallest N.


def bent(bend: float = 4.0, offset: float = 0.0) -> xr.Dataset:
    """H = log N - sigma2/2 + offset + bend/N in every self-attention layer and head."""
    ds = synthetic(samples=2, steps=1)
    return ds.assign(entropy=ds["entropy"] + offset + bend / ds["tokens"])


def test_the_smallest_n_is_where_the_bend_says() -> None:
    rows = check(bent(4.0)).smallest(0.1)
    sizes = np.array([16, 36, 64, 144, 256, 96, 128]) * 4
    for row, shrink in zip(rows.itertuples(), (1, 2, 4, 2, 1), strict=True):
        own = np.sort(sizes / shrink**2)
        assert row.tokens_law == own[4.0 / own <= 0.1][0]
        assert row.tokens_level == own[4.0 / own - 4.0 / own[-1] <= 0.1][0]
        assert (row.tokens_min, row.tokens_max) == (own[0], own[-1])
        assert row.off_at_largest == pytest.approx(4 / own[-1], abs=1e-5)
    wider = check(bent(4.0)).smallest(0.5)
    assert (wider["tokens_law"].fillna(1e9) <= rows["tokens_law"].fillna(1e9)).all()


def test_a_law_that_is_off_at_every_n_has_no_smallest_and_its_deficit_still_has() -> None:
    rows = check(bent(0.0, offset=0.3)).smallest(0.1)
    assert rows["tokens_law"].isna().all()
    assert (rows["size_law"] == "").all()
    assert (rows["tokens_level"] == rows["tokens_min"]).all()
    steep = check(synthetic(slope=0.3)).smallest(0.05)
    assert steep["tokens_level"].isna().all(), "the largest size alone says nothing"
    with pytest.raises(EntropyLabError, match="tolerance must be a positive number .* Got 0"):
        check(bent()).smallest(0)


def test_a_notebook_shows_every_column_under_its_own_heading() -> None:
    statistics = ("entropy", "sigma2", "gaussian")
    found = check(simulate_dataset((64, 256), sigma=(0.5, 2.0), samples=3, statistics=statistics))
    layers, page = found.layers(), found._repr_html_()
    headings, cells = (re.findall(rf"<{tag}.*?>(.*?)</{tag}>", page) for tag in ("th", "td"))
    rows = np.array(cells).reshape(len(layers), len(headings))
    for name, beside in (("law", "H − law"), ("gaussian", "H − Gaussian rows")):
        errors = headings.index(beside) + 1
        assert headings[errors] == "in errors"
        np.testing.assert_allclose(rows[:, errors].astype(float), layers[f"{name}_z"], atol=0.06)
    assert not np.allclose(layers["law_z"], layers["gaussian_z"], atol=0.5)
