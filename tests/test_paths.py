"""Names that no file can have, wherever a path is taken."""

from pathlib import Path
from typing import Any

import pytest

import entropylab
from entropylab import EntropyLabError
from entropylab.calibration import Calibration
from entropylab.prompts import read_prompts
from entropylab.quality.evaluation import evaluate
from entropylab.runs import merge, status

from .datasets import synthetic


@pytest.fixture(scope="module")
def pipe() -> Any:
    return entropylab.load()


TAKERS = {
    "save": lambda path, pipe: entropylab.save(synthetic(samples=1, steps=1), path),
    "open": lambda path, pipe: entropylab.open(path),
    "report": lambda path, pipe: entropylab.report(synthetic(samples=1, steps=1), f"{path}.html"),
    "load": lambda path, pipe: entropylab.load(path),
    "measure": lambda path, pipe: entropylab.measure(pipe, [32], samples=1, out=path),
    "measure prompts": lambda path, pipe: entropylab.measure(pipe, [32], samples=1, prompts=path),
    "evaluate": lambda path, pipe: evaluate(pipe, [32], samples=8, metrics=["diversity"], pictures=path),
    "evaluate reference": lambda path, pipe: evaluate(pipe, [32], metrics=["fid"], reference=path),
    "read_prompts": lambda path, pipe: read_prompts(path),
    "calibration": lambda path, pipe: Calibration.open(path),
    "status": lambda path, pipe: status(path),
    "merge": lambda path, pipe: merge([path]),
}


@pytest.mark.parametrize("taker", TAKERS)
def test_what_no_file_can_be_called_is_one_clear_error(
    taker: str, pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a\0b", "a\ud800b", "x" * 300, Path("a\0b")):
        with pytest.raises(EntropyLabError):
            TAKERS[taker](name, pipe)
    assert list(tmp_path.iterdir()) == []
