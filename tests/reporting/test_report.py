"""That a report says what the data say, and what they can't tell."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import entropylab
from entropylab import check, report
from entropylab.reporting.markdown import plain
from entropylab.reporting.readings.checks import no_series

from ..datasets import NOISY, synthetic, under_both
from .reports import sections, with_sigma2


def test_every_section_is_there(two: Path) -> None:
    assert list(sections(two.with_suffix(".md").read_text(encoding="utf-8")))[1:] == [
        "What was measured",
        "The fit",
        "The deficit against N and against σ²/2",
        "The checks",
        "Drift, and what the rules remove",
        "Heads",
        "Denoising steps",
        "The phase picture",
        "Side by side",
        "Words",
    ]


def test_numbers_are_those_of_the_library(two: Path, ds: xr.Dataset) -> None:
    found = sections(two.with_suffix(".md").read_text(encoding="utf-8"))
    line = entropylab.fit(ds)
    assert f"{line.slope:.3f} ± {line.slope_error:.3f}" in found["The fit"]
    layers = check(ds).layers()
    assert f"median layer \\[nats\\] | {layers['law_off'].median():.3f} |" in found["The checks"]
    assert "sqrt\\_log removes 29% to 30% of the mean drift" in found["Drift, and what the rules remove"]
    assert f"{line.overall('deficit'):.3f}" in found["The fit"]


def test_it_tells_what_is_on_the_law_from_what_is_not(two: Path) -> None:
    found = sections(two.with_suffix(".md").read_text(encoding="utf-8"))
    level = found["The deficit against N and against σ²/2"].split("**other")
    assert "the law's prediction, in which nothing is fitted, holds" in level[0]
    assert "σ²/2 overstates how far from uniform" in level[1]
    assert "in 5 of 5 layers" in found["The checks"].split("**other")[0]
    assert "in 0 of 5 layers" in found["The checks"].split("**other")[1]


def test_what_can_not_be_told_is_said(two: Path) -> None:
    found = sections(two.with_suffix(".md").read_text(encoding="utf-8"))
    first, second = found["Denoising steps"].split("**other")
    assert "can't be told" not in first
    assert "can't be told from this run, because steps were averaged" in second
    assert "third and fourth cumulant were not measured" in found["The checks"]
    assert "The runs differ in denoising steps (3, 4)" in found["What was measured"]


def test_runs_stand_side_by_side_in_every_table(two: Path) -> None:
    text = two.with_suffix(".md").read_text(encoding="utf-8")
    headers = re.findall(r"^\| (.*) \|\n\| ---", text, flags=re.M)
    assert len(headers) >= 10
    for header in headers:
        cells = header.split(" | ")
        beside = cells[-2:] == ["synthetic", r"other \<model\> \| 2\*"]
        assert beside or cells[0] == "run", header


def test_single_size_samples_and_missing_statistics(tmp_path: Path, ds: xr.Dataset, undrawn: None) -> None:
    poor = ds.sel(size="96x96", scaling="original").isel(sample=0).drop_vars("sigma2").mean("head", keep_attrs=True)
    report(poor, tmp_path / "a.html")
    text = (tmp_path / "a.md").read_text(encoding="utf-8")
    for words in (
        "There is one size (96x96)",
        "One sample says nothing",
        "How entropy grows with N can't be told from this run, because only one size was measured",
        "Whether the deficit is σ²/2 can't be told from this run, because σ² was not measured",
        "Whether the law predicts the entropy can't be told",
        "How far entropy drifts from the training size can't be told from this run, because the training size is not",
        "How heads differ can't be told",
        "How near freezing the layers are can't be told",
    ):
        assert words in text
    assert not re.search(r"\bnan\b", text, flags=re.I)


MISSING = {
    "only the model as it is was measured (--scaling original,sqrt": lambda ds: ds.sel(scaling=["original"]),
    'scaling "original" was not measured': lambda ds: ds.sel(scaling=["sqrt_log"]),
    "the training size is not known": lambda ds: ds.drop_vars("train_tokens"),
    "The errors are those of points about a line (there is one sample)": lambda ds: ds.isel(sample=[0]),
    "Two sizes always lie on a straight line": lambda ds: ds.sel(size=["32x32", "64x64"]),
    "1 layer ran and was not measured": lambda ds: ds.assign_attrs(unmeasured='["a: sliced"]'),
    "the slope's error is not known": lambda ds: ds.isel(sample=[0]).sel(size=["32x32", "64x64"]),
}


@pytest.fixture(scope="module")
def whole() -> xr.Dataset:
    return with_sigma2(1, samples=3, steps=2)


@pytest.mark.parametrize(("words", "change"), MISSING.items())
def test_less_was_measured(
    change: Callable[[xr.Dataset], xr.Dataset], words: str, whole: xr.Dataset, tmp_path: Path, undrawn: None
) -> None:
    report(change(whole), tmp_path / "less.html")
    assert words in (tmp_path / "less.md").read_text(encoding="utf-8").replace("\\", "")


def test_nothing_is_missing_where_nothing_is(whole: xr.Dataset, tmp_path: Path, undrawn: None) -> None:
    report(whole, tmp_path / "whole.html")
    text = (tmp_path / "whole.md").read_text(encoding="utf-8").replace("\\", "")
    assert "can't be told from this run, because" not in text.replace(no_series(), "")
    assert not any(words in text for words in MISSING)


def test_samples_averaged_while_measuring(tmp_path: Path, undrawn: None) -> None:
    report(synthetic(**NOISY, average=("sample", "branch")), tmp_path / "a.html")
    assert "the errors are the largest that they can be" in (tmp_path / "a.md").read_text(encoding="utf-8")


def test_uniform_attention_is_no_evidence(tmp_path: Path, undrawn: None) -> None:
    report(synthetic(sigma2=(0, 0, 0, 0, 0), noise=1e-4, steps=1), tmp_path / "a.html")
    text = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert "all but uniform, and slope 1 is no evidence for the law" in text
    assert "σ² is 0 or unknown in every row" in text


def without(ds: xr.Dataset, names: Sequence[str] = ("entropy", "entropy_std", "sigma2"), **places: Any) -> xr.Dataset:
    """The same with no numbers at some places."""
    holed = ds.copy(deep=True)
    for name in names:
        holed[name][places] = np.nan
    return holed


OWN = [0, 2, 4, 6, 8]
"""Self-attention layers of the synthetic run."""


@pytest.mark.parametrize(
    "places",
    [{"step": 0}, {"size": [0, 1, 2, 3, 4, 5]}, {"sample": 1}, {}],
    ids=str,
)
def test_a_layer_that_ran_in_some_forwards_only_is_named_and_left_out(
    places: dict[str, Any], tmp_path: Path, undrawn: None
) -> None:
    whole = under_both(steps=2, samples=2)
    holed, whole = without(whole, layer=2, **places), whole.isel(layer=[0, 1, *range(3, 10)])
    holed_text, text = (
        report(each, tmp_path / f"{name}.html")[1].read_text(encoding="utf-8")
        for name, each in (("holed", holed), ("whole", whole))
    )
    assert f"nothing here is about them: {plain(str(holed['layer'].values[2]))}" in holed_text
    assert sections(holed_text)["The checks"].replace("holed", "whole") == sections(text)["The checks"]


@pytest.mark.parametrize(
    "holes",
    [
        {"layer": OWN, "step": 0},
        {"size": [0, 1, 2, 3, 4, 5]},
        {"scaling": 0},
        {"names": ["sigma2"]},
        {"names": ["sigma2"], "layer": 0},
    ],
    ids=str,
)
def test_a_report_of_a_run_with_holes(holes: dict[str, Any], tmp_path: Path, undrawn: None) -> None:
    assert report(without(under_both(steps=2, samples=2), **holes), tmp_path / "report.html")[0].exists()


def test_figures_of_a_run_with_holes(tmp_path: Path) -> None:
    holed = without(under_both(steps=2, samples=2), layer=2, step=0)
    assert len(report(holed.isel(size=[0, 2, 4]), tmp_path / "report.html")) > 10


def test_the_smallest_n_of_a_layer_that_ran_in_some_forwards_only_is_not_known() -> None:
    found = check(without(under_both(), layer=2, step=0)).smallest()
    assert found.drop(columns=["layer", "block", "size_law"]).iloc[1].isna().all()
    assert found["tokens_max"].drop(1).notna().all()
