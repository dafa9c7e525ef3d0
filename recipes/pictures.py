"""The training pictures: emoji at random places and sizes on calm backgrounds.

On one background colour for all, attention learns "background" as a single direction, and the logits of a row fall
into two heaps. So the background varies: colours, soft gradients, gentle textures.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from entropylab.models.pictures import captions, draw, fetch

PIXELS = 64


def background(pixels: int, rng: np.random.Generator) -> np.ndarray:
    """A calm background: uint8 (pixels, pixels, 3).

    A light colour passes into a second one near it: nowhere, along a direction, from a centre outwards, in soft
    clouds, or in soft stripes or dots.
    """
    first = rng.uniform(120, 255, 3)
    second = np.clip(first + rng.normal(0, 32, 3), 90, 255)
    y, x = np.mgrid[0:pixels, 0:pixels] / pixels
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    kind = rng.choice(["plain", "gradient", "glow", "clouds", "stripes", "dots"], p=[0.3, 0.25, 0.1, 0.15, 0.1, 0.1])
    if kind == "plain":
        share = np.zeros((pixels, pixels))
    elif kind == "gradient":
        share = (along - along.min()) / (along.max() - along.min())
    elif kind == "glow":
        centre = rng.uniform(0.2, 0.8, 2)
        share = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 0.15)
    elif kind == "clouds":
        coarse = Image.fromarray(rng.uniform(0, 255, (5, 5)).astype(np.uint8))
        share = np.asarray(coarse.resize((pixels, pixels), Image.Resampling.BICUBIC)) / 255
    else:
        waves, phase = rng.uniform(2, 5), rng.uniform(0, 2 * np.pi, 2)
        share = 0.35 * (1 + np.sin(2 * np.pi * waves * along + phase[0])) / 2
        if kind == "dots":
            across = np.cos(angle) * y - np.sin(angle) * x
            share *= 1 + np.sin(2 * np.pi * waves * across + phase[1])
    colours = first + share[..., None] * (second - first)
    return np.clip(colours.round(), 0, 255).astype(np.uint8)


def place(picture: Image.Image, pixels: int, rng: np.random.Generator) -> np.ndarray:
    """An RGBA picture somewhere on a background, 0.64 to 0.95 of the frame wide: uint8 (pixels, pixels, 3)."""
    side = round(pixels * rng.uniform(0.64, 0.95))
    corner = tuple(int(c) for c in rng.integers(0, pixels - side + 1, 2))
    canvas = Image.fromarray(background(pixels, rng)).convert("RGBA")
    canvas.alpha_composite(picture.resize((side, side), Image.Resampling.LANCZOS), corner)
    return np.asarray(canvas.convert("RGB"))


def kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array at ``path``, made first if it isn't there: a run that goes on finds what it has."""
    if not path.exists():
        partial = path.with_suffix(".partial.npy")
        np.save(partial, make())
        partial.replace(path)
    return np.load(path)


def drawings(folder: Path) -> list[Image.Image]:
    """The captioned emoji as RGBA pictures of 256 pixels, in the order of ``captions()``."""
    icons = json.loads(fetch(folder).read_text(encoding="utf-8"))
    return [draw(icons, name) for name in captions()]


def other_drawings(folder: Path) -> list[Image.Image]:
    """The emoji without captions (no flags, no skin tones), which teach the autoencoder only."""
    icons = json.loads(fetch(folder).read_text(encoding="utf-8"))
    skipped = ("flag", "skin-tone", "keycap", "japanese", "-thirty", "-oclock", "person", "man-", "woman-")
    return [
        draw(icons, name)
        for name in icons["icons"]
        if name not in captions() and not any(word in name for word in skipped)
    ]


def variants(pictures: list[Image.Image], count: int, seed: int, pixels: int = PIXELS) -> np.ndarray:
    """``count`` placements of each picture: uint8 (pictures, count, pixels, pixels, 3)."""
    rng = np.random.default_rng(seed)
    return np.stack([np.stack([place(picture, pixels, rng) for _ in range(count)]) for picture in pictures])
