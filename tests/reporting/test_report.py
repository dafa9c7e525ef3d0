"""That a report says what the data say, and what they can't tell."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import ttest_ind

import entropylab
from entropylab import check, fit, report
from entropylab.law.lines import holm
from entropylab.reporting import pictures, slope_tests
from entropylab.reporting.views import runs_of

from ..datasets import SIZES, synthetic, under_both
from .conftest import sections, with_sigma2

FIT, DEFICIT, CHECKS = "The fit", "The deficit against N and against σ²/2", "The checks"
DRIFT, STEPS, JOINT = "Drift, and what the rules remove", "Denoising steps", "Joint attention: the image's part"
UNTOLD = "can't be told"


def written(tmp_path: Path, *runs: xr.Dataset, **options: Any) -> dict[str, str]:
    """The sections of the Markdown of a report, without escapes."""
    text = report(list(runs), tmp_path / "report.html", overwrite=True, **options)[1].read_text(encoding="utf-8")
    assert not re.search(r"\b([Nn]a[Nn]|None|Undefined)\b", text)
    return {name: part.replace("\\", "") for name, part in sections(text).items()}


def test_the_answer_comes_first_and_runs_stand_side_by_side(two: Path) -> None:
    text = two.with_suffix(".md").read_text(encoding="utf-8")
    names = ["What was measured", FIT, DEFICIT, CHECKS, DRIFT, "Heads", STEPS, "The phase picture", "Side by side"]
    found, labels = sections(text), ["synthetic", r"other \<model\> \| 2\*"]
    assert list(found)[1:] == [*names, "Words"]
    assert re.findall(r"^\*\*(.*)\*\*$", found[""], flags=re.M) == labels
    assert len(re.findall("^- ", found[""], flags=re.M)) == 8, "of each run the fit, the deficit, the checks and drift"
    for header in re.findall(r"^\| (.*) \|\n\| ---", text, flags=re.M):
        cells = header.split(" | ")
        assert cells[-2:] == labels or cells[0] == "run", header
    level, checks, steps = (found[name].split("**other") for name in (DEFICIT, CHECKS, STEPS))
    assert "holds" in level[0] and "overstates" not in level[0] and "overstates" in level[1]
    assert "in 5 of 5 layers" in checks[0] and "in 0 of 5 layers" in checks[1]
    assert "The runs differ in denoising steps (2; 4)" in found["What was measured"]
    assert UNTOLD not in steps[0] and UNTOLD in steps[1], "where steps were averaged"


def test_numbers_are_those_of_the_library(two: Path, ds: xr.Dataset) -> None:
    found = sections(two.with_suffix(".md").read_text(encoding="utf-8").replace("\\", ""))
    line = fit(ds)
    for part in (found[""], found[FIT]):
        assert f"{line.slope:.3f} ± {line.slope_error:.3f}" in part
    assert f"{line.overall('deficit'):.3f}" in found[FIT]
    rows = fit(ds, by="layer").to_frame().to_dict("records")
    for name, row in zip(("down 0", "down 1", "mid", "up 0", "up 1"), rows, strict=True):
        assert f"| {name} | {row['slope']:.3f} | {row['slope_error']:.3f} |" in found[FIT]
    assert f"median layer [nats] | {check(ds).layers()['law_off'].median():.3f} |" in found[CHECKS]
    for row in line.points().to_dict("records"):
        numbers = f"{row['tokens']:.0f} | {row['log_tokens']:.3f} | {row['entropy']:.3f}"
        assert f"| {row['size']} | {numbers}" in found[DEFICIT]
    assert "| sqrt_log | 32x32 |" in found[DRIFT]
    assert re.search(r"sqrt_log removes (29% to )?30%( to 31%)?[ ,;]", found[DRIFT]), "it was made to remove 30%"


def test_branches_in_another_order_are_no_difference(tmp_path: Path, undrawn: None) -> None:
    """Guidance of one pipeline has the prompt first, that of another has it second."""
    ds = synthetic(sizes=SIZES[:2], samples=2, steps=1)
    for other, differ in ((ds.isel(branch=[1, 0]), False), (ds.isel(branch=[1]), True)):
        measured = written(tmp_path, ds, other, names=["one", "other"])["What was measured"]
        assert ("The runs differ in guidance branches (cond and uncond; cond)" in measured) == differ
        assert ("The runs differ in" in measured) == differ


@pytest.mark.parametrize(
    ("factor", "word"), [(1.02, "holds"), (1.2, "too far"), (0.8, "too near"), (4, "overstates"), (0.3, "understates")]
)
def test_one_verdict_on_the_deficit(factor: float, word: str, tmp_path: Path, undrawn: None) -> None:
    told = written(tmp_path, with_sigma2(factor, samples=2, steps=1))[DEFICIT].split(" rows. ")[1].split(".")[0]
    assert [each for each in ("holds", "too far", "too near", "overstates", "understates") if each in told] == [word]


@pytest.mark.parametrize(
    ("removed", "word"),
    [(0.2, "most of the drift stays"), (0.6, "more at some sizes"), (1, "steady"), (1.5, "too far"), (-0.2, "worse")],
)
def test_one_verdict_on_a_rule(removed: float, word: str, tmp_path: Path, undrawn: None) -> None:
    ds = under_both(removed={"sqrt_log": removed}, samples=2, steps=1, noise=0)
    told = next(line for line in written(tmp_path, ds)[DRIFT].splitlines() if line.startswith("- sqrt_log removes"))
    words = ("most of the drift stays", "more at some sizes", "steady", "too far", "worse")
    assert [each for each in words if each in told] == [word]


def test_nothing_is_removed_of_a_mean_in_which_drifts_cancel(tmp_path: Path, undrawn: None) -> None:
    """A size with about as many tokens as the training size: the mean drift is next to nothing, and divided by."""
    ds = under_both(sizes=((32, 32), (64, 64), (56, 72)), noise=0, sample_slope=0, samples=2, steps=1)
    signs = xr.DataArray([1.0, 1, -1, -1, 1, 1, -1, -1, 0.02, 0], dims="layer")
    there = (ds["size"] == "56x72") * signs * xr.where(ds["scaling"] == "original", 0.2, 0.1)
    told = written(tmp_path, ds.assign(entropy=ds["entropy"] + there))[DRIFT]
    assert "sqrt_log removes 30% of the mean drift (30% to 5" in told
    assert re.search(r"sqrt_log \| 56x72 \| .* \| – \| – \| 0\.\d+ \| 5\d%", told)


MISSING = {
    "": lambda ds: ds,
    "only the model as it is was measured": lambda ds: ds.sel(scaling=["original"]),
    'scaling "original" was not measured': lambda ds: ds.sel(scaling=["sqrt_log"]),
    "the training size is not among those": lambda ds: ds.sel(size=["32x32", "48x48", "96x96"]),
    "there is one sample": lambda ds: ds.isel(sample=[0]),
    "in samples whose number is not known. How they differ": lambda ds: ds.mean("sample", keep_attrs=True),
    "1 layer ran without being measured": lambda ds: ds.assign_attrs(unmeasured='["a: sliced"]'),
    "only one size was measured": lambda ds: ds.sel(size=["96x96"]),
    "σ² was not measured": lambda ds: ds.drop_vars("sigma2"),
    "heads were averaged": lambda ds: ds.mean("head", keep_attrs=True),
    "steps were averaged": lambda ds: ds.isel(step=0, drop=True),
    "a random subset": lambda ds: ds.assign(entropy_se=ds["entropy_std"]),
    "the largest that they can be": lambda ds: synthetic(noise=0.05, sample_level=0.1, average=("sample", "branch")),
}


@pytest.fixture(scope="module")
def whole() -> xr.Dataset:
    return with_sigma2(1, sizes=[(side, side) for side in (32, 48, 64, 96)])


@pytest.mark.parametrize(("words", "change"), MISSING.items())
def test_less_was_measured(
    change: Callable[[xr.Dataset], xr.Dataset], words: str, whole: xr.Dataset, tmp_path: Path, undrawn: None
) -> None:
    text = "".join(written(tmp_path, change(whole)).values())
    if words:
        assert words in text
    else:
        assert [known for known in MISSING if known and known in text] == []
        told = [line for line in text.splitlines() if line.startswith("- ") and UNTOLD in line and "this run" in line]
        assert told == []


def test_one_size_one_sample_and_nothing_but_entropy(tmp_path: Path, ds: xr.Dataset, undrawn: None) -> None:
    poor = ds.sel(size="96x96", scaling="original").isel(sample=0).drop_vars("sigma2").mean("head", keep_attrs=True)
    found = written(tmp_path, poor)
    for name in (FIT, DEFICIT, CHECKS, DRIFT, "Heads", "The phase picture"):
        assert UNTOLD in found[name]
        assert "\n|" not in found[name], "no empty table"
    assert UNTOLD not in found[STEPS]


def test_a_layer_alone_reads_as_a_run_of_one_layer(tmp_path: Path, undrawn: None) -> None:
    ds = with_sigma2(1, samples=2, steps=1, sizes=SIZES[:3])
    alone, one, others = (written(tmp_path, ds.isel(layer=place)) for place in (0, [0], [0, 2]))
    assert alone == one
    assert alone != others


def test_p_of_layers_is_corrected_for_their_number(ds: xr.Dataset) -> None:
    lines = runs_of([ds], None, 0.1)[0].own.lines
    np.testing.assert_allclose(lines["p"], holm(lines["slope_p"]))
    assert (lines["p"] > lines["slope_p"]).any()


def test_whether_slopes_differ_is_welchs_test() -> None:
    """Noise-free lines whose samples' slopes are drawn by hand: their mean is the slope, their spread its error."""
    rng = np.random.default_rng(0)
    drawn = [rng.normal(1, 0.1, 7), rng.normal(0.9, 0.2, 5)]
    datasets = []
    for slopes in drawn:
        ds = synthetic(samples=len(slopes), steps=1, branches=("cond",))
        level = xr.DataArray(rng.normal(size=len(slopes)), dims="sample")  # of which a slope knows nothing
        own = xr.DataArray(slopes - 1, dims="sample") * np.log(ds["tokens"])
        datasets.append(ds.assign(entropy=ds["entropy"].astype("float64") + own + level))
    views = [run.own for run in runs_of(datasets, ["a", "b"], 0.1)]
    ((one, other, p),) = slope_tests(views)
    assert (one, other) == ("a", "b")
    assert p == pytest.approx(ttest_ind(*drawn, equal_var=False).pvalue, rel=1e-4)
    assert p != pytest.approx(ttest_ind(*drawn).pvalue, rel=1e-2)


