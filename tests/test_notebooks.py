"""Every notebook runs, and is stored as it ran: with its outputs, and without what differs from run to run."""

import ast
import re
import runpy
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 500_000
"""Bytes of a notebook with its outputs."""

NOISE = re.compile(
    r"/home/|/tmp/|/root/|/usr/|/opt/|/mnt/|/Users/|site-packages|ipykernel_launcher|Warning:|\d+%\|.*\||it/s\]"
    r"|0x[0-9a-f]{8}"
)
"""What differs from machine to machine: paths, warnings, progress bars, addresses."""

executed = runpy.run_path(str(FOLDER / "execute.py"))["executed"]

every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def silent(source: str) -> bool:
    """Whether a cell only defines: it imports, assigns, asserts, or holds functions."""
    last = [line for line in source.splitlines() if line.strip()][-1]
    return last.startswith((" ", "}", ")", "]", "assert ", "import ", "from ")) or bool(
        re.match(r"(\w+(, \w+)*|[\w.]+) = ", last)
    )


def texts(notebook: Any) -> list[str]:
    """Everything that outputs say, in words."""
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    streams = [output.text for output in outputs if output.output_type == "stream"]
    data = [value for output in outputs for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return [*streams, *data]


def test_there_are_six_notebooks_in_their_order():
    assert [path.stem.partition("_")[0] for path in NOTEBOOKS] == ["1", "2", "3", "4", "5", "6"]


@every
def test_a_notebook_is_stored_as_it_ran_and_without_its_machine(path):
    notebook = read(path)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    missing = [cell.source for cell in cells if not cell.outputs and not silent(cell.source)]
    assert not missing
    assert sum(bool(cell.outputs) for cell in cells) >= 4
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert any("**Answer.**" in text for text in texts(notebook))
    assert path.stat().st_size < LARGEST
    assert not [found.group() for text in texts(notebook) if (found := NOISE.search(text))]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr" or output.output_type == "error"]


def shown(source: str, names: dict[str, Any]) -> Any:
    """What a cell shows: the value of its last line, if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.filterwarnings("default")
@every
def test_a_notebook_runs(path, hurried, monkeypatch):
    """Its cells, one after the other, here, for a kernel would import everything once more."""
    monkeypatch.chdir(FOLDER)
    names: dict[str, Any] = {}
    with matplotlib.rc_context({"backend": "agg"}):
        values = [shown(cell.source, names) for cell in code(read(path))]
    plt.close("all")
    assert values[-1].data.startswith("**Answer.**")
    assert sum(value is not None for value in values) >= 3


def test_a_kernel_runs_cells_and_their_outputs_are_stored(tmp_path):
    made = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("import sys; print('no', file=sys.stderr); 6 * 7")]
    )
    nbformat.write(made, tmp_path / "made.ipynb")
    (cell,) = code(executed(tmp_path / "made.ipynb"))
    assert [output.data["text/plain"] for output in cell.outputs] == ["42"]


def test_noise_is_known():
    """The patterns find what they are for, and leave entropy / log N and 14% alone."""
    for text in ("/tmp/x.py", "UserWarning: no", " 40%|####  | 3/7", "<object at 0x7f0012345678>"):
        assert NOISE.search(text)
    assert not NOISE.search("entropy / log N, 14% of the drift | 3.2")


def test_cells_that_show_something_are_told_from_those_that_define():
    assert silent("import torch\nx = 1") and silent("def f():\n    return 1") and silent("a, b = 1, 2")
    assert not silent("x = 1\nx") and not silent("plot(x)") and not silent("f(x, y=1);")
