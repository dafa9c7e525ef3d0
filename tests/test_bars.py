"""Bars: a widget in a notebook, text in a notebook without widgets, and no warning of the lack."""

import subprocess
import sys

import pytest

from entropylab.bars import in_notebook

KERNEL = """
import sys, types, warnings
import IPython
warnings.simplefilter("always")
class ZMQInteractiveShell: pass
sys.modules["ipykernel.zmqshell"] = types.ModuleType("ipykernel.zmqshell")
IPython.get_ipython = ZMQInteractiveShell
"""
WITHOUT = 'sys.modules["ipywidgets"] = sys.modules["IPython.html"] = None\n'
OURS = "from entropylab.bars import bar_class, in_notebook; bar_class(); print(in_notebook())\n"


def told(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


def test_a_notebook_without_widgets_has_text_and_no_warning() -> None:
    assert told(KERNEL + WITHOUT + OURS + "import tqdm.auto") == "False"
    assert "TqdmWarning" in told(KERNEL + WITHOUT + "import tqdm.auto"), "which tqdm alone does not spare"


def test_a_notebook_with_widgets_has_a_widget() -> None:
    assert not in_notebook()
    pytest.importorskip("ipywidgets")
    assert told("import ipywidgets\n" + KERNEL + OURS) == "True"
