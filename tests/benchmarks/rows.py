"""``row_statistics`` alone, against one attention call on the same q, k and v, and against the materialised map."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from entropylab import row_statistics

from .paired import time_ratios

HEADS, WIDTH = 8, 40


def materialised(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Row entropy the obvious way: the whole map, then its logarithm."""
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return -(weights * weights.clamp(min=1e-30).log()).sum(-1)


def run(repeats: int) -> list[dict[str, Any]]:
    """One row per number of tokens and contestant; the ratio is to one attention call."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for tokens in (256, 1024, 4096):
        q, k, v = (torch.randn(1, HEADS, tokens, WIDTH, device=device) for _ in range(3))
        works = {
            "attention call": partial(F.scaled_dot_product_attention, q, k, v),
            "entropy": partial(row_statistics, q, k, statistics=["entropy"]),
            "entropy and sigma2": partial(row_statistics, q, k, statistics=["entropy", "variance"]),
            "sigma2": partial(row_statistics, q, k, statistics=["variance"]),
            "materialised map": partial(materialised, q, k),
        }
        with torch.no_grad():
            times = time_ratios(works, repeats)
        rows += [
            {"benchmark": "row_statistics", "case": f"N = {tokens}", "contestant": name, **time}
            for name, time in times.items()
        ]
    return rows
