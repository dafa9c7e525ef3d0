"""Rules that were measured on one model: their multipliers differ by layer and head."""

import math
import warnings
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import pipelines
from ..checkpoints import magnitudes
from ..errors import EntropyLabError, EntropyLabWarning, counted
from ..sizes import Size
from .rules import LayerRule

Array = NDArray[Any]

MULTIPLIERS: Array = np.geomspace(0.1, 10, 61)
"""Multipliers of the softmax scale at which the entropy of rows is computed; 1 is in the middle."""

SMALLEST, LARGEST = float(MULTIPLIERS[0]), float(MULTIPLIERS[-1])
"""Multipliers are kept between these: attention can't be spread beyond uniform (multiplier 0), nor frozen harder."""


@dataclass(frozen=True, kw_only=True)
class OfOneModel(LayerRule):
    """A rule that was measured on one model.

    ``weights`` are the ``magnitudes`` of that model by layer, if they are known; ``others`` are layers that are left
    alone; ``kinds`` are the kinds of layers that were calibrated, None for the usual ones; ``train_size`` is the size
    that it takes for the training size, if that is known.
    """

    weights: dict[str, float] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    kinds: tuple[str, ...] | None = None
    train_size: Size | None = None

    @abstractmethod
    def heads(self) -> dict[str, int]:
        """Layer path -> how many heads the layer has."""

    @abstractmethod
    def by_head(self, layer: str, tokens: int, train_tokens: int, growth: float) -> Array:
        """The multipliers of a layer that is known (heads,)."""

    def check(self, pipe: Any) -> None:
        """The calibration must know every self-attention layer of the pipeline, with as many heads."""
        heads = self.heads()
        for layer in pipelines.layers(pipe):
            known = layer.kind != "self" or layer.path in self.others
            if not known and heads.get(layer.path) != layer.heads:
                raise EntropyLabError(
                    f"the calibration is of another model: {type(pipe).__name__} has layer {layer.path} with "
                    f"{layer.heads} heads, the calibration {heads.get(layer.path) or 'no such layer'}."
                )
        now = magnitudes(pipe) if self.weights else {}
        others = [path for path in now if not math.isclose(now[path], self.weights.get(path, now[path]), rel_tol=2e-3)]
        if others:
            message = f"the calibration is of other weights: {len(others)} of {len(now)} layers differ, as {others[0]}."
            warnings.warn(message, EntropyLabWarning, stacklevel=7)

    def factor(self, layer: str, tokens: int, train_tokens: int, growth: float = 1.0) -> Tensor:
        """One multiplier per head (heads,); 1 for a layer that is left alone."""
        if layer in self.others:
            return torch.ones((), dtype=torch.float64)
        heads = self.heads()
        if layer not in heads:
            has = f"{counted(len(heads), 'layer')} such as {next(iter(heads), 'none')}"
            raise EntropyLabError(f"the calibration is of another model: it has no layer {layer!r}, but {has}.")
        return torch.tensor(self.by_head(layer, tokens, train_tokens, growth), dtype=torch.float64)


@dataclass(frozen=True)
class ByLayer(OfOneModel):
    """Multipliers by layer, head and number of tokens; between calibrated sizes interpolated in log N.

    ``factors`` are log multipliers (sizes, heads) by layer, ``tokens`` log N of the sizes, ascending, and ``trained``
    T, with the text of the calibration's prompts: what another prompt has more or less of it does not count. For the
    layers ``still``, which have as many keys at every size (frames of a video, windows), log of T times the growth of
    the picture's area. ``tokens`` are empty while one size is calibrated: multipliers then hold at whatever N it has.
    """

    tokens: dict[str, Array]
    factors: dict[str, Array]
    trained: dict[str, float] = field(default_factory=dict)
    still: tuple[str, ...] = ()

    def heads(self) -> dict[str, int]:
        """Layer path -> how many heads the layer has."""
        return {layer: table.shape[1] for layer, table in self.factors.items()}

    def by_head(self, layer: str, tokens: int, train_tokens: int, growth: float) -> Array:
        """The multipliers of a layer that is known (heads,)."""
        known = self.tokens[layer]
        if not len(known):
            return np.exp(self.factors[layer][0])
        trained = self.trained[layer]
        here = np.log(trained * growth if layer in self.still else tokens - train_tokens + trained)
        if not known[0] - 1e-9 <= here <= known[-1] + 1e-9:
            raise EntropyLabError(
                f"the calibration covers {np.exp(known[0]):.0f} to {np.exp(known[-1]):.0f} tokens of layer {layer}. "
                f"Got {np.exp(here):.0f}: calibrate at a size that has as many."
            )
        return np.exp([np.interp(here, known, head) for head in self.factors[layer].T])


@dataclass(frozen=True)
class FromOneSize(OfOneModel):
    """Multipliers at any N from the rows at the training size: H(m; rows at T) = H_T - slope log(N/T), head by head.

    N and T are here the keys that grow with the picture, of which there are ``growing`` at T. ``responses`` are H(m)
    [nats] of the rows at T at each of ``MULTIPLIERS`` (heads, multipliers), ``slopes`` dH/dlog N at T (heads,). Where
    that asks for more than uniform attention, H_T gives way to H_T log N / log T, as in ``calibrate``.

    Source: ``entropylab.law.theory.one_size_multiplier``.
    """

    responses: dict[str, Array]
    slopes: dict[str, Array]
    growing: dict[str, float]

    def heads(self) -> dict[str, int]:
        """Layer path -> how many heads the layer has."""
        return {layer: len(slopes) for layer, slopes in self.slopes.items()}

    def by_head(self, layer: str, tokens: int, train_tokens: int, growth: float) -> Array:
        """The multipliers of a layer that is known (heads,)."""
        if tokens == train_tokens:
            return np.ones(len(self.slopes[layer]))
        response, grown = self.responses[layer], self.growing[layer]
        moved = self.slopes[layer] * np.log((tokens - train_tokens + grown) / grown)
        entropy = response[:, len(MULTIPLIERS) // 2]
        aims = aim_of(entropy, response[:, 0] + moved, tokens, train_tokens)
        return np.exp(multipliers_for(response, aims - moved))


def aim_of(trained: Array, largest: Array, tokens: Array | int, train_tokens: Array | int) -> Array:
    """The entropy to bring about [nats]: H_T, or H_T log N / log T where that is more than the ``largest`` in reach."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(trained <= largest, trained, trained * np.log(tokens) / np.log(train_tokens))


def multipliers_for(response: Array, entropy: Array) -> Array:
    """Log multipliers (...) at which rows with H(m) ``response`` (..., multipliers) have this ``entropy`` (...)."""
    found = np.full(entropy.shape, np.nan)
    for place in np.ndindex(entropy.shape):
        found[place] = np.interp(entropy[place], response[place][::-1], np.log(MULTIPLIERS[::-1]))
    return found
