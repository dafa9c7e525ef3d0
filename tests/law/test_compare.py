"""Comparison of two measurements: what was put in comes out, with errors that hold; wrong pairs are worse."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import ttest_rel

from entropylab import EntropyLabError, compare
from entropylab.law.lines import holm

from .. import datasets
from ..datasets import SIZES, own_mean, synthetic

SHIFT = 0.03


def pair(seed: int = 0, shift: float = SHIFT, samples: int = 6, **options) -> tuple[xr.Dataset, xr.Dataset]:
    """Samples that differ by far more than the models do, and a shift in the layers of the first block only."""
    first = synthetic(
        **{"sizes": SIZES[:2], "samples": samples, "steps": 1, "sample_level": 0.3, "seed": seed} | options
    )
    noise = np.random.default_rng(1000 + seed)
    moved = shift * (first["block"] == "down_blocks.0")
    own = 0.02 * noise.standard_normal((samples, first.sizes["layer"]))
    return first, first.assign(entropy=first["entropy"] + moved + xr.DataArray(own, dims=("sample", "layer")))


def test_the_difference_that_was_put_in_against_scipy() -> None:
    first, other = pair()
    found = compare(first, other)
    values = [ds["entropy"].sel(layer=ds["kind"] == "self").isel(scaling=0) for ds in (first, other)]
    each = [one.mean("head").mean(("size", "branch", "step")).transpose("sample", "layer").values for one in values]
    expected = ttest_rel(each[1], each[0])
    np.testing.assert_allclose(found["difference"], (each[1] - each[0]).mean(0), atol=1e-6)
    np.testing.assert_allclose(found["difference_p"], expected.pvalue, rtol=1e-3)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found["difference_low"], interval.low, atol=1e-5)
    np.testing.assert_allclose(found["difference_high"], interval.high, atol=1e-5)
    np.testing.assert_allclose(found["entropy"].mean(), own_mean(first).mean(), rtol=1e-5)
    overall = found["mean_difference"].item()
    np.testing.assert_allclose(overall, (own_mean(other) - own_mean(first)).mean(), atol=1e-5)
    assert (found["unpaired_error"] > 3 * found["difference_error"]).all()


def test_intervals_hold_the_truth_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 layers that do not differ, each with noise of its own; in fives, as of 60 models of five layers."""
    monkeypatch.setattr(datasets, "BLOCKS", tuple((f"blocks.{number}", 1, 2) for number in range(300)))
    found = compare(*pair(sizes=SIZES[:1], branches=("cond",), sigma2=(1.0,) * 300))
    assert 0.91 < ((found["difference_low"] <= 0) & (found["difference_high"] >= 0)).mean() < 0.99
    false = [bool((holm(five) < 0.05).any()) for five in found["difference_p"].values.reshape(60, 5)]
    assert np.mean(false) < 0.15, "Holm: a false alarm in any layer in 5% of comparisons"


def test_pairs_are_found_by_prompt_and_seed_and_wrong_ones_are_worse() -> None:
    first, other = pair()
    order = [3, 5, 1, 0, 2, 4]
    xr.testing.assert_allclose(
        compare(first, other).dataset, compare(first, other.isel(sample=order).assign_coords(sample=range(6))).dataset
    )
    wrong = other.assign_coords({name: ("sample", other[name].values[order]) for name in ("prompt", "seed")})
    shuffled = compare(first, wrong)
    assert (shuffled["difference_error"] > 3 * compare(first, other)["difference_error"]).all()
    fewer = compare(first, other.isel(sample=[1, 2, 4], layer=slice(2, None)))
    assert (fewer.dataset.attrs["samples"], fewer.dataset.attrs["samples_left_out"]) == (3, 3)
    assert (fewer.dataset.sizes["layer"], fewer.dataset.attrs["layers_left_out"]) == (4, 1)
    half = other.copy(deep=True)
    half["entropy"][{"sample": 2, "size": 1}] = np.nan
    found, kept = compare(first, half), [0, 1, 3, 4, 5]
    assert found.dataset.attrs["samples"] == 5, "one that is not finished is none"
    whole = compare(first.isel(sample=kept), other.isel(sample=kept))
    xr.testing.assert_allclose(found["difference"], whole["difference"])


