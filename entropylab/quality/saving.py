"""Pictures as PNG files that carry their prompt."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor


def save_pictures(images: Tensor, prompts: Sequence[str], folder: Path) -> list[Path]:
    """Write pictures (pictures, 3, height, width) of uint8 as 0000.png, 0001.png, ..., each with its prompt as text."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        text = PngInfo()
        text.add_itxt("prompt", prompt)
        written.append(folder / f"{number:04d}.png")
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(written[-1], pnginfo=text)
    return written


def prompt_of(path: Path) -> str | None:
    """The prompt that a PNG carries, if it does."""
    from PIL import Image

    with Image.open(path) as image:
        found = image.info.get("prompt")
    return str(found) if found else None