def test_heads_and_steps_at_the_training_size(ds: xr.Dataset) -> None:
    view = runs_of([ds], None, 0.1)[0].own
    own = ds.isel(layer=ds["kind"].values == "self").sel(scaling="original", size="64x64")
    share = own["entropy"].mean(["branch", "sample", "step"]) / np.log(own["tokens"])
    np.testing.assert_allclose(view.heads, share.transpose("layer", "head"), rtol=1e-6)
    some = runs_of([ds.isel(head=[3, 1])], None, 0.1)[0].own.heads
    pd.testing.assert_frame_equal(some, view.heads[[3, 1]])
    known = view.heads.to_numpy()[np.isfinite(view.heads.to_numpy())]
    inside = sum(((row[np.isfinite(row)] - np.nanmean(row)) ** 2).sum() for row in view.heads.to_numpy())
    assert view.within_layers == pytest.approx(inside / ((known - known.mean()) ** 2).sum())
    steps = own["entropy"].mean("head").mean(["branch", "sample"]).transpose("step", "layer").values
    np.testing.assert_allclose(view.steps["change"], steps[-1] - steps[0], atol=1e-6)


def without(ds: xr.Dataset, names: Sequence[str] = ("entropy", "entropy_std", "sigma2"), **places: Any) -> xr.Dataset:
    """The same with no numbers at some places."""
    holed = ds.copy(deep=True)
    for name in names:
        holed[name][places] = np.nan
    return holed


