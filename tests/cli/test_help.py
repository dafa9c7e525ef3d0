"""What the command line says of itself."""

import subprocess
import sys

import pytest

from ..command_line import run


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("measure", ["nats", "pixels", "--sizes 32 64 96x128", "HEIGHTxWIDTH", "one prompt a line"]),
        ("fit", ["nats", "R^2", "--by layer"]),
        ("check", ["nats", "nothing fitted", "--by layer,head"]),
        ("report", ["HTML", "no network", "side by side", "--name"]),
        ("layers", ["self", "heads", "entropylab layers"]),
        ("generate", ["pixels", "PNG", "sqrt_log", "HEIGHTxWIDTH"]),
        ("map", ["log N", "sizes down, rules across", "--layers"]),
    ],
)
def test_help_explains_with_units_and_examples(command: str, words: list[str]) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    text = " ".join(result.stdout.split())
    for word in words:
        assert word in text


def test_help_lists_every_command() -> None:
    text = run("--help").stdout
    for command in ("measure", "fit", "check", "report", "layers", "generate", "map"):
        assert f"\n  {command} " in text
    assert run().exit_code in (0, 2)
    assert "Usage:" in run().output


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("entropylab ")


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
