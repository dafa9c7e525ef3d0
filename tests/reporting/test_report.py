"""The report: that it says what the data say, that it stands alone, and that it is written whole or not at all."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import entropylab
from entropylab import EntropyLabError, check, report
from entropylab.reporting import files, pictures
from entropylab.reporting.blocks import Picture
from entropylab.reporting.joint import image_part, pieces
from entropylab.reporting.page import column_class
from entropylab.reporting.readings.checks import no_series
from entropylab.reporting.tables import side_by_side, stacked

from ..datasets import NOISY, synthetic
from ..zoo import FAMILIES
from ..zoo.joint import flux_call, generator, quiet

BOTH = ("original", "sqrt_log")
PNG = b"\x89PNG"


def with_sigma2(factor: float, **options: Any) -> xr.Dataset:
    """Attention whose deficit is its sigma^2/2 divided by ``factor``."""
    ds = synthetic(scalings=BOTH, removed={"sqrt_log": 0.3}, sigma2=(0.3, 0.4, 0.5, 0.35, 0.25), **NOISY, **options)
    return ds.assign(sigma2=(factor * ds["sigma2"]).assign_attrs(ds["sigma2"].attrs))


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures with few pixels, which are drawn faster."""
    monkeypatch.setattr(pictures, "SHARP", 40)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that are not drawn."""
    monkeypatch.setattr(pictures, "picture", lambda name, caption, draw, **_: [Picture(name, caption, PNG)])


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return with_sigma2(1)


@pytest.fixture(scope="module")
def flux() -> xr.Dataset:
    """Joint attention at three sizes, from a tiny FLUX.1 with random weights."""
    pipe = next(family for family in FAMILIES if family.name == "FLUX.1").build()
    with entropylab.record(pipe) as recorder, quiet():
        for size in ((96, 128), (160, 160), (256, 256)):
            call = {"height": size[0], "width": size[1], "num_inference_steps": 2, "output_type": "latent"}
            pipe(generator=generator(), **call, **flux_call())
    return recorder.dataset


@pytest.fixture(scope="module")
def two(ds: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two runs; the second is off the law and knows less."""
    path = tmp_path_factory.mktemp("report") / "two.html"
    other = with_sigma2(4).mean("step", keep_attrs=True).assign_attrs(model="other <model> | 2*", steps=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "SHARP", 40)
        report([ds, other], path)
    return path


