"""All figures, drawn once from a small random pipeline, and figures that are laid out but not painted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import xarray as xr
from matplotlib.figure import Figure

import gaussian_ablation
import regenerate
import rules
import samples
import shared
import sweep

from ..conftest import new_random_pipeline
from ..datasets import under_both


@pytest.fixture(scope="session")
def ds() -> xr.Dataset:
    return under_both(slope=0.95)


def laid_out(figure: Figure, path: Path, **_: Any) -> None:
    """What takes the place of painting, which is most of the work: the file is empty."""
    if path.suffix == ".png":
        figure.draw_without_rendering()
    path.write_bytes(b"")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything, from the small random pipeline, at fewer sizes and multipliers."""
    out = tmp_path_factory.mktemp("figures") / "made" / "on the way"
    pipe = new_random_pipeline()
    small = {
        shared: {"SIDES": ((1, 1), (1.5, 1), (1.5, 1.5)), "LOWER": (1.5, 1), "HIGHER": (1.5, 1.5), "ITERATIONS": 1},
        sweep: {"NUMBERS": (0.7, 1.5)},
        rules: {"RULES": ("original", "sqrt_log", "proportional")},
        samples: {"SIDES": ((1.5, 1),)},
        gaussian_ablation: {
            "TOKENS": (64, 256), "TRAINED": 64, "DEPARTURES": (0.0, 1.0), "DISTRIBUTIONS": ("student_t", "low_rank"),
            "SETTINGS": {"d": 8, "heads": 2, "queries": 16, "samples": 3},
        },
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("entropylab.load", lambda model: pipe, raising=False)
        patch.setattr(Figure, "savefig", laid_out)
        for module, numbers in small.items():
            for name, value in numbers.items():
                patch.setattr(module, name, value)
        regenerate.command(["a small one", "--out", str(out), "--samples", "2", "--steps", "1", "--quiet"])
    return out


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, and not even laid out."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: path.write_bytes(b""))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch, unpainted: None) -> Iterator[list[Figure]]:
    """The figures that scripts made."""
    made: list[Figure] = []
    with monkeypatch.context() as patch:
        patch.setattr(plt, "close", made.append)
        yield made
    plt.close("all")
