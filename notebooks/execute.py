"""Run notebooks and store them with their outputs: python notebooks/execute.py [NOTEBOOK ...], all by default."""

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def executed(path: Path) -> Any:
    """A notebook after a run from its own folder, without times and what else differs from run to run."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    options = {"kernel_name": "python3", "record_timing": False, "store_widget_state": False}
    NotebookClient(notebook, timeout=900, resources=resources, **options).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":  # warnings and progress differ from machine to machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:  # no widget without its kernel: the picture beside it stays
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    notebook.metadata["language_info"] = {"name": "python"}  # without the version of Python
    return notebook


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")):
        nbformat.write(executed(path), path)
        print(path)
