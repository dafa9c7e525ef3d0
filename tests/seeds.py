"""Random numbers, and generators of them, from fixed seeds."""

import torch
from torch import Tensor


def generator(seed: int = 0) -> torch.Generator:
    """A seeded generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    """A generator for each of so many samples, seeded one after the other."""
    return [generator(first + index) for index in range(count)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal random numbers."""
    return torch.randn(shape, generator=generator(seed))


def tokens(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Normal random numbers drawn in float64, so that they are the same in every dtype but for its rounding."""
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(device, dtype)
