"""The drift from the training size, against what was put into synthetic Datasets and against plain numpy."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from entropylab.errors import EntropyLabError
from entropylab.law.drift import MEAN, drift, training_size
from entropylab.law.theory import fraction_removed

from ..datasets import BOTH, own_log_tokens, own_mean, synthetic, under_both

DS = synthetic(steps=2, samples=2)


def test_the_fraction_removed_put_in_comes_out() -> None:
    rows = drift(synthetic(scalings=BOTH, removed={"sqrt_log": 0.3}))
    away = rows[rows["size"] != "64x64"]
    assert away.groupby("scaling")["fraction_removed"].agg(["min", "max"]).loc["sqrt_log"].values == pytest.approx(
        0.3, abs=1e-4
    )
    assert (away[away["scaling"] == "original"]["fraction_removed"] == 0).all()
    home = rows[rows["size"] == "64x64"]
    assert home["drift"].abs().max() < 1e-6
    assert home[home["scaling"] == "original"]["fraction_removed"].isna().all()
    np.testing.assert_allclose(away["absolute_fraction_removed"], away["fraction_removed"], atol=1e-9)


def test_drift_and_normalised_entropy_by_plain_numpy() -> None:
    ds = under_both()
    rows = drift(ds).set_index(["layer", "scaling", "size"])
    original, rescaled = (own_mean(ds.isel(scaling=[number])) for number in (0, 1))
    home = original[2]
    row = rows.loc[(MEAN, "sqrt_log", "128x128")]
    before, after = original[4] - home, rescaled[4] - home
    assert row["entropy"] == pytest.approx(rescaled[4].mean(), abs=1e-6)
    assert row["reference"] == pytest.approx(home.mean(), abs=1e-6)
    assert row["normalised_entropy"] == pytest.approx(rescaled[4].mean() / own_log_tokens(ds)[4], abs=1e-6)
    assert row["drift"] == pytest.approx(after.mean(), abs=1e-6)
    assert row["drift_error"] == pytest.approx(stats.sem(after), abs=1e-6)
    fraction = 1 - after.mean() / before.mean()
    assert row["fraction_removed"] == pytest.approx(fraction, abs=1e-6)
    others = [np.arange(6) != left for left in range(6)]
    jackknife = [1 - after[keep].mean() / before[keep].mean() for keep in others]
    error = (5 / 6 * np.sum((jackknife - np.mean(jackknife)) ** 2)) ** 0.5
    assert row["fraction_removed_error"] == pytest.approx(error, rel=0.02)
    assert row["drift_error"] != pytest.approx(stats.sem(rescaled[4]), rel=0.1), "samples are paired by their seeds"


def test_too_much_is_more_than_one_and_opposite_drifts_do_not_cancel() -> None:
    rows = drift(synthetic(scalings=BOTH, removed={"sqrt_log": 1.2})).set_index(["layer", "scaling", "size"])
    row = rows.loc[(MEAN, "sqrt_log", "32x32")]
    assert row["fraction_removed"] == pytest.approx(1.2, abs=1e-4)
    assert row["absolute_fraction_removed"] == pytest.approx(0.8, abs=1e-4)
    ds = synthetic(scalings=BOTH)
    sign = xr.where(ds["block"] == "mid_block", -4.0, 1.0)
    home = ds["entropy"].isel(size=2)
    mirrored = drift(ds.assign(entropy=(home + sign * (ds["entropy"] - home)).transpose(*ds["entropy"].dims)))
    row = mirrored.set_index(["layer", "scaling", "size"]).loc[(MEAN, "original", "32x32")]
    assert row["drift"] == pytest.approx(0, abs=1e-5)
    assert row["absolute_drift"] > 1


def test_what_a_rule_should_remove_by_the_sensitivity_at_the_training_size() -> None:
    ds = under_both()
    factor = np.sqrt(np.log(ds["tokens"]) / np.log(ds["train_tokens"]))
    multiplier = xr.concat([xr.ones_like(factor), factor], "scaling").transpose("size", "scaling", "layer")
    ds = ds.assign_coords(multiplier=multiplier.drop_vars(["tokens", "train_tokens"], errors="ignore"))
    ds["sensitivity"] = 0.5 * ds["sigma2"]
    rows = drift(ds).set_index(["layer", "scaling", "size"])
    for layer in (str(ds["layer"].values[0]), MEAN):
        row, before = (rows.loc[(layer, scaling, "128x128")] for scaling in BOTH[::-1])
        chosen = ds["kind"].values == "self" if layer == MEAN else ds["layer"].values == layer
        variance = ds["sensitivity"].isel(size=2, scaling=0, layer=chosen).mean("head")
        log_m = np.log(ds["multiplier"].isel(size=4, scaling=1, layer=chosen))
        wanted = float((variance * log_m).mean()) / before["drift"]
        assert row["predicted_fraction"] == pytest.approx(wanted, rel=1e-5)
        assert before["predicted_fraction"] == 0
    row = rows.loc[(str(ds["layer"].values[0]), "sqrt_log", "96x64")]
    law = fraction_removed(0.4, row["train_tokens"], 1.0)  # sigma^2 of the block is 0.8, the slope 1
    assert row["predicted_fraction"] == pytest.approx(law, abs=0.02)
    assert np.isnan(rows.loc[(MEAN, "sqrt_log", "64x64")]["predicted_fraction"])
    assert "predicted_fraction" not in drift(ds.drop_vars("sensitivity"))


def test_the_training_size_is_found() -> None:
    ds = synthetic(sizes=((32, 32), (32, 128), (64, 64), (128, 32)))
    assert training_size(ds) == "64x64", "of sizes with as many tokens the squarest"
    assert training_size(ds.isel(size=[0, 3])) == "128x32"
    assert training_size(ds, 32) == training_size(ds, (32, 32)) == training_size(ds, "32x32") == "32x32"


def test_sizes_by_their_sides() -> None:
    """As somebody may call them who wants numbers on an axis."""
    ds = under_both().isel(size=[1, 2, 3])
    found = drift(ds.assign_coords(size=[48, 64, 96]))
    pd.testing.assert_frame_equal(found.drop(columns="size"), drift(ds).drop(columns="size"))
    assert found["size"].unique().tolist() == ["48", "64", "96"]


@pytest.mark.parametrize(
    ("ds", "options", "message"),
    [
        (synthetic(train=96).isel(size=[0, 1]), {}, r"train_size must be named: no size with T = 576, 144, 36 tokens"),
        (DS.drop_vars("train_tokens"), {}, "train_size must be named: .*T is not in the Dataset"),
        (DS, {"train_size": 40}, "train_size must be one of those measured.* Got 40"),
        (DS.assign_coords(scaling=["sqrt_log"]), {}, 'scaling "original" too'),
        (DS.isel(size=2), {}, "sizes beside the training size"),
    ],
)
def test_what_has_no_drift(ds: xr.Dataset, options: dict, message: str) -> None:
    with pytest.raises(EntropyLabError, match=message):
        drift(ds, **options)
