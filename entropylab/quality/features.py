"""Features of pictures, in which Frechet distance and diversity are measured: Inception's, the embedded, or any."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import EntropyLabError, one_line
from ..files import as_path
from ..sizes import Size
from .image_text import embedded_features
from .intervals import Array
from .reference import Reference, embedded_reference

BATCH = 64
INCEPTION = "Inception-v3 pool3, 2048-d"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Features:
    """A feature extractor.

    Attributes:
        name: for tables.
        module: from pictures (batch, 3, height, width) of uint8 to features (batch, dimension).
        embedded: whether reference features of the embedded pipeline's pictures are shipped for it.
        published: whether published FID is measured in these features: only Inception's.
    """

    name: str
    module: nn.Module
    embedded: bool = False
    published: bool = False
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
        if isinstance(reference, np.ndarray):
            return Reference(reference.astype(float))
        from .methods import as_images, resized

        given = read_pictures(reference) if isinstance(reference, str | Path) else as_images(reference).split(1)
        if self.published:
            return self.as_they_are(given)
        same = (resized(image, size) for image in given)
        parts = []
        while batch := list(islice(same, BATCH)):
            parts.append(self(torch.cat(batch)))
        return Reference(np.concatenate(parts), size)

    def as_they_are(self, pictures: Iterable[Tensor]) -> Reference:
        """Features of pictures of their own size, worked out once for all sizes."""
        if "reference" not in self.known:
            self.known["reference"] = Reference(np.concatenate([self(image) for image in pictures]))
        return self.known["reference"]


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
    from torchmetrics.image.fid import FrechetInceptionDistance

    try:
        module = FrechetInceptionDistance(feature=2048).inception
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise EntropyLabError(
            "features 'inception' need the package torch-fidelity and its weights, which it downloads: "
            f"{one_line(error, 200)} Pass features=, a torch.nn.Module of your own, otherwise."
        ) from error
    return Features(INCEPTION, WithCount(module).to(device), published=True)


class WithCount(nn.Module):
    """Inception, and how many features it gives."""

    num_features = 2048

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 2048)."""
        return self.module(images)


def check_reference(reference: Any, features: Features, embedded: bool) -> None:
    """Raise an EntropyLabError where no real pictures are known, or too few; before any sampling."""
    from .reference import check_enough

    if reference is None:
        if not (embedded and features.embedded):
            raise EntropyLabError(
                "reference must be given for a pipeline or for features other than the embedded ones: a folder of real "
                "pictures, pictures, or their features as an array (pictures, dimension). Got None."
            )
    elif isinstance(reference, np.ndarray) and reference.ndim == 2:
        if reference.shape[1] != features.dimension:
            raise EntropyLabError(
                f"reference must have the {features.dimension} features of {features.name}. Got {reference.shape[1]}."
            )
        check_enough("reference", len(reference), features.dimension)
    elif isinstance(reference, str | Path):
        check_enough("reference", len(picture_files(reference)), features.dimension)


def picture_files(folder: str | Path) -> list[Path]:
    """The pictures of a folder, by name."""
    place = as_path(folder, "reference", "folder")
    if not os.path.isdir(place):
        raise EntropyLabError(f"reference must be a folder of pictures. {place} is none.")
    return sorted(path for path in place.iterdir() if path.suffix.lower() in PICTURES)


def read_pictures(folder: str | Path) -> Iterator[Tensor]:
    """The pictures of a folder, one after the other: (1, 3, height, width) of uint8."""
    from .saving import read_picture

    for path in picture_files(folder):
        yield read_picture(path)[None]
