"""Predictions without a fitted number, from rows whose logits are known."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import entropylab
from entropylab.law.theory import row_entropy

SIDES = (4, 8, 16)


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    """Two layers, of 64 and of 16 training tokens at 8 x 8, whose rows are Gaussian with sigma 1 and 2; float64."""
    rng = np.random.default_rng(0)
    shape, names = (len(SIDES), 2), ("entropy", "sigma2", "rarefied_half", "rarefied_quarter", "slope")
    found = {name: np.zeros(shape) for name in names}
    tokens = np.array([[side**2, side**2 // 4] for side in SIDES])
    for place, number in np.ndenumerate(tokens):
        logits = rng.normal(0, 1 + place[1], (4000, number))
        found["entropy"][place] = row_entropy(logits).mean()
        found["sigma2"][place] = logits.var(-1).mean()
        found["rarefied_half"][place] = row_entropy(logits[:, ::2]).mean()
        found["rarefied_quarter"][place] = row_entropy(logits[:, ::4]).mean()
        found["slope"][place] = 1 - 0.1 * place[1]
    coords = {
        "size": [f"{8 * side}x{8 * side}" for side in SIDES],
        "layer": ["wide", "narrow"],
        "kind": ("layer", ["self", "self"]),
        "tokens": (("size", "layer"), tokens),
        "train_tokens": ("layer", [64, 16]),
    }
    return xr.Dataset({name: (("size", "layer"), values) for name, values in found.items()}, coords)


def test_a_row_for_each_training_size_and_number_of_tokens(ds) -> None:
    rows = entropylab.plot.predictions(ds)
    assert rows["train_tokens"].drop_duplicates().tolist() == [64, 16]
    wide = rows[rows["train_tokens"] == 64]
    wide = wide.set_index(wide["log_tokens"].round(6))
    measured = ds.isel(layer=0)
    np.testing.assert_allclose(wide["entropy"].dropna(), measured["entropy"])
    np.testing.assert_allclose(wide["law"].dropna(), np.log(measured["tokens"]) - measured["sigma2"] / 2)
    below, at, above = (wide.loc[np.round(np.log(number), 6), "from_training"].max() for number in (16, 64, 256))
    assert below == measured["rarefied_quarter"][1] and at == measured["entropy"][1]
    assert above == pytest.approx(float(measured["entropy"][1]) + np.log(4) * 1.0)
    assert below == pytest.approx(float(measured["entropy"][0]), abs=0.02), "rows thinned to 16 keys are rows of 16"
    assert abs(wide["law"].min() - wide["entropy"].min()) > 0.005, "which the law is not"


def test_joint_layers_are_thinned_in_the_keys_of_the_image(ds) -> None:
    joint = ds.assign(keys_image=ds["tokens"] - 8.0).assign_coords(kind=("layer", ["joint", "joint"]))
    rows = entropylab.plot.predictions(joint, kind="joint")
    thinned = rows[rows["size"].isna() & (rows["train_tokens"] == 64)]["log_tokens"]
    np.testing.assert_allclose(sorted(np.exp(thinned)), [8 + 56 / 4, 8 + 56 / 2])


def test_what_is_drawn_is_what_the_table_says(ds) -> None:
    rows = entropylab.plot.predictions(ds)
    narrow = rows[rows["train_tokens"] == 16]
    for deficit in (False, True):
        ax = entropylab.plot.entropy_predicted(ds, plt.figure().gca(), trained=16, deficit=deficit)
        line = next(line for line in ax.get_lines() if line.get_label() == "from the rows at T alone")
        part = narrow.dropna(subset="from_training")
        wanted = part["log_tokens"] - part["from_training"] if deficit else part["from_training"]
        np.testing.assert_allclose(line.get_ydata(), wanted)
    plt.close("all")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda ds: ds.drop_vars("train_tokens"), {}, "train_tokens"),
        (lambda ds: ds, {"trained": 99}, "16, 64. Got 99"),
        (lambda ds: ds, {"kind": "cross"}, "no such layer"),
    ],
)
def test_what_can_not_be_drawn(ds, change, options, message) -> None:
    with pytest.raises(entropylab.EntropyLabError, match=message):
        entropylab.plot.entropy_predicted(change(ds), plt.figure().gca(), **options)
    plt.close("all")
