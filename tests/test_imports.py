"""Rooms that must be quick to import: what they never need is not imported."""

import subprocess
import sys

CODE = """
import sys
import entropylab.dataset, entropylab.law, entropylab.law.check, entropylab.law.drift
assert "matplotlib" not in sys.modules
import entropylab.plot
assert "torch" not in sys.modules
import entropylab.entropy
assert not {"triton", "diffusers"} & set(sys.modules)
"""


def test_what_is_not_needed_is_not_imported() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True)
