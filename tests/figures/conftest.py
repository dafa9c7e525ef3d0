"""The scripts of figures/, importable by name; all figures, drawn once from a small random pipeline."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import xarray as xr
from matplotlib.figure import Figure

import gaussian_ablation
import regenerate
import samples
import shared
import sweep

from ..conftest import new_random_pipeline
from ..datasets import under_both


@pytest.fixture(scope="session")
def ds() -> xr.Dataset:
    return under_both(slope=0.95)


def run_small(out: Path) -> None:
    """Everything, from the small random pipeline, at fewer sizes and multipliers."""
    pipe = new_random_pipeline()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("entropylab.load", lambda model: pipe, raising=False)
        patch.setattr(shared, "SIDES", ((1, 1), (1.5, 1), (1.5, 1.5)))
        patch.setattr(shared, "LOWER", (1.5, 1))
        patch.setattr(shared, "HIGHER", (1.5, 1.5))
        patch.setattr(shared, "ITERATIONS", 1)
        patch.setattr(sweep, "NUMBERS", (0.7, 1.5))
        patch.setattr(samples, "SIDES", ((1.5, 1),))
        patch.setattr(gaussian_ablation, "TOKENS", (64, 256))
        patch.setattr(gaussian_ablation, "TRAINED", 64)
        patch.setattr(gaussian_ablation, "DEPARTURES", (0.0, 1.0))
        patch.setattr(gaussian_ablation, "DISTRIBUTIONS", ("student_t", "low_rank"))
        patch.setattr(gaussian_ablation, "SETTINGS", {"d": 8, "heads": 2, "queries": 16, "samples": 3})
        regenerate.command(["a small one", "--out", str(out), "--samples", "2", "--steps", "1", "--quiet"])


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("figures") / "made" / "on the way"
    run_small(out)
    return out


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not painted, which takes most of the time: their files are empty."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: path.write_bytes(b""))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch, unpainted: None) -> Iterator[list[Figure]]:
    """The figures that scripts made."""
    made: list[Figure] = []
    with monkeypatch.context() as patch:
        patch.setattr(plt, "close", made.append)
        yield made
    plt.close("all")
