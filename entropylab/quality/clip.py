"""The CLIP score: how well pictures agree with their prompts, by a model of the hub, a folder, or the embedded one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import EntropyLabError, one_line
from .distances import Array
from .image_text import ImageText, TextTower, embedded_features

HUB = "openai/clip-vit-large-patch14"
"""The model that torchmetrics takes by itself; the paper does not say which it took."""

BATCH = 64


class Clip:
    """Agreement between pictures and prompts, by a model and the processor that makes its arguments from them."""

    def __init__(self, name: str, model: Any, processor: Any) -> None:
        self.name, self.model, self.processor = name, model.eval(), processor
        self.known: dict[str, Tensor] = {}

    @torch.no_grad()
    def scores(self, images: Tensor, prompts: Sequence[str]) -> Array:
        """Cosine of each picture (pictures, 3, height, width; uint8) and its prompt: (pictures,), in [-1, 1]."""
        texts = torch.stack([self.text(prompt) for prompt in prompts])
        found = [self.image(part) for part in images.split(BATCH)]
        return F.cosine_similarity(torch.cat(found), texts, dim=-1).double().cpu().numpy()

    def image(self, images: Tensor) -> Tensor:
        """Features of a batch of pictures."""
        given = self.processor(images=list(images), return_tensors="pt", padding=True)
        return plain(self.model.get_image_features(pixel_values=given["pixel_values"].to(self.device)))

    def text(self, prompt: str) -> Tensor:
        """Features (dimension,) of a prompt, worked out once."""
        if prompt not in self.known:
            given = self.processor(text=[prompt], return_tensors="pt", padding=True, truncation=True)
            tokens = {name: given[name].to(self.device) for name in ("input_ids", "attention_mask")}
            self.known[prompt] = plain(self.model.get_text_features(**tokens))[0]
        return self.known[prompt]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device


class EmbeddedClip(Clip):
    """The embedded image-text model, or one that is being trained, with the embedded pipeline's text encoder."""

    def __init__(self, model: ImageText | None = None) -> None:
        tower, features = TextTower(), model or embedded_features()
        super().__init__(features.name, nn.ModuleList([features, tower.encoder]), tower)
        self.features = features

    def image(self, images: Tensor) -> Tensor:
        """Features (batch, 32) of a batch of pictures."""
        return self.features(images)

    def text(self, prompt: str) -> Tensor:
        """Features (32,) of a prompt, worked out once."""
        if prompt not in self.known:
            self.known[prompt] = self.features.text_features(self.processor([prompt]))[0]
        return self.known[prompt]


def plain(found: Any) -> Tensor:
    """Features as a tensor; some releases of transformers give them with other outputs beside them."""
    return found if isinstance(found, Tensor) else found.pooler_output


def clip_of(model: Any, embedded: bool, device: Any = "cpu") -> Clip:
    """The model of ``evaluate(clip=...)``: a Clip, a hub id or folder, or None for what suits the pipeline."""
    if isinstance(model, Clip):
        return model
    if model is None and embedded:
        return EmbeddedClip()
    if not isinstance(model, str | Path | None):
        raise EntropyLabError(f"clip must be a hub id, a folder, or a Clip. Got {type(model).__name__}.")
    from transformers import CLIPModel, CLIPProcessor

    source = str(model or HUB)
    try:
        found = CLIPModel.from_pretrained(source, use_safetensors=True)  # no weights that are programs
        return Clip(source, found.to(device), CLIPProcessor.from_pretrained(source))
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise EntropyLabError(
            f"clip model {source!r} can't be had as a folder, or from the Hugging Face hub: {one_line(error, 200)}"
        ) from error