class Reader(HTMLParser):
    """Every tag is closed, tables have as many cells in every row, and what is loaded is in the file itself."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[int]] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append(0)
        elif tag in ("td", "th"):
            self.tables[-1][-1] += 1
        values = dict(attrs)
        self.sources += [str(values[name]) for name in ("src", "data", "srcset") if name in values]
        self.links += [str(values["href"])] if "href" in values else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open[-1:] != ["style"] else ""


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    return reader


# What it says.


def sections(markdown: str) -> dict[str, str]:
    parts = re.split(r"^## (.*)$", markdown, flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


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


# That it stands alone.


def test_it_needs_no_other_file_and_no_network(two: Path) -> None:
    page = two.read_text(encoding="utf-8")
    reader = read(two)
    assert reader.open == []
    assert reader.sources
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    assert all(link.startswith("#s") for link in reader.links)
    assert not re.search(r"https?:|url\(|@import|<script|<link", page)
    assert 'name="viewport"' in page
    assert "@media print" in page


def test_every_row_of_a_table_has_as_many_cells(two: Path) -> None:
    tables = read(two).tables
    assert len(tables) >= 10
    assert all(len(set(rows)) == 1 for rows in tables)


def test_what_a_name_holds_is_shown_and_not_obeyed(two: Path) -> None:
    assert "other <model> | 2*" in read(two).text
    assert "<model>" not in two.read_text(encoding="utf-8")


def test_markdown_shows_the_same_figures(two: Path) -> None:
    text = two.with_suffix(".md").read_text(encoding="utf-8")
    shown = re.findall(r"\]\((two_figures/[^)]*)\)", text)
    there = sorted(path for path in (two.parent / "two_figures").iterdir())
    assert sorted(shown) == [f"two_figures/{path.name}" for path in there]
    assert all(path.read_bytes().startswith(PNG) for path in there)
    assert len(read(two).sources) == len(there)


def test_the_same_runs_make_the_same_files_and_others_make_others(
    tmp_path: Path, ds: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "SHARP", 40)
    small = ds.isel(size=[0, 2, 4], step=[0], branch=[0], scaling=[0]).drop_vars("sigma2")
    for name, data in (("a", small), ("b", small), ("c", small.assign(entropy=small["entropy"] - 0.01))):
        (tmp_path / name).mkdir()
        report(data, tmp_path / name / "report.html")
    first, same, other = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in "abc")
    assert first == same
    assert all(first[name] != other[name] for name in ("report.html", "report.md", "fit1_entropy.png"))


def test_tables() -> None:
    table = side_by_side("t", {"a": {"x": "1"}, "b": {"x": "2", "y": "3"}})
    assert table.columns == ("", "a", "b")
    assert table.rows == (("x", "1", "2"), ("y", "–", "3"))
    frames = {"a": pd.DataFrame({"n": [1.0]}), "b": pd.DataFrame({"n": [np.nan], "m": [2.0]})}
    table = stacked(
        "t", frames, [("n", "N", str), ("m", "M", lambda v: "–" if np.isnan(v) else f"{v:g}"), ("k", "K", str)]
    )
    assert table.columns == ("run", "N", "M"), "a column that no run has is left out"
    assert table.rows == (("a", "1.0", "–"), ("b", "nan", "2"))
    assert [column_class(words) for words in (["down 0", "mid"], ["1.5", "–"], ["a" * 30])] == [
        "names",
        "numbers",
        "words",
    ]


# Joint attention.


def test_the_image_part_of_joint_attention(flux: xr.Dataset) -> None:
    part = image_part(flux)
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
    parts = pieces(flux)
    total = sum(parts[name] for name in ("entropy_between", "entropy_from_image", "entropy_from_text"))
    np.testing.assert_allclose(total, parts["entropy"], atol=1e-4)
    np.testing.assert_allclose(parts["share"].isel(layer=0), [48 / 58, 100 / 110, 256 / 266])
    assert float(abs(total - parts["entropy_from_image"] - parts["entropy"]).max()) > 0.1


def test_a_report_of_joint_attention(flux: xr.Dataset, tmp_path: Path) -> None:
    written = report(flux, tmp_path / "flux.html")
    found = sections((tmp_path / "flux.md").read_text(encoding="utf-8"))
    assert list(found)[1:] == ["What was measured", "Joint attention: the image's part", "Words"]
    own = found["Joint attention: the image's part"]
    line = entropylab.fit(image_part(flux), kind="joint")
    assert f"{line.slope:.3f} ± {line.slope_error:.3f}" in own
    assert "of their weight to keys of the image" in own
    assert "| 256x256 | 256 | 96% |" in own
    assert "3 joint" in found["What was measured"]
    assert {path.name for path in written[2:]} == {f"joint1_{n}.png" for n in ("entropy", "deficit", "sigma2", "phase")}


def test_joint_and_self_attention_side_by_side(flux: xr.Dataset, ds: xr.Dataset, tmp_path: Path, undrawn: None) -> None:
    report([ds, flux.isel(size=[0])], tmp_path / "a.html", names=["U-Net", "FLUX"])
    found = sections((tmp_path / "a.md").read_text(encoding="utf-8"))
    assert "**FLUX**" not in found["The fit"]
    assert "**FLUX**" in found["Joint attention: the image's part"]
    assert "because only one size was measured" in found["Joint attention: the image's part"]
    assert "Side by side" not in found


# What is refused, before anything is written.


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([], {}, "Got an empty list"),
        (3, {}, "or a list. Got int"),
        ([3], {}, "Got int"),
        (xr.Dataset(), {}, "without the attribute entropylab_version"),
        ("layerless", {}, "missing layer"),
        ("cross", {}, "must hold self-attention layers.*synthetic has: cross"),
        ("whole", {"names": ["a", "b"]}, "names must be 1 different names"),
        ("whole", {"names": "a"}, "names must be 1"),
        ("whole", {"tolerance": 0}, "tolerance must be a positive number"),
        ("whole", {"tolerance": True}, "tolerance must be a positive number"),
    ],
)
def test_what_can_not_be_reported(given: Any, options: dict, message: str, ds: xr.Dataset, tmp_path: Path) -> None:
    special = {
        "layerless": ds.isel(layer=0, drop=True),
        "cross": ds.isel(layer=ds["kind"].values == "cross"),
        "whole": ds,
    }
    data = special[given] if isinstance(given, str) else given
    with pytest.raises(EntropyLabError, match=message):
        report(data, tmp_path / "a.html", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["a.html", "a.md", "a_figures"])
def test_what_is_there_is_not_overwritten(there: str, ds: xr.Dataset, tmp_path: Path, undrawn: None) -> None:
    path = tmp_path / there
    path.write_text("mine") if path.suffix else path.mkdir()
    with pytest.raises(EntropyLabError, match="exists already; overwrite=True"):
        report(ds, tmp_path / "a.html")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    report(ds, tmp_path / "a.html", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.md", "a_figures"]
    assert "mine" not in (tmp_path / "a.md").read_text(encoding="utf-8")


def test_figures_of_an_earlier_report_go_and_other_files_stay(ds: xr.Dataset, tmp_path: Path, undrawn: None) -> None:
    old = tmp_path / "a_figures"
    old.mkdir()
    (old / "old.png").touch()
    report(ds, tmp_path / "a.html", overwrite=True)
    assert "old.png" not in {path.name for path in old.iterdir()}
    (old / "thesis.txt").write_text("mine")
    with pytest.raises(EntropyLabError, match=r"is not replaced: thesis.txt"):
        report(ds, tmp_path / "a.html", overwrite=True)
    assert (old / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["a.txt", "a", "none/a.html"])
def test_names_that_are_no_report(name: str, ds: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(EntropyLabError, match="path must be the name of a file that ends in .html|no folder"):
        report(ds, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_everything_as_it_was(
    place: int, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = files.targets(tmp_path / "a.html", False)
    files.write(paths, "old page", "old text", {"one": PNG})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name.startswith("new") and target == paths[place]:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises((EntropyLabError, KeyboardInterrupt)):
        files.write(paths, "new page", "new text", {"two": PNG})
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    files.write(paths, "new page", "new text", {"two": PNG})
    after = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == {"a.html": b"new page", "a.md": b"new text", "two.png": PNG}, "and without the failure it changes"