def test_two_rules_and_two_sizes_of_one_dataset() -> None:
    both = synthetic(scalings=("original", "sqrt_log"), removed={"sqrt_log": 0.3}, steps=1, samples=3)
    found = compare(both, both, scaling="original", other_scaling="sqrt_log", size=128)
    np.testing.assert_allclose(found["difference"], -0.3 * np.log(4), rtol=1e-4)
    found = compare(both, both, size=64, other_size=(128, 128))
    np.testing.assert_allclose(found["difference"], np.log(4), rtol=1e-4)
    assert (found.dataset.attrs["sizes"], found.dataset.attrs["other_sizes"]) == ("64x64", "128x128")
    chosen = [both.sel(scaling=rule, size="128x128") for rule in ("original", "sqrt_log")]
    found = compare(chosen[0], chosen[1].mean("head", keep_attrs=True))
    np.testing.assert_allclose(found["difference"], -0.3 * np.log(4), rtol=1e-4)
    found = compare(both.isel(size=[0, 1, 3]), both.isel(size=[3, 0]))
    assert found.dataset.attrs["sizes"] == found.dataset.attrs["other_sizes"] == "32x32, 96x96"
    same = compare(both, both)
    assert (same["difference"] == 0).all() and (same["difference_holm"] == 1).all()


def test_what_it_says() -> None:
    found = compare(*pair(shift=0.2))
    assert "1 of 5 layers differ at p < 0.05" in found.summary()
    assert found.to_frame()["layer"].tolist() == found["layer"].values.tolist()
    first, other = pair()
    fewer = compare(first, other.where(other["sample"] < 4))
    assert "4 pairs; left out, for only one has them: 2 samples" in fewer.summary(), "samples without numbers are none"
    assert "sampled with" not in found.summary()
    longer = compare(first, other.assign_attrs(steps=9, guidance_scale=3.0))
    assert "sampled with steps 9, not steps 1" in longer.summary(), "guidance is not known of both"
    alone = compare(*(ds.isel(sample=[0]) for ds in pair()))
    assert "one pair of samples has no error" in alone.summary()
    assert alone["difference_error"].isnull().all() and alone["difference"].notnull().all()


def test_samples_of_joined_datasets_keep_their_names() -> None:
    """Of other numbers of samples: prompts and seeds come to be along sizes too, and seeds fractions."""
    first, other = pair()
    few, many = first.isel(size=[0], sample=[0, 1]), first.isel(size=[1])
    joined = xr.concat([few, many], "size", join="outer", coords="different", compat="equals")
    assert joined["seed"].dims == ("size", "sample") and joined["seed"].dtype == float
    xr.testing.assert_identical(
        compare(joined, other)["difference"], compare(first.isel(sample=[0, 1]), other)["difference"]
    )
    elsewhere = joined.assign_coords(seed=joined["seed"] + xr.DataArray([0, 5], dims="size"))
    with pytest.raises(EntropyLabError, match="a sample must have the same seed at every size, or name one size"):
        compare(elsewhere, other)


def test_datasets_that_share_nothing() -> None:
    first, other = pair()
    cases = {
        "share a sample of the same prompt and seed": other.assign_coords(seed=other["seed"] + 100),
        "share a layer": other.assign_coords(layer=[f"other.{path}" for path in other["layer"].values]),
        "share a size": other.assign_coords(size=["1x1", "2x2"]),
        "keep samples apart": other.mean("sample", keep_attrs=True),
        "keep samples apart.* Got": other.isel(sample=[]),
    }
    for message, ds in cases.items():
        with pytest.raises(EntropyLabError, match=message):
            compare(first, ds)
    with pytest.raises(EntropyLabError, match="size must be one of those measured"):
        compare(first, other, size=7)


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, np.nan, 0.03, 0.5]), [0.04, 0.09, np.nan, 0.09, 0.5])
