"""The gallery has every figure function, and its pictures are drawn by the code beside them."""

import re
import sys
from pathlib import Path

import pytest

import entropylab

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")


@pytest.fixture
def gallery(monkeypatch):
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(str(DOCS / "site"))
    yield __import__("gallery")
    sys.modules.pop("gallery")


def test_every_figure_function_is_in_it(gallery):
    code = "\n".join(found["code"] for found in gallery.BLOCK.finditer(PAGE))
    drawing = {name for name in entropylab.plot.__all__ if name.islower()} - {"predictions"}  # a table
    assert set(re.findall(r"plot\.(\w+)\(", code)) >= drawing
    linked = set(re.findall(r"api/plot\.md#entropylab\.plot\.(\w+)", PAGE))
    assert linked >= drawing


def test_each_section_has_a_figure_of_its_own(gallery):
    found = gallery.drawn(PAGE, DOCS / "gallery")
    assert len(found) == len(gallery.BLOCK.findall(PAGE)) == len(set(found.values()))
    assert all(content.startswith(b"GIF8" if name.endswith(".gif") else b"\x89PNG") for name, content in found.items())


def test_code_that_fails_ends_the_build(gallery):
    begin, *_ = PAGE.partition("\n## ")
    section = "\n## Heads\n\n```python\nentropylab.plot.heads(ds, size={})\n```\n"
    assert list(gallery.drawn(begin + section.format(64), DOCS / "gallery")) == ["heads.png"]
    with pytest.raises(entropylab.EntropyLabError, match="65"):
        gallery.drawn(begin + section.format(65), DOCS / "gallery")
