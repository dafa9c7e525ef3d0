"""The code that README and documentation show runs; what names a model of the hub, or a logger, is compiled only."""

import re
import shutil
import subprocess
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "index.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
HUB = ("from_pretrained(", "log_with=", 'load("sd21")', 'load("ldm256")')


def blocks(page: Path) -> list[str]:
    """The blocks of Python of a page."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_blocks_are_found():
    assert {page.stem for page in PAGES if blocks(page)} >= {"README", "index", "measure", "record", "rescale", "law"}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_code_runs(page, hurried, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page.stem}
    with matplotlib.rc_context({"backend": "agg"}):
        for number, block in enumerate(blocks(page), 1):
            code = compile(block, f"{page.name}, block {number}", "exec")
            if not any(word in block for word in HUB):
                exec(code, names)
    plt.close("all")


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
def test_tests_with_the_oldest_versions_are_there():
    said = subprocess.run(["make", "--dry-run", "test-lowest"], cwd=ROOT, capture_output=True, text=True, check=True)
    named = re.findall(r"(?<= )tests/[\w/]+(?:\.py)?(?=\s)", said.stdout)
    assert len(named) > 5 and all((ROOT / name).exists() for name in named), named
