"""The check of the law, against Datasets whose truth is known."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from entropylab import EntropyLabError, check, fit, simulate_dataset
from entropylab.law.validity import (
    measured,
)

from ..datasets import NOISY, SIZES, SMALL, synthetic


def replicated(tokens: int, sigma: float, number: int = 200, samples: int = 6, rows: int = 16) -> xr.Dataset:
    """Independent Gaussian logits as a Dataset: a replicate of the whole measurement in the place of each layer."""
    rng = np.random.default_rng(tokens)
    cells = []
    for _ in range(number):
        # Samples differ in sigma, as pictures do.
        own = sigma * np.exp(0.1 * rng.standard_normal((samples, 1, 1)))
        found = own * rng.standard_normal((samples, rows, tokens))
        cells.append([measured(sample) for sample in found])
    names = ("entropy", "sigma2", "third", "fourth")
    data = {
        name: (("size", "sample", "layer"), np.array([[[cell[name] for cell in row] for row in cells]]).swapaxes(1, 2))
        for name in names
    }
    coords = {
        "size": ["one"],
        "sample": np.arange(samples),
        "layer": [str(i) for i in range(number)],
        "kind": ("layer", ["self"] * number),
        "tokens": (("size", "layer"), np.full((1, number), float(tokens))),
    }
    return xr.Dataset(data, coords)


@pytest.fixture(scope="module")
def many() -> xr.Dataset:
    return replicated(256, 1.2)


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


def test_without_the_third_and_fourth_there_is_no_series_and_that_is_said() -> None:
    found = check(synthetic())
    assert not found.has_series
    assert "third and fourth cumulant were not measured" in found.summary()
    assert "skewed" not in found.dataset
    with pytest.raises(EntropyLabError, match="'series' is not in this check"):
        found["series"]
    assert "third_order" in check(synthetic(cumulants=True).drop_vars("fourth")).dataset


def test_law_and_series_are_linear_and_finite_is_not() -> None:
    ds = synthetic(cumulants=True, **NOISY, sigma2=(0.8, 1.4, 2.0, 1.2, 0.6))
    ds["sigma2"] = ds["sigma2"] * (1 + 0.5 * ds["sample"] / 6)
    before, after = check(ds), check(ds.mean(["sample", "step", "branch"], keep_attrs=True))
    for name in ("law", "series", "law_residual", "series_residual"):
        np.testing.assert_allclose(before[name], after[name], rtol=1e-5, atol=1e-5)
    higher = before["finite"] - after["finite"]
    assert float(higher.max()) > 0.01
    assert float(higher.min()) > -1e-6, "of means it is too low, as is said"


def test_residuals_are_without_bias_and_only_those_of_the_finite_law_vanish(many: xr.Dataset) -> None:
    found = check(many)
    by_replicate = {name: found[f"{name}_residual"].values.ravel() for name in ("law", "finite")}
    error = stats.sem(by_replicate["finite"])
    assert abs(by_replicate["finite"].mean()) < 0.005
    assert by_replicate["law"].mean() > max(0.012, 5 * error), "the law itself is off by the finite-N term"


def test_intervals_of_residuals_hold_the_truth(many: xr.Dataset) -> None:
    found = check(many)
    value, error = (found[f"law_residual{end}"].values.ravel() for end in ("", "_error"))
    truth = value.mean()
    reach = stats.t.ppf(0.975, 5)
    assert 0.90 <= np.mean(abs(value - truth) < reach * error) <= 0.98
    assert np.mean(abs(value - truth) < reach * error / 6**0.5) < 0.75, "an error of the mean taken for that of one"


def test_errors_where_samples_were_averaged_are_the_largest_that_they_can_be() -> None:
    ds = synthetic(cumulants=True, **NOISY)
    rng = np.random.default_rng(0)
    for name in ("sigma2", "third"):
        ds[name] = ds[name] * (1 + 0.1 * rng.standard_normal(ds.sizes["sample"]))[:, None, None, None]
    flat = ds.mean(["branch", "step"], keep_attrs=True)
    averaged = flat.mean("sample", keep_attrs=True)
    for name in ("entropy", "sigma2", "third", "fourth"):
        averaged[f"{name}_m2"] = ((flat[name] - flat[name].mean("sample")) ** 2).sum("sample")
    averaged["samples"] = (("size", "scaling"), np.full((len(SIZES), 1), ds.sizes["sample"]))
    kept, bound = check(flat), check(averaged)
    for name in ("law", "third_order", "series"):
        own, most = kept[f"{name}_residual_error"], bound[f"{name}_residual_error"]
        assert float((most - own).min()) >= -1e-6
        assert float(most.max()) < 4 * float(own.max())
    assert bound["finite_residual_error"].isnull().all()
    one = check(ds.isel(sample=[0]))
    assert one["law_residual_error"].isnull().all()


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
    assert not bool(whole["small_n"].where(whole["entropy"].isnull(), False).any())


def test_a_check_describes_itself(tmp_path: object) -> None:
    found = check(simulate_dataset((64, 512), sigma=(0.5, 1.5), distribution="clustered", **SMALL))
    text = found.summary()
    for words in (
        "nothing is fitted",
        "2 self layers and 4 heads",
        "law off by:",
        "with k3 and k4:",
        "k3 and k4 explain",
    ):
        assert words in text
    assert "sigma 1.5" in text
    assert "<table" in found._repr_html_()
    assert "Check(2 layers" in repr(found)
    assert found.slope() < 0.8
    assert found.slope(unflagged=True) == pytest.approx(1, abs=0.1)
    with pytest.raises(FrozenInstanceError):
        found.dataset = xr.Dataset()  # type: ignore[misc]
    data = found.to_dataset()
    assert all(variable.attrs["long_name"] and variable.attrs["units"] for variable in data.data_vars.values())
    data.to_netcdf(f"{tmp_path}/check.nc", engine="h5netcdf")
    data["law"][:] = 0
    assert float(found["law"].min()) > 0, "what was handed out is a copy"


def test_uniform_attention_is_on_the_law_and_that_proves_little() -> None:
    found = check(simulate_dataset((64, 256), sigma=0.0, **SMALL))
    assert (found.flags == "").all()
    np.testing.assert_allclose(found["law_residual"], 0, atol=1e-5)
    assert "without a flag" in found.summary()


DS = synthetic(steps=1, samples=2)


@pytest.mark.parametrize(
    ("ds", "options", "message"),
    [
        ([1], {}, "must be an xarray.Dataset.* Got list"),
        (DS.drop_vars("sigma2"), {}, "ds must hold sigma2.* Got "),
        (DS.assign(sigma2=DS["sigma2"].isel(size=0, drop=True)), {}, "every statistic along the dims of entropy"),
        (DS.drop_vars("tokens"), {}, "missing tokens"),
        (DS, {"kind": "joint"}, "kind='joint'"),
        (DS, {"scaling": "sqrt_log"}, "scaling must be one of those measured"),
        (DS.assign(entropy=DS["entropy"] * np.nan), {}, "must be finite"),
    ],
)
def test_what_can_not_be_checked(ds: xr.Dataset, options: dict, message: str) -> None:
    with pytest.raises(EntropyLabError, match=message):
        check(ds, **options)


def test_html_has_short_names_headings_and_no_markup_of_others() -> None:
    ds = synthetic(cumulants=True, **NOISY).assign_attrs(model="<b>")
    page = check(ds)._repr_html_()
    assert "<th>log N − σ²/2</th>" in fit(ds)._repr_html_()
    assert '<span title="unet.mid_block.attentions.0.transformer_blocks.0.attn1">mid</span>' in page
    assert "law_off" not in page and "<th>law off by</th>" in page
    assert "&lt;b&gt;" in page and "<b>" not in page
