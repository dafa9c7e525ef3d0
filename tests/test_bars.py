"""Bars: a widget in a notebook, text in a notebook without widgets, and no warning of the lack."""

import subprocess
import sys

import pytest

KERNEL = """
import sys, types, warnings
warnings.simplefilter("always")
class ZMQInteractiveShell: pass
sys.modules["ipykernel.zmqshell"] = types.ModuleType("ipykernel.zmqshell")
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=ZMQInteractiveShell)
"""
WITHOUT = 'sys.modules["ipywidgets"] = sys.modules["IPython.html"] = None\n'


def told(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


OURS = "from entropylab.bars import bar_class, in_notebook; bar_class(); print(in_notebook())"


def test_a_notebook_without_widgets_has_text_and_no_warning() -> None:
    assert told(KERNEL + WITHOUT + OURS) == "False"
    assert "TqdmWarning" in told(KERNEL + WITHOUT + "import tqdm.auto"), "which tqdm alone does not spare"
    later = "from entropylab.bars import bar_class; bar_class(); import tqdm.auto; print('quiet')"
    assert told(KERNEL + WITHOUT + later) == "quiet"


def test_a_notebook_with_widgets_has_a_widget() -> None:
    pytest.importorskip("ipywidgets")
    assert told("import ipywidgets\n" + KERNEL + OURS) == "True"


def test_no_notebook_no_widget() -> None:
    assert told(OURS) == "False"