HOLES = [{"layer": [0, 2, 4, 6, 8], "step": 0}, {"size": [0, 1, 2]}, {"names": ["sigma2"], "layer": 0}]
"""Of all self-attention layers a step, of all but one size everything, of a layer sigma^2."""


def test_a_layer_that_ran_in_some_forwards_only_is_named_and_left_out(tmp_path: Path, undrawn: None) -> None:
    whole = under_both(steps=2, samples=2, sizes=SIZES[:4])
    name, kept = str(whole["layer"].values[2]), written(tmp_path, whole.isel(layer=[0, 1, *range(3, 10)]))
    for places in ({"step": 0}, {}):
        holed = written(tmp_path, without(whole, layer=2, **places))
        assert name in holed["What was measured"] and name not in kept["What was measured"]
        assert holed[CHECKS] == kept[CHECKS]
    for holes in HOLES:
        assert written(tmp_path, without(whole, **holes))
    rows = len(check(whole).to_frame()) * 14 // 16  # the first layer has 4 of 32 heads
    assert f"of {rows} rows (layer, head and size) have a flag" in written(tmp_path, without(whole, **HOLES[2]))[CHECKS]


def test_sizes_by_their_sides(tmp_path: Path, undrawn: None) -> None:
    ds = under_both(steps=2, samples=2, sizes=((48, 48), (64, 64), (96, 96)))
    by_label, by_side = (written(tmp_path, each) for each in (ds, ds.assign_coords(size=[48, 64, 96])))
    assert by_label[CHECKS] == by_side[CHECKS]


