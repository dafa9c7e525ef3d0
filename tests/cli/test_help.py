"""What the command line says of itself."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from typer.main import get_command

import entropylab
from entropylab.cli import app

from ..command_line import run

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


def test_help_lists_every_command_and_explains_it_with_units_and_examples() -> None:
    listed = run("--help").stdout
    for command in COMMANDS:
        assert f"\n  {command} " in listed
        result = run(command, "--help")
        assert result.exit_code == 0
        assert f"Examples: entropylab {command}" in " ".join(result.stdout.split())
    for command, words in {"measure": ("nats", "pixels", "HEIGHTxWIDTH"), "fit": ("nats", "R^2")}.items():
        assert [word for word in words if word not in run(command, "--help").stdout] == []
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


@pytest.mark.parametrize(
    ("command", "function", "own"),
    [
        ("measure", entropylab.measure, set()),
        ("evaluate", entropylab.evaluate, {"out", "overwrite"}),
        ("compare", entropylab.compare, {"run", "other", "out", "overwrite"}),
    ],
)
def test_options_are_the_arguments_of_the_library_with_their_defaults(
    command: str, function: Callable[..., Any], own: set[str]
) -> None:
    arguments = inspect.signature(function).parameters
    options = {option.name: option for option in COMMANDS[command].params}
    assert options.keys() - {"model", "dtype", "device", *own} <= arguments.keys()
    for name in options.keys() & arguments.keys() - {"sizes", "out", *own}:
        ours, theirs = options[name].default, arguments[name].default
        ours = tuple(ours) if isinstance(ours, list) else ours
        assert ours in (theirs, (theirs,)), name
