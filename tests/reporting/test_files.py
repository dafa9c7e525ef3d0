"""That a report is written whole or not at all, and what is refused before anything is written."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from entropylab import EntropyLabError, report
from entropylab.reporting import files, views

from .conftest import PNG

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda ds: [], {}, "Got an empty list"),
        (lambda ds: 3, {}, "or a list. Got int"),
        (lambda ds: [3], {}, "Got int"),
        (lambda ds: xr.Dataset(), {}, "without the attribute entropylab_version"),
        (lambda ds: ds.isel(layer=0, drop=True), {}, "missing layer"),
        (lambda ds: [ds, ds.isel(layer=[1])], {}, "must hold self-attention layers.*has: cross"),
        (lambda ds: ds, {"names": ["a", "b"]}, "names must be 1 different names"),
        (lambda ds: ds, {"names": "a"}, "names must be 1"),
        (lambda ds: ds, {"tolerance": 0}, "tolerance must be a positive number"),
        (lambda ds: ds, {"path": "a.txt"}, "path must be the name of a file that ends in .html"),
        (lambda ds: ds, {"path": "none/a.html"}, "no folder"),
    ],
)
def test_what_can_not_be_reported_before_any_work(
    change: Any, options: dict, message: str, ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(views, "fit", lambda *_, **__: 1 / 0)
    with pytest.raises(EntropyLabError, match=message):
        report(change(ds), **{"path": "a.html"} | options)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError):
        report(ds, "a.html")


@pytest.mark.parametrize("there", ["a.html", "a.md", "a_figures"])
def test_what_is_there_is_not_overwritten(there: str, ds: xr.Dataset, tmp_path: Path) -> None:
    path = tmp_path / there
    path.write_text("mine") if path.suffix else path.mkdir()
    with pytest.raises(EntropyLabError, match="exists already; overwrite=True"):
        report(ds, tmp_path / "a.html")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    report(ds, tmp_path / "a.html", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.md", "a_figures"]
    assert "mine" not in (tmp_path / "a.md").read_text(encoding="utf-8")
    figures = tmp_path / "a_figures"
    (figures / "old.png").touch()
    report(ds, tmp_path / "a.html", overwrite=True)
    assert not (figures / "old.png").exists(), "figures of an earlier report go"
    (figures / "thesis.txt").write_text("mine")
    with pytest.raises(EntropyLabError, match=r"Got thesis.txt"):
        report(ds, tmp_path / "a.html", overwrite=True)
    assert (figures / "thesis.txt").read_text() == "mine", "and other files stay"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_a_failure_leaves_everything_as_it_was(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = files.targets(tmp_path / "a.html", False)
    files.write(paths, "old page", "old text", {"one": PNG})
    before = contents(tmp_path)

    def failing(path: Path, content: bytes) -> None:
        raise error

    with monkeypatch.context() as patch, pytest.raises((EntropyLabError, KeyboardInterrupt)):
        patch.setattr(Path, "write_bytes", failing)
        files.write(paths, "new page", "new text", {"two": PNG})
    assert contents(tmp_path) == before
    files.write(paths, "new page", "new text", {"two": PNG})
    after = {"a.html": b"new page", "a.md": b"new text", "two.png": PNG}
    assert contents(tmp_path) == after, "and without the failure it changes"


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


def test_a_link_is_followed(ds: xr.Dataset, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.html").symlink_to(tmp_path / "disk" / "a.html")
    report(ds, tmp_path / "link.html")
    report(ds, tmp_path / "link.html", overwrite=True)
    assert (tmp_path / "link.html").is_symlink()
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["a.html", "a.md", "a_figures"]