def test_figures_of_a_run_with_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "SHARP", 40)
    holed = without(under_both(steps=2, samples=2), layer=2, step=0)
    assert len(report(holed.isel(size=[0, 2], branch=[0], scaling=[0]), tmp_path / "report.html")) > 10


def test_the_chain_rule_in_the_table(flux: xr.Dataset) -> None:
    parts = runs_of([flux], None, 0.1)[0].whole.chain
    total = parts[["entropy_between", "entropy_from_image", "entropy_from_text"]].sum(axis=1)
    np.testing.assert_allclose(total, parts["entropy"], atol=1e-4)
    np.testing.assert_allclose(parts["share"], [48 / 58, 100 / 110, 256 / 266])
    both = flux.reindex(scaling=["another", "original"])
    pd.testing.assert_frame_equal(runs_of([both], None, 0.1)[0].whole.chain, parts)
    assert float(abs(total - parts["entropy_from_image"] - parts["entropy"]).max()) > 0.1


def test_a_report_of_joint_attention(flux: xr.Dataset, tmp_path: Path, undrawn: None) -> None:
    files = report(flux, tmp_path / "flux.html")
    found = sections((tmp_path / "flux.md").read_text(encoding="utf-8"))
    assert {"What was measured", FIT, JOINT, "Words"} < set(found)
    line = entropylab.fit(flux, kind="image")
    assert f"{line.slope:.3f} ± {line.slope_error:.3f}" in found[FIT]
    assert "no self-attention" in found["What was measured"] and "no self-attention" not in found[FIT]
    assert "| 256x256 | 256 | 96% |" in found[JOINT]
    assert "3 joint" in found["What was measured"]
    assert {"fit1_entropy.png", "phase1_phase.png"} < {path.name for path in files[2:]}


def test_joint_and_self_attention_side_by_side(flux: xr.Dataset, ds: xr.Dataset, tmp_path: Path, undrawn: None) -> None:
    found = written(tmp_path, ds, flux.isel(size=[0]), names=["U-Net", "FLUX"])
    assert "**U-Net**" in found[FIT] and "**FLUX**" in found[FIT] and "Side by side" in found
    assert "**FLUX**" in found[JOINT] and "**U-Net**" not in found[JOINT]
    assert "because only one size was measured" in found[FIT]


def test_self_and_joint_attention_of_one_model(flux: xr.Dataset, tmp_path: Path, undrawn: None) -> None:
    """Self-attention is what the report is about; the image's part of joint layers has a section of its own, last."""
    kinds = xr.DataArray(np.where(flux["module"] == flux["module"][0], "self", "joint"), dims="layer")
    found = written(tmp_path, flux.assign_coords(kind=kinds))
    assert list(found)[1:-1] == [
        *("What was measured", FIT, DEFICIT, CHECKS, DRIFT, "Heads", STEPS, "The phase picture", JOINT),
    ]
    own = entropylab.fit(flux.isel(layer=kinds.values == "self").assign_coords(kind=("layer", ["self"] * 2)))
    assert f"{own.slope:.3f} ± " in found[FIT] and f"{own.slope:.3f} ± " not in found[JOINT]
    image = entropylab.fit(flux.isel(layer=kinds.values == "joint"), kind="image")
    assert f"{image.slope:.3f} ± " in found[JOINT] and f"{image.slope:.3f} ± " not in found[FIT]
    assert "no self-attention" not in found["What was measured"]
