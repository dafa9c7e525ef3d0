"""The tables beside the figures of the law, of layers, of logits and of simulated attention."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import entropylab
from entropylab import EntropyLabError
from entropylab.figures import gaussian_ablation, law_checks, layers
from entropylab.figures import logits as logits_figure
from entropylab.law.checks import check
from entropylab.law.drift import MEAN

from ..datasets import synthetic


def test_tables_say_what_the_rules_do(folder: Path) -> None:
    six = pd.read_csv(folder / "figure6.csv")
    assert set(six["scaling"]) == {"original", "sqrt_log", "invariant", "calibrated"}
    sweep = pd.read_csv(folder / "sweep.csv")
    mean = sweep[sweep["layer"] == MEAN]
    assert set(mean["size"]) == {"96x64", "96x96"}
    assert set(mean["scaling"]) == {"original", "0.7", "1.5", "sqrt_log", "invariant", "calibrated"}
    falls = mean[mean["curve"]].groupby("size")["entropy"]
    assert falls.apply(lambda entropy: entropy.is_monotonic_decreasing).all(), "a larger scale, a lower entropy"
    change = pd.read_csv(folder / "samples_96x64.csv")
    assert set(change["scaling"]) == {"sqrt_log", "calibrated"}
    assert list(dict.fromkeys(change["prompt"])) == ["a red heart", "a banana", "mean"]


def test_the_ablation_says_what_leaves_the_law(folder: Path) -> None:
    rows = pd.read_csv(folder / "gaussian_ablation.csv").set_index(["distribution", "departure", "size"])
    assert len(rows) == 8
    off = abs(rows["law_residual"].xs("16x16", level="size"))
    assert off["student_t", 1.0] > 0.1 > off["low_rank", 1.0]
    assert off["student_t", 0.0] == off["low_rank", 0.0], "without any departure all are one"
    np.testing.assert_allclose(rows["fraction_under_law"], 1 / (2 * np.log(64)), rtol=0.2)
    (left, *_) = gaussian_ablation.draw(rows.reset_index()).axes
    student = next(bar for bar in left.containers if bar.get_label() == "student t")
    own = rows["law_residual"].loc["student_t"].xs("16x16", level="size")
    np.testing.assert_allclose(student.lines[0].get_ydata().astype(float), own)
    with pytest.raises(EntropyLabError, match="ds must be simulated"):
        gaussian_ablation.table(synthetic())


def test_checks_of_the_law_are_in_tables(folder: Path) -> None:
    ds = entropylab.open(folder / "law.nc")
    assert ds["size"].values.tolist() == ["96x64", "64x64", "96x96"]
    assert {"third", "fourth", "sigma2"} <= set(ds)
    table = pd.read_csv(folder / "law_checks.csv")
    np.testing.assert_allclose(table["law_residual"], check(ds).to_frame()["law_residual"], atol=1e-6)
    assert len(pd.read_csv(folder / "smallest_n.csv")) == table["layer"].nunique()
    assert len(law_checks.draw(ds.drop_vars("third")).axes) == len(law_checks.draw(ds).axes) - 1
    steps = pd.read_csv(folder / "layers.csv")
    assert set(steps["step"]) == {0}
    assert layers.draw(ds).axes[0].get_xlabel().startswith("denoising step")


def test_logits_are_those_of_the_layers(folder: Path) -> None:
    ds = entropylab.open(folder / "logits.nc")
    rows = pd.read_csv(folder / "logits.csv")
    assert rows["keys"].tolist() == [value.shape[1] for value in ds.values()]
    assert rows["layer"].tolist() == [value.attrs["layer"] for value in ds.values()]
    assert rows["layer"].iloc[0].startswith("unet.down_blocks.0")
    with pytest.raises(EntropyLabError, match="ds must hold logits"):
        logits_figure.files(synthetic(), folder)
