"""The embedded pictures' own image-text model: one space of 32 features for pictures and for prompts.

A small convolutional image tower, trained by ``python -m recipes.image_text`` against the embedded pipeline's own text
encoder (contrastive learning after Radford et al. 2021). Its distances and scores are comparable with each other only.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..models.prompts import FOLDER as PIPELINE_FOLDER

FOLDER = Path(str(resources.files(__package__).joinpath("emoji")))
"""Weights of the towers, and features of the real pictures."""

WEIGHTS = "image_text.safetensors"
NAME = "emoji image-text features, 32-d"
DIMENSION = 32
TEXT_WIDTH = 128
SIDE = 64
"""Pictures are brought to this side squared of area, whatever their shape, before they are looked at [pixels]."""

MULTIPLE = 4
"""Sides of a picture that is looked at are multiples of this [pixels]."""


class Block(nn.Module):
    """Halve the sides and change the channels, with a shortcut around two convolutions."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(8, before), nn.GroupNorm(8, after)])
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.Conv2d(after, after, 3, padding=1)]
        )
        self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, before, height, width) to (batch, after, height / 2, width / 2)."""
        found = image
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            found = convolution(F.silu(norm(found)))
        return found + self.shortcut(F.avg_pool2d(image, 2, ceil_mode=True))


class ImageText(nn.Module):
    """An image tower, and a projection of the pooled text that a CLIP text encoder gives."""

    name = NAME
    num_features = DIMENSION

    def __init__(self, channels: Sequence[int] = (24, 48, 96, 128), dimension: int = DIMENSION) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels[0], 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in pairwise(channels)))
        self.norm = nn.GroupNorm(8, channels[-1])
        self.project_image = nn.Linear(channels[-1], dimension)
        self.project_text = nn.Linear(TEXT_WIDTH, dimension)
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    def forward(self, images: Tensor) -> Tensor:
        """Features (batch, 32) of pictures (batch, 3, height, width), uint8 of any size, as torchmetrics hands them."""
        return self.image_features(as_seen(images))

    def image_features(self, images: Tensor) -> Tensor:
        """Features (batch, 32) of pictures (batch, 3, height, width) in [-1, 1] of about 64 x 64 pixels."""
        found = F.silu(self.norm(self.blocks(self.stem(images))))
        return self.project_image(found.mean((-2, -1)))

    def text_features(self, pooled: Tensor) -> Tensor:
        """Features (batch, 32) of pooled text (batch, 128)."""
        return self.project_text(pooled)


def as_seen(images: Tensor) -> Tensor:
    """uint8 pictures (batch, 3, height, width) as the image tower sees them: [-1, 1], an area of about 64 x 64."""
    height, width = images.shape[-2:]
    shrink = SIDE / (height * width) ** 0.5
    size = [max(MULTIPLE, MULTIPLE * round(side * shrink / MULTIPLE)) for side in (height, width)]
    values = images.float()
    if [height, width] != size:
        values = F.interpolate(values, size, mode="bilinear", antialias=True, align_corners=False)
    return values / 127.5 - 1


class TextTower:
    """The embedded pipeline's tokenizer and text encoder, frozen: prompts to pooled text (batch, 128)."""

    def __init__(self) -> None:
        from transformers import CLIPTextModel, CLIPTokenizer

        self.tokenizer = CLIPTokenizer.from_pretrained(PIPELINE_FOLDER / "tokenizer")
        self.encoder = CLIPTextModel.from_pretrained(PIPELINE_FOLDER / "text_encoder").float().eval()

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Pooled text, after the last layer's norm, at the token that ends the prompt."""
        tokens = self.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        return self.encoder(tokens).pooler_output


@lru_cache(maxsize=1)
def embedded_features() -> ImageText:
    """The model that is shipped in the package, frozen, on the CPU."""
    model = ImageText()
    weights = {name: value.float() for name, value in load_file(FOLDER / WEIGHTS).items()}
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)
