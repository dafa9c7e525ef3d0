"""The models that pictures are judged by, read before any sampling."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..errors import EntropyLabError
from ..sizes import Size
from .clip import Clip, clip_of
from .defects import defects
from .diversity import NEIGHBOURS
from .features import Features, check_reference, features_of
from .judged import Judged
from .reference import Reference, check_enough, needed


@dataclass(frozen=True)
class Judge:
    """The models that pictures are judged by.

    Attributes:
        metrics: what is wanted.
        given: the reference, as the caller gave it.
        features: for distances, if any are wanted.
        clip: for agreement, if it is wanted.
    """

    metrics: tuple[str, ...]
    given: Any
    features: Features | None
    clip: Clip | None

    def __call__(self, images: Tensor, prompts: list[str]) -> Judged:
        """Features, agreement and defects of pictures (pictures, 3, height, width) of uint8."""
        clip = self.clip
        return Judged(
            None if self.features is None else self.features(images),
            clip.scores(images, prompts) if clip is not None and "clip" in self.metrics else None,
            defects(images, lambda found: clip.scores(found, prompts)) if clip and "defects" in self.metrics else None,
        )

    def reference(self, size: Size) -> Reference | None:
        """The real pictures' features, if any are needed."""
        return None if self.features is None else self.features.reference(self.given, size)

    def check_count(self, count: int) -> None:
        """Raise an EntropyLabError if so many pictures are too few for what is wanted."""
        if self.features is not None and "fid" in self.metrics:
            check_enough("samples", count, self.features.dimension)
        if "diversity" in self.metrics and count <= NEIGHBOURS + 2:
            raise EntropyLabError(f"samples must be at least {NEIGHBOURS + 3} for metric 'diversity'. Got {count}.")

    @property
    def least(self) -> int:
        """How many pictures a Frechet distance needs, if one is wanted; else 1."""
        return needed(self.features.dimension) if self.features is not None and "fid" in self.metrics else 1

    def size_on(self, device: torch.device) -> int:
        """Bytes of these models on a device."""
        modules = [part for part in (self.features and self.features.module, self.clip and self.clip.model) if part]
        tensors = {id(one): one for part in modules for one in (*part.parameters(), *part.buffers())}
        return sum(one.numel() * one.element_size() for one in tensors.values() if one.device == device)

    def names(self) -> dict[str, Any]:
        """What tables must say: the models, and whether distances may be compared with published ones."""
        found: dict[str, Any] = {}
        if self.features is not None:
            found["features"] = self.features.name
            found["comparable_with_published_fid"] = int(self.features.published)
        return found | ({"clip_model": self.clip.name} if self.clip is not None else {})


def new_judge(
    metrics: tuple[str, ...], embedded: bool, reference: Any, features: Any, clip: Any, device: torch.device
) -> Judge:
    """The models that the metrics need, read before any sampling; those of the hub are put on ``device``."""
    distances = {"fid", "diversity"} & set(metrics)
    agreements = {"clip", "defects"} & set(metrics)
    if "fid" in metrics and find_spec("torchmetrics") is None:
        raise EntropyLabError("metric 'fid' needs torchmetrics, which is not here: pip install 'entropylab[quality]'.")
    found = features_of(features, embedded, device) if distances else None
    if found is not None:
        check_reference(reference, found, embedded)
    return Judge(metrics, reference, found, clip_of(clip, embedded, device) if agreements else None)
