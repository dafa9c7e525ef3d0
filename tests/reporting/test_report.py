"""That a report says what the data say, and what they can't tell."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import ttest_ind

import entropylab
from entropylab import check, fit, report
from entropylab.law.averages import image_part
from entropylab.reporting import slope_tests
from entropylab.reporting.views import runs_of

from ..datasets import NOISY, synthetic, under_both
from .reports import sections, with_sigma2

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
    assert list(sections(text))[1:] == [*names, "Words"]
    lead, labels = sections(text)[""], ["synthetic", r"other \<model\> \| 2\*"]
    assert re.findall(r"^\*\*(.*)\*\*$", lead, flags=re.M) == labels
    assert len(re.findall("^- ", lead, flags=re.M)) == 8, "of each run the fit, the deficit, the checks and drift"
    headers = re.findall(r"^\| (.*) \|\n\| ---", text, flags=re.M)
    assert len(headers) >= 10
    for header in headers:
        cells = header.split(" | ")
        assert cells[-2:] == labels or cells[0] == "run", header


def test_numbers_are_those_of_the_library(two: Path, ds: xr.Dataset) -> None:
    found = sections(two.with_suffix(".md").read_text(encoding="utf-8").replace("\\", ""))
    line, lines = fit(ds), fit(ds, by="layer").to_frame()
    assert f"{line.slope:.3f} ± {line.slope_error:.3f}" in found[""]
    assert f"{line.slope:.3f} ± {line.slope_error:.3f}" in found[FIT]
    assert f"{line.overall('deficit'):.3f}" in found[FIT]
    for name, row in zip(("down 0", "down 1", "mid", "up 0", "up 1"), lines.to_dict("records"), strict=True):
        assert f"| {name} | {row['slope']:.3f} | {row['slope_error']:.3f} |" in found[FIT]
    layers = check(ds).layers()
    assert f"median layer [nats] | {layers['law_off'].median():.3f} |" in found[CHECKS]
    for row in fit(ds).points().to_dict("records"):
        assert (
            f"| {row['size']} | {row['tokens']:.0f} | {row['log_tokens']:.3f} | {row['entropy']:.3f}" in found[DEFICIT]
        )
    assert "| sqrt_log | 32x32 |" in found[DRIFT]
    assert "sqrt_log removes 29% to 30%" in found[DRIFT], "of which it was made to remove 30%"


def test_it_tells_what_is_on_the_law_from_what_is_not(two: Path) -> None:
    found = sections(two.with_suffix(".md").read_text(encoding="utf-8"))
    level, checks = (found[name].split("**other") for name in (DEFICIT, CHECKS))
    assert "holds" in level[0]
    assert "overstates" not in level[0]
    assert "overstates" in level[1]
    assert ("in 5 of 5 layers" in checks[0], "in 0 of 5 layers" in checks[1]) == (True, True)
    assert "The runs differ in denoising steps (3, 4)" in found["What was measured"]
    assert UNTOLD not in found[STEPS].split("**other")[0]
    assert UNTOLD in found[STEPS].split("**other")[1], "where steps were averaged"


def test_branches_in_another_order_are_no_difference(tmp_path: Path) -> None:
    """Guidance of one pipeline has the prompt first, that of another has it second."""
    ds = synthetic(branches=("uncond", "cond"), **NOISY)
    for other, differ in ((ds.isel(branch=[1, 0]), False), (ds.isel(branch=[1]), True)):
        measured = written(tmp_path, ds, other, names=["one", "other"])["What was measured"]
        assert ("The runs differ in guidance branches (cond and uncond, cond)" in measured) == differ
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


MISSING = {
    "only the model as it is was measured": lambda ds: ds.sel(scaling=["original"]),
    'scaling "original" was not measured': lambda ds: ds.sel(scaling=["sqrt_log"]),
    "the training size is not among those": lambda ds: ds.sel(size=["32x32", "48x48", "96x96"]),
    "there is one sample": lambda ds: ds.isel(sample=[0]),
    "1 layer ran without being measured": lambda ds: ds.assign_attrs(unmeasured='["a: sliced"]'),
    "only one size was measured": lambda ds: ds.sel(size=["96x96"]),
    "σ² was not measured": lambda ds: ds.drop_vars("sigma2"),
    "heads were averaged": lambda ds: ds.mean("head", keep_attrs=True),
    "steps were averaged": lambda ds: ds.isel(step=0, drop=True),
    "a random subset": lambda ds: ds.assign(entropy_se=ds["entropy_std"]),
    "the largest that they can be": lambda ds: synthetic(**NOISY, average=("sample", "branch")),
}


@pytest.fixture(scope="module")
def whole() -> xr.Dataset:
    return with_sigma2(1, samples=3, steps=2, sizes=[(side, side) for side in (32, 48, 64, 96)])


@pytest.mark.parametrize(("words", "change"), MISSING.items())
def test_less_was_measured(
    change: Callable[[xr.Dataset], xr.Dataset], words: str, whole: xr.Dataset, tmp_path: Path, undrawn: None
) -> None:
    assert words in "".join(written(tmp_path, change(whole)).values())


def test_nothing_is_missing_where_nothing_is(whole: xr.Dataset, tmp_path: Path, undrawn: None) -> None:
    text = "".join(written(tmp_path, whole).values())
    assert [words for words in MISSING if words in text] == []
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
    ds = with_sigma2(1, samples=2, steps=1)
    alone, one, others = (written(tmp_path, ds.isel(layer=place)) for place in (0, [0], [0, 2]))
    assert alone == one
    assert alone != others


def test_p_of_layers_is_corrected_for_their_number() -> None:
    view = runs_of([under_both()], None, 0.1)[0].own
    assert view is not None
    raw, corrected, number = view.lines["slope_p"].to_numpy(), view.lines["p"].to_numpy(), len(view.lines)
    order = np.argsort(raw)
    expected = [max(min(1, (number - i) * raw[order[i]]) for i in range(place + 1)) for place in range(number)]
    np.testing.assert_allclose(corrected[order], expected)
    assert (corrected >= raw).all()
    assert (corrected > raw).any()


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
    ((one, other, p),) = slope_tests([view for view in views if view is not None])
    assert (one, other) == ("a", "b")
    assert p == pytest.approx(ttest_ind(*drawn, equal_var=False).pvalue, rel=1e-4)
    assert p != pytest.approx(ttest_ind(*drawn).pvalue, rel=1e-2)


def test_heads_and_steps_at_the_training_size(ds: xr.Dataset) -> None:
    view = runs_of([ds], None, 0.1)[0].own
    assert view is not None
    own = ds.isel(layer=ds["kind"].values == "self").sel(scaling="original", size="64x64")
    share = own["entropy"].mean(["branch", "sample", "step"]) / np.log(own["tokens"])
    np.testing.assert_allclose(view.heads, share.transpose("layer", "head"), rtol=1e-6)
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


OWN = [0, 2, 4, 6, 8]
"""Self-attention layers of the synthetic run."""


@pytest.mark.parametrize("places", [{"step": 0}, {}], ids=str)
def test_a_layer_that_ran_in_some_forwards_only_is_named_and_left_out(
    places: dict[str, Any], tmp_path: Path, undrawn: None
) -> None:
    whole = under_both(steps=2, samples=2)
    holed = written(tmp_path, without(whole, layer=2, **places))
    kept = written(tmp_path, whole.isel(layer=[0, 1, *range(3, 10)]))
    assert str(whole["layer"].values[2]) in holed["What was measured"]
    assert str(whole["layer"].values[2]) not in kept["What was measured"]
    assert holed[CHECKS] == kept[CHECKS]


@pytest.mark.parametrize(
    "holes",
    [
        {"layer": OWN, "step": 0},
        {"size": [0, 1, 2, 3, 4, 5]},
        {"names": ["sigma2"], "layer": 0},
    ],
    ids=str,
)
def test_a_report_of_a_run_with_holes(holes: dict[str, Any], tmp_path: Path, undrawn: None) -> None:
    assert report(without(under_both(steps=2, samples=2), **holes), tmp_path / "report.html")[0].exists()


def test_figures_of_a_run_with_holes(tmp_path: Path) -> None:
    holed = without(under_both(steps=2, samples=2), layer=2, step=0)
    assert len(report(holed.isel(size=[0, 2, 4]), tmp_path / "report.html")) > 10


def test_the_image_part_of_joint_attention(flux: xr.Dataset) -> None:
    part = image_part(flux)
    assert part is not None
    assert part["tokens"].values.tolist() == [[48.0] * 3, [100.0] * 3, [256.0] * 3]
    assert part["train_tokens"].values.tolist() == [4096.0] * 3
    rows = flux.isel(layer=flux["part"].values == "image")
    np.testing.assert_array_equal(part["entropy"], rows["entropy_image"])
    np.testing.assert_array_equal(part["sigma2"], rows["sigma2_image"])
    found = check(part, kind="joint")
    own = np.log(part["tokens"]) - rows["sigma2_image"].mean(["scaling", "branch", "sample", "step"]) / 2
    np.testing.assert_allclose(found["law"], own.transpose("size", "layer", "head"), rtol=1e-6)
    mixed = check(rows, kind="joint")
    assert float(abs(mixed["entropy"] - found["entropy"]).min()) > 0.02, "over all keys it is another entropy"


def test_the_chain_rule_in_the_table(flux: xr.Dataset) -> None:
    rows = runs_of([flux], None, 0.1)[0].whole
    assert rows is not None
    parts = rows.chain
    total = parts[["entropy_between", "entropy_from_image", "entropy_from_text"]].sum(axis=1)
    np.testing.assert_allclose(total, parts["entropy"], atol=1e-4)
    np.testing.assert_allclose(parts["share"], [48 / 58, 100 / 110, 256 / 266])
    assert float(abs(total - parts["entropy_from_image"] - parts["entropy"]).max()) > 0.1


def test_a_report_of_joint_attention(flux: xr.Dataset, tmp_path: Path) -> None:
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
