"""Features of pictures, in which distances are measured (Inception's, the embedded, or any), also of real ones."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..errors import EntropyLabError, one_line
from ..sizes import Size
from .distances import Array, check_enough
from .image_text import FOLDER, embedded_features
from .methods import as_images, resized
from .saving import picture_files, read_picture

BATCH = 64
INCEPTION = "Inception-v3 pool3, 2048-d"

FILE = "reference.safetensors"
DRAWN = 4
"""Placements of every real picture in the shipped file, at random scales and positions."""


@dataclass(frozen=True)
class Reference:
    """Features (pictures, dimension) of real pictures, which Frechet distance, coverage and recall compare with.

    ``size`` is that at which they were looked at, if it is known; ``copies`` features of the same picture follow each
    other; ``measures`` are "clip_score" and the defects of the pictures, as far as they are known.
    """

    features: Array
    size: Size | None = None
    copies: int = 1
    measures: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Features:
    """A feature extractor: a module from pictures (batch, 3, height, width) of uint8 to features (batch, dimension)."""

    name: str
    module: nn.Module
    embedded: bool = False  # features of the embedded pipeline's real pictures are shipped for it
    published: bool = False  # published FID is measured in these: only Inception's
    known: dict[str, Reference] = field(default_factory=dict, repr=False, compare=False)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Array:
        """Features (pictures, dimension) in float64 of pictures (pictures, 3, height, width) of uint8."""
        place = next((one.device for one in self.module.parameters()), torch.device("cpu"))
        found = torch.cat([self.module(part.to(place)).flatten(1) for part in images.split(BATCH)])
        return found.double().cpu().numpy()

    @property
    def dimension(self) -> int:
        """How many features."""
        stated = getattr(self.module, "num_features", None)
        return int(stated) if stated is not None else self(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape[1]

    def reference(self, reference: Any, size: Size) -> Reference:
        """Features of the real pictures for a size: as shipped, as given, or of a folder's pictures, resized to it."""
        if reference is None:
            return embedded_reference(size)
        if is_features(reference):
            return Reference(reference.astype(float))
        if self.published:  # looked at in their own size, once for all sizes
            if "real" not in self.known:
                self.known["real"] = Reference(np.concatenate([self(image) for image in pictures_of(reference)]))
            return self.known["real"]
        same, parts = (resized(image, size) for image in pictures_of(reference)), []
        while batch := list(islice(same, BATCH)):
            parts.append(self(torch.cat(batch)))
        return Reference(np.concatenate(parts), size)

    def check_reference(self, reference: Any, embedded: bool) -> None:
        """Raise an EntropyLabError where no real pictures are known, or too few; before any sampling."""
        if reference is None and not (embedded and self.embedded):
            raise EntropyLabError(
                "reference must be given for a pipeline or for features other than the embedded ones: a folder of "
                "real pictures, pictures, or their features as an array (pictures, dimension). Got None."
            )
        if isinstance(reference, np.ndarray) and reference.ndim not in (2, 4):
            raise EntropyLabError(
                f"reference must be pictures, or features (pictures, dimension). Got shape {reference.shape}."
            )
        if is_features(reference) and (reference.shape[1] != self.dimension or not np.isfinite(reference).all()):
            raise EntropyLabError(
                f"reference must have the {self.dimension} features of {self.name}, all finite. "
                f"Got {reference.shape[1]}, {np.isfinite(reference).sum()} of {reference.size} numbers finite."
            )
        if reference is not None:
            there = picture_files(reference, "reference") if isinstance(reference, str | Path) else reference
            check_enough("reference", len(there), self.dimension)


def is_features(reference: Any) -> bool:
    """Whether real pictures are given by their features."""
    return isinstance(reference, np.ndarray) and reference.ndim == 2


def features_of(features: Any, embedded: bool, device: Any = "cpu") -> Features:
    """The extractor of ``evaluate(features=...)``: "inception", a module, or None for what suits the pipeline."""
    if isinstance(features, Features):
        return features
    if features is None and embedded:
        module = embedded_features()
        return Features(module.name, module, embedded=True)
    if features is None or features == "inception":
        return inception(device)
    if isinstance(features, nn.Module):
        return Features(str(getattr(features, "name", type(features).__name__)), features.eval())
    raise EntropyLabError(
        "features must be 'inception' or a torch.nn.Module from uint8 pictures (batch, 3, height, width) to features "
        f"(batch, dimension). Got {features!r}."
    )


def inception(device: Any = "cpu") -> Features:
    """Inception's pool3 features as torchmetrics reads them, whose weights it downloads."""
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        module = FrechetInceptionDistance(feature=2048).inception
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise EntropyLabError(
            "features 'inception' need torchmetrics and torch-fidelity (pip install 'entropylab[quality]') "
            f"and weights from the network: {one_line(error, 200)} Otherwise pass features=, a torch.nn.Module."
        ) from error
    return Features(INCEPTION, module.to(device), published=True)


def pictures_of(reference: Any) -> Iterator[Tensor]:
    """The pictures of a folder, or pictures in any form, one after the other: (1, 3, height, width) of uint8."""
    if isinstance(reference, str | Path):
        yield from (read_picture(path)[None] for path in picture_files(reference, "reference"))
    else:
        yield from as_images(reference).split(1)


def embedded_reference(size: Size, file: Path = FOLDER / FILE) -> Reference:
    """The real pictures at a size, or at the one nearest in shape, then in area, that is shipped."""

    def apart(other: Size) -> tuple[float, ...]:  # to whole percent, so that equal shapes are equal
        shapes, areas = (other[0] / other[1], size[0] / size[1]), (other[0] * other[1], size[0] * size[1])
        return tuple(round(abs(float(np.log(one / two))), 2) for one, two in (shapes, areas))

    with safe_open(file, framework="numpy") as tensors:
        names = list(tensors.keys())
        height, width = min({(int(h), int(w)) for name in names for h, w in [name.split(".")[0].split("x")]}, key=apart)
        start = f"{height}x{width}."
        found = {name[len(start) :]: tensors.get_tensor(name).astype(float) for name in names if name.startswith(start)}
    return Reference(found.pop("features"), (height, width), DRAWN, found)
