"""Means over samples and other dimensions, of arrays in which NaN stands for what was not measured."""

from dataclasses import dataclass

import numpy as np


def mean_known(stacked: np.ndarray, axis: int | tuple[int, ...] = 0, keepdims: bool = False) -> np.ndarray:
    """Mean over axes of what is not NaN."""
    known = ~np.isnan(stacked)
    total, count = np.where(known, stacked, 0).sum(axis, keepdims=keepdims), known.sum(axis, keepdims=keepdims)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


@dataclass
class Moments:
    """Count, mean and sum of squared deviations over samples, updated online; two of them merge exactly.

    Each an array (entries, branch, step, layer, head); a sample that is NaN somewhere does not count there.
    """

    count: np.ndarray
    mean: np.ndarray
    m2: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """Moments over axis 2 (sample) of (entries, branch, sample, step, layer, head)."""
        known = ~np.isnan(values)
        count = known.sum(axis=2)
        mean = np.where(known, values, 0).sum(axis=2) / np.maximum(count, 1)
        squares = np.where(known, values - mean[:, :, None], 0) ** 2
        return cls(count, mean, squares.sum(axis=2))

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both sets of samples together; layers, steps or heads may have grown in between."""
        ours, theirs = (
            [np.nan_to_num(part) for part in parts]
            for parts in zip(*(fit_shapes([a, b]) for a, b in zip(self.parts, other.parts, strict=True)), strict=True)
        )
        count = ours[0] + theirs[0]
        share, delta = theirs[0] / np.maximum(count, 1), theirs[1] - ours[1]
        return Moments(count, ours[1] + delta * share, ours[2] + theirs[2] + delta**2 * ours[0] * share)

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Count, mean and m2."""
        return self.count.astype(float), self.mean, self.m2

    def where_known(self, values: np.ndarray) -> np.ndarray:
        """``values`` with NaN where no sample counted, and a sample axis of length 1."""
        return np.where(self.count > 0, values, np.nan)[:, :, None]


AXES = {"branch": 1, "step": 3, "layer": 4, "head": 5}


def averaged(values: np.ndarray, keep: tuple[str, ...] | None) -> np.ndarray:
    """Average over the dimensions that are not kept; each stays with length 1. NaN (padding) is not averaged in."""
    axes = tuple(axis for name, axis in AXES.items() if keep is not None and name not in keep)
    return mean_known(values, axes, keepdims=True) if axes else values


def fit_shapes(arrays: list[np.ndarray], but: int | None = None) -> list[np.ndarray]:
    """Pad arrays with NaN to a common shape, except along axis ``but``."""
    common = np.max([array.shape for array in arrays], 0)
    padded = []
    for array in arrays:
        missing = [0 if axis == but else side - array.shape[axis] for axis, side in enumerate(common)]
        padding = [(0, count) for count in missing]
        padded.append(np.pad(array, padding, constant_values=np.nan) if any(missing) else array)
    return padded
