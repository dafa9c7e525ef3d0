"""That a report is written whole or not at all, and what is refused before anything is written."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from entropylab import EntropyLabError, report
from entropylab.reporting import files, views

from .reports import PNG


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


@pytest.mark.parametrize(
    ("second", "name", "message"), [("whole", "none/a.html", "no folder"), ("cross", "a.html", "must hold self")]
)
def test_nothing_is_computed_of_what_is_refused(
    second: str, name: str, message: str, ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: object, **__: object) -> None:
        raise RuntimeError("computed")

    monkeypatch.setattr(views, "fit", fit)
    runs = [ds, ds if second == "whole" else ds.isel(layer=ds["kind"].values == "cross")]
    with pytest.raises(EntropyLabError, match=message):
        report(runs, tmp_path / name)
    with pytest.raises(RuntimeError, match="computed"):
        report(ds, tmp_path / "a.html")


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
    with pytest.raises(EntropyLabError, match=r"Got thesis.txt"):
        report(ds, tmp_path / "a.html", overwrite=True)
    assert (old / "thesis.txt").read_text() == "mine"


def test_names_that_are_no_report(ds: xr.Dataset, tmp_path: Path) -> None:
    for name in ("a.txt", "a", "none/a.html"):
        with pytest.raises(EntropyLabError, match="path must be the name of a file that ends in .html|no folder"):
            report(ds, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_a_failure_leaves_everything_as_it_was(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = files.targets(tmp_path / "a.html", False)
    files.write(paths, "old page", "old text", {"one": PNG})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def failing(path: Path, content: bytes) -> None:
        raise error

    with monkeypatch.context() as patch, pytest.raises((EntropyLabError, KeyboardInterrupt)):
        patch.setattr(Path, "write_bytes", failing)
        files.write(paths, "new page", "new text", {"two": PNG})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    files.write(paths, "new page", "new text", {"two": PNG})
    after = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == {"a.html": b"new page", "a.md": b"new text", "two.png": PNG}, "and without the failure it changes"


@pytest.mark.skipif(sys.platform != "linux", reason="pipes and devices of Linux")
@pytest.mark.parametrize("name", ["a.html", "a.md", "a_figures"])
def test_what_is_no_file_is_not_replaced(name: str, ds: xr.Dataset, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(EntropyLabError, match="path must name a file|Got no folder"):
        report(ds, tmp_path / "a.html", overwrite=True)
    assert (tmp_path / name).is_fifo()
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(EntropyLabError, match="path must name a file|Got no folder"):
        report(ds, tmp_path / "a.html", overwrite=True)


def test_a_link_is_followed(ds: xr.Dataset, tmp_path: Path, undrawn: None) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.html").symlink_to(tmp_path / "disk" / "a.html")
    report(ds, tmp_path / "link.html")
    report(ds, tmp_path / "link.html", overwrite=True)
    assert (tmp_path / "link.html").is_symlink()
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["a.html", "a.md", "a_figures"]
