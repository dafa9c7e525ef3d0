"""All figures from a small random pipeline, and what is written of them."""

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from entropylab.figures import gaussian_ablation, measuring, regenerate, samples

from ..conftest import new_random_pipeline

NAMES = ("calibration", "gaussian_ablation", "law", "logits", "measurement", "pictures", "sweep")
MEASURED = [f"{name}.nc" for name in NAMES]
LAW = ["law_checks", "layers"]
DRAWN = ["figure5", "figure6", "gaussian_ablation", *LAW, "logits", "samples_96x64", "sweep"]


def whole(names: list[str]) -> list[str]:
    return [f"{name}.{ending}" for name in names for ending in ("csv", "pdf", "png")]


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.csv"))}


def leave_pictures_empty(patch: pytest.MonkeyPatch) -> None:
    """Figures are made and not painted, which takes most of the time: their files are empty."""
    patch.setattr(Figure, "savefig", lambda self, path, **options: path.write_bytes(b""))


def run_small(out: Path, sharpness: float = 1) -> list[Path]:
    """Everything, from the small random pipeline, at fewer sizes and multipliers."""
    pipe = new_random_pipeline()
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        for name, weight in pipe.unet.named_parameters():
            weight *= sharpness if "attn1.to_q" in name else 1
        patch.setattr(measuring, "load", lambda model: pipe)
        patch.setattr(measuring, "SIDES", ((1, 1), (1.5, 1), (1.5, 1.5)))
        patch.setattr(measuring, "LOWER", (1.5, 1))
        patch.setattr(measuring, "HIGHER", (1.5, 1.5))
        patch.setattr(measuring, "NUMBERS", (0.7, 1.5))
        patch.setattr(measuring, "ITERATIONS", 1)
        patch.setattr(samples, "SIDES", ((1.5, 1),))
        patch.setattr(gaussian_ablation, "TOKENS", (64, 256))
        patch.setattr(gaussian_ablation, "TRAINED", 64)
        patch.setattr(gaussian_ablation, "DEPARTURES", (0.0, 1.0))
        patch.setattr(gaussian_ablation, "DISTRIBUTIONS", ("student_t", "low_rank"))
        patch.setattr(gaussian_ablation, "SETTINGS", {"d": 8, "heads": 2, "queries": 16, "samples": 3})
        return regenerate(out, samples=2, steps=1, progress=False)
