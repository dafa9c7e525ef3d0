"""How a command ends that was stopped, by one Ctrl-C or by more, and what no command begins with."""

import atexit
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import entropylab
from entropylab.errors import EntropyLabWarning

from ..command_line import refused, run
from ..runs.processes import CONTEXT
from ..runs.stub import Stub

PROGRAM = """
import sys
from pathlib import Path
from tests.cli.test_ending import interrupted

interrupted(Path(sys.argv[1]), at_the_end=True)
"""


def stop() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def interrupted(folder: Path, at_the_end: bool) -> None:
    """A command that is interrupted when it has measured two units, and again while that ends it, or at the end."""
    from entropylab.cli import app

    def on_call(pipe: Stub) -> None:
        if pipe.calls == 3:
            try:
                stop()
            finally:
                if not at_the_end:
                    stop()

    def load(*arguments: object, **options: object) -> Stub:
        pipe = Stub()
        pipe.on_call = on_call
        return pipe

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have told the tests to ignore
    entropylab.load = load
    if at_the_end:
        atexit.register(stop)
    else:
        os.dup2(os.open(folder / "said", os.O_WRONLY | os.O_CREAT), 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
    (folder / "prompts.txt").write_text("\n".join(f"picture {i}" for i in range(8)))
    words = f"measure --sizes 32 --prompts {folder}/prompts.txt --batch-size 2 --quiet --out {folder}/run"
    app(words.split())


@pytest.mark.parametrize("at_the_end", [True, False])
def test_stopping_a_command_twice_ends_it_at_once_and_cleanly(at_the_end: bool, tmp_path: Path) -> None:
    if at_the_end:
        command = [sys.executable, "-c", PROGRAM, tmp_path]
        ended = subprocess.run(command, capture_output=True, text=True)
        status, said = ended.returncode, ended.stderr
        assert said.startswith("stopped\nwhat was finished is kept: ")
    else:
        process = CONTEXT.Process(target=interrupted, args=(tmp_path, False))
        process.start()
        process.join()
        status, said = process.exitcode, (tmp_path / "said").read_text()
    assert status == 130, said
    assert not any(word in said for word in ("Traceback", "KeyboardInterrupt", "Aborted"))
    with pytest.warns(EntropyLabWarning, match="2 of 4 units"):
        assert entropylab.open(tmp_path / "run").attrs["units_done"] == 2


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
