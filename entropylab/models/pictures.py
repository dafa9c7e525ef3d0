"""The pictures the embedded pipeline is trained on: Noto emoji (Google, Apache-2.0), drawn from their SVGs.

The drawings come from the npm package ``@iconify-json/noto``, which carries every SVG in one JSON file.
"""

import csv
import io
import json
import subprocess
import tarfile
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGE = "@iconify-json/noto@1.2.9"
MASTER_PIXELS = 256


def captions() -> dict[str, str]:
    """Icon name -> caption, for every picture of the training set."""
    text = resources.files(__package__).joinpath("pictures.csv").read_text(encoding="utf-8")
    return {row["icon"]: row["caption"] for row in csv.DictReader(io.StringIO(text))}


def fetch(folder: Path) -> Path:
    """Download the icon package with npm, once, into ``folder``; return the path of its icons.json."""
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
    return target


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


def place(picture: Image.Image, pixels: int, scale: float, offset: tuple[float, float]) -> np.ndarray:
    """``picture`` on white: uint8 (pixels, pixels, 3), ``scale`` of the frame wide, its centre moved by ``offset``
    (x, y) in fractions of the frame.
    """
    side = round(pixels * scale)
    small = picture.resize((side, side), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (pixels, pixels), "white")
    corner = [round((pixels - side) / 2 + shift * pixels) for shift in offset]
    canvas.alpha_composite(small, (max(corner[0], 0), max(corner[1], 0)))
    return np.asarray(canvas.convert("RGB"))


def variants(picture: Image.Image, pixels: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` placements of one picture at random scales and positions: uint8 (count, pixels, pixels, 3)."""
    drawn = []
    for _ in range(count):
        scale = rng.uniform(0.78, 0.98)
        room = (1 - scale) / 2
        drawn.append(place(picture, pixels, scale, (rng.uniform(-room, room), rng.uniform(-room, room))))
    return np.stack(drawn)


def training_set(folder: Path, pixels: int, count: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """``count`` variants of each captioned picture: uint8 (pictures, count, pixels, pixels, 3), and the captions."""
    icons = json.loads(fetch(folder).read_text(encoding="utf-8"))
    rng = np.random.default_rng(seed)
    table = captions()
    images = np.stack([variants(draw(icons, name), pixels, count, rng) for name in table])
    return images, list(table.values())


def other_pictures(folder: Path, pixels: int, count: int, seed: int = 1) -> np.ndarray:
    """Variants of the emoji without captions (no flags, no skin tones), which teach the autoencoder only."""
    icons = json.loads(fetch(folder).read_text(encoding="utf-8"))
    rng = np.random.default_rng(seed)
    skipped = ("flag", "skin-tone", "keycap", "japanese", "-thirty", "-oclock", "person", "man-", "woman-")
    names = [n for n in icons["icons"] if n not in captions() and not any(word in n for word in skipped)]
    return np.concatenate([variants(draw(icons, name), pixels, count, rng) for name in names])
