"""The training pictures: Noto emoji (Google, Apache-2.0), drawn from their SVGs, at random places and sizes.

The SVGs come from the npm package ``@iconify-json/noto``, which carries all of them in one JSON file. The pipelines
learn them on calm backgrounds: colours, soft gradients, gentle textures. On white, attention learns "background" as a
single direction, and the logits of a row fall into two heaps. Only the image-text model, of ``recipes.image_text``,
learned them on white.
"""

import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from entropylab.models.prompts import captions

PACKAGE = "@iconify-json/noto@1.2.9"
PIXELS, MASTER_PIXELS = 64, 256


def fetch(folder: Path) -> dict:
    """The icon package, downloaded with npm into ``folder`` unless it is there: "icons" has an SVG for each name."""
    target = folder / "icons.json"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            subprocess.run(["npm", "pack", PACKAGE, "--pack-destination", scratch], check=True, capture_output=True)
            (archive,) = Path(scratch).glob("*.tgz")
            with tarfile.open(archive) as tar:
                member = tar.extractfile("package/icons.json")
                assert member is not None
                target.write_bytes(member.read())
    return json.loads(target.read_text(encoding="utf-8"))


def draw(icons: dict, name: str, pixels: int = MASTER_PIXELS) -> Image.Image:
    """One icon as an RGBA picture, ``pixels`` wide and high."""
    import resvg_py

    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 128)) for side in ("width", "height"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=pixels, height=pixels))
    return Image.open(io.BytesIO(png)).convert("RGBA")


def drawings(folder: Path) -> list[Image.Image]:
    """The captioned emoji as RGBA pictures of 256 pixels, in the order of ``captions()``."""
    icons = fetch(folder)
    return [draw(icons, name) for name in captions()]


def other_drawings(folder: Path) -> list[Image.Image]:
    """The emoji without captions (no flags, no skin tones), which teach the autoencoder only."""
    icons = fetch(folder)
    skipped = ("flag", "skin-tone", "keycap", "japanese", "-thirty", "-oclock", "person", "man-", "woman-")
    return [
        draw(icons, name)
        for name in icons["icons"]
        if name not in captions() and not any(word in name for word in skipped)
    ]


def on_white(picture: Image.Image, count: int, rng: np.random.Generator, pixels: int = PIXELS) -> np.ndarray:
    """``count`` placements on white, 0.78 to 0.98 of the frame wide: uint8 (count, pixels, pixels, 3)."""
    drawn = []
    for _ in range(count):
        scale = rng.uniform(0.78, 0.98)
        room = (1 - scale) / 2
        offset = rng.uniform(-room, room), rng.uniform(-room, room)
        side = round(pixels * scale)
        canvas = Image.new("RGBA", (pixels, pixels), "white")
        corner = [max(round((pixels - side) / 2 + shift * pixels), 0) for shift in offset]
        canvas.alpha_composite(picture.resize((side, side), Image.Resampling.LANCZOS), (corner[0], corner[1]))
        drawn.append(np.asarray(canvas.convert("RGB")))
    return np.stack(drawn)


def all_on_white(pictures: list[Image.Image], count: int, seed: int) -> np.ndarray:
    """``count`` placements of each picture on white: uint8 (pictures, count, 64, 64, 3)."""
    rng = np.random.default_rng(seed)
    return np.stack([on_white(picture, count, rng) for picture in pictures])


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


def variants(pictures: list[Image.Image], count: int, seed: int, pixels: int = PIXELS) -> np.ndarray:
    """``count`` placements of each picture: uint8 (pictures, count, pixels, pixels, 3)."""
    rng = np.random.default_rng(seed)
    return np.stack([np.stack([place(picture, pixels, rng) for _ in range(count)]) for picture in pictures])
