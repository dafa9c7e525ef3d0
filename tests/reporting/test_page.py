"""That a report stands alone: one page without a network, Markdown with the same figures, and names that stay text."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import xarray as xr

from entropylab import report
from entropylab.reporting import pictures

from .conftest import PNG, with_sigma2

HOSTILE = "<script>alert(1)</script> | *a* `b` [c](https://d.e) &amp; \\ # _f_\nnext"


class Reader(HTMLParser):
    """Every tag is closed, tables have as many cells in every row, and what is loaded is in the file itself."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.tables: list[list[int]] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
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
    page, reader = two.read_text(encoding="utf-8"), read(two)
    assert reader.open == []
    assert page.startswith("<!DOCTYPE html>\n")
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    assert reader.links == [f"#s{n}" for n in range(1, len(reader.links) + 1)]
    assert set(re.findall(r'id="(s\d+)"', page)) == {link[1:] for link in reader.links}
    assert not re.search(r"https?:|url\(|@import|<script|<link", page)
    assert 'name="viewport"' in page and "@media print" in page


def test_figures_and_rows_of_tables_are_the_same_in_markdown(two: Path) -> None:
    reader, text = read(two), two.with_suffix(".md").read_text(encoding="utf-8")
    assert len(reader.tables) >= 10 and all(len(set(rows)) == 1 for rows in reader.tables)
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.M)
    assert len(tables) == len(reader.tables)
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    there = sorted((two.parent / "two_figures").iterdir())
    assert sorted(re.findall(r"\]\((two_figures/[^)]*)\)", text)) == [f"two_figures/{path.name}" for path in there]
    assert len(reader.sources) == len(there) > 10


def test_names_and_prompts_stay_text(tmp_path: Path, undrawn: None) -> None:
    ds = with_sigma2(1, samples=2, steps=1)
    prompts = xr.DataArray([HOSTILE, f"{HOSTILE} again {'long ' * 30}"], dims="sample")
    hostile = ds.assign_coords(prompt=prompts).assign_attrs(model=HOSTILE, unmeasured=f'["{HOSTILE[:20]}: sliced"]')
    page, text, *_ = report([hostile, ds], tmp_path / "a.html")
    shown = " ".join(HOSTILE.split())
    reader = read(page)
    assert "script" not in reader.tags
    assert {"em", "strong", "code"} & reader.tags == set()
    assert " ".join(reader.text.split()).count(shown) > 5
    assert f"“{shown} again {'long ' * 29}long ”" in " ".join(reader.text.split()), "and nothing is cut off"
    markdown = text.read_text(encoding="utf-8")
    assert r"\<script\>alert(1)\</script\> \| \*a\* \`b\` \[c\](https://d.e) \&amp; \\ \# \_f\_ next" in markdown
    assert not re.search(r"(?<!\\)<script|(?<!\\)&amp;", markdown)
    assert not re.search("^next", markdown, flags=re.M)


def test_the_same_runs_make_the_same_files_and_others_make_others(
    tmp_path: Path, ds: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "SHARP", 40)
    small = ds.isel(size=[0, 2, 4], step=[0], branch=[0], scaling=[0]).drop_vars("sigma2").mean("head", keep_attrs=True)
    for name, data in (("a", small), ("b", small), ("c", small.assign(entropy=small["entropy"] - 0.01))):
        (tmp_path / name).mkdir()
        report(data, tmp_path / name / "report.html")
    first, same, other = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in "abc")
    assert first == same
    assert all(content.startswith(PNG) for name, content in first.items() if name.endswith(".png"))
    assert all(first[name] != other[name] for name in ("report.html", "report.md", "fit1_entropy.png"))
