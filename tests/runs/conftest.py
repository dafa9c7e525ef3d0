"""What the tests of long runs share: a run that is finished."""

import shutil
from pathlib import Path

import pytest

from .stub import measure


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests copy it before they change it."""
    path = tmp_path_factory.mktemp("runs") / "done"
    measure(path, scaling="original", sizes=[32])
    return path


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "run"))
