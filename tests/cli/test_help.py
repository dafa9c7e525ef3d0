"""What the command line says of itself."""

import subprocess
import sys

from ..command_line import run

COMMANDS = {
    "measure": ["nats", "pixels", "--sizes 32 64 96x128", "HEIGHTxWIDTH"],
    "fit": ["nats", "R^2", "--by layer"],
    "check": ["nats", "--by layer,head"],
    "compare": ["nats", "--other-scaling", "Holm"],
    "calibrate": ["nats", "--no-held-out", "Calibration.open"],
    "evaluate": ["multidiffusion", "--reference", "MiB"],
    "report": ["HTML", "--name"],
    "layers": ["self", "heads", "entropylab layers"],
    "generate": ["pixels", "PNG", "sqrt_log", "HEIGHTxWIDTH"],
    "map": ["log N", "--layers"],
}


def test_help_lists_every_command_and_explains_it_with_units_and_examples() -> None:
    listed = run("--help").stdout
    for command, words in COMMANDS.items():
        assert f"\n  {command} " in listed
        result = run(command, "--help")
        assert result.exit_code == 0
        assert "Examples:" in result.stdout
        assert [word for word in words if word not in " ".join(result.stdout.split())] == []
    assert run().exit_code in (0, 2)
    assert "Usage:" in run().output
    assert run("--version").stdout.startswith("entropylab ")


def test_help_needs_no_torch_and_runs_as_a_module() -> None:
    code = (
        "import sys, runpy; sys.argv = ['entropylab', '--help']\n"
        "try: runpy.run_module('entropylab', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "print([name for name in ('torch', 'diffusers', 'xarray', 'matplotlib') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: entropylab" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"
