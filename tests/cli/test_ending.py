"""How a command ends that was stopped, by one Ctrl-C or by more, and what no command begins with."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import entropylab
from entropylab.errors import EntropyLabWarning

from ..command_line import refused, run

PROGRAM = """
import atexit, os, runpy, signal, sys
import entropylab
from entropylab.errors import EntropyLabWarning
from tests.runs.stub import Stub

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have told the tests to ignore

def stop():
    os.kill(os.getpid(), signal.SIGINT)

def on_call(pipe):
    if pipe.calls == 3:
        if "{where}" == "while it is interrupted":
            try:
                stop()
            finally:
                stop()
        stop()

def load(*arguments, **options):
    pipe = Stub()
    pipe.on_call = on_call
    return pipe

entropylab.load = load
if "{where}" == "at the end of the process":
    atexit.register(stop)
sys.argv = ["entropylab", "measure", "--sizes", "32", "--prompts", "{prompts}", "--batch-size", "2", "--quiet",
            "--out", "{out}"]
runpy.run_module("entropylab", run_name="__main__")
"""


@pytest.mark.parametrize("where", ["while it is interrupted", "at the end of the process"])
def test_stopping_a_command_twice_ends_it_at_once_and_cleanly(where: str, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "run"
    prompts.write_text("\n".join(f"picture {i}" for i in range(8)))
    program = PROGRAM.format(where=where, prompts=prompts, out=out)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 130, ended.stderr
    assert not any(word in ended.stderr for word in ("Traceback", "KeyboardInterrupt", "Aborted"))
    with pytest.warns(EntropyLabWarning, match="2 of 4 units"):
        assert entropylab.open(out).attrs["units_done"] == 2


NOTHING = [
    ("measure", "--sizes", 32, "--out="),
    ("measure", "--sizes", 32, "--prompts=", "--out", "a.nc"),
    ("generate", "a heart", "--size", 32, "--out", " "),
    ("merge", "run", "--out= "),
    ("report", "a.nc", "--out="),
]


@pytest.mark.parametrize("words", NOTHING)
def test_the_name_of_nothing_is_not_the_current_folder(
    words: tuple[object, ...], calls: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == 2
    assert "the name of a file or folder. Got nothing" in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("measure", "--out", "a.nc"), ("generate", "a heart", "--out", "images")])
def test_more_steps_than_timesteps(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words, "--sizes", 32, "--steps", 1001)
    refused(result, "error: steps must be at most 1000, as many as DDIMScheduler has timesteps.", "Got 1001")
