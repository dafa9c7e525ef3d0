"""Runs of the stub that are finished."""

import shutil
from pathlib import Path

import pytest

from .stub import again, measure


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four units; tests copy them before they change them."""
    path = tmp_path_factory.mktemp("runs") / "done"
    again(path)
    return path


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "run"))


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All sixteen units, made by one process."""
    path = tmp_path_factory.mktemp("runs") / "alone"
    measure(path)
    return path
