"""That a report stands alone: one page without a network, and Markdown with the same figures."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from entropylab import report
from entropylab.reporting import pictures
from entropylab.reporting.page import column_class
from entropylab.reporting.tables import side_by_side, stacked

from .reports import PNG


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
