"""``entropylab ratings make``: one self-contained HTML page of blinded pairs of pictures."""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import EntropyLabError, check_int, one_line
from ...files import as_path, check_writable, write_whole
from ..features import PICTURES
from ..saving import prompt_of

FORMAT = "entropylab ratings 1"

PAIRS = 50
"""Pairs on a page at most; the paper's number."""

WIDEST = 512
"""Pictures smaller than this are shown at a whole multiple of their size [pixels], so that none looks blurred."""


@dataclass(frozen=True)
class Pair:
    """Two pictures of one prompt by two methods."""

    prompt: str
    methods: tuple[str, str]
    files: tuple[Path, Path]


def make_page(
    pictures: Sequence[str | Path],
    out: str | Path,
    *,
    prompts: str | Path | None = None,
    pairs: int = PAIRS,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write a page that asks to rate pairs of pictures from 1 to 10 for how well they show their prompt.

    The page needs no server and no network: whoever rates opens it, rates by mouse or keyboard, and saves a file, which
    `analyse` reads. Which method made which picture stands in the page in a form that nobody reads by accident; order
    of pairs and sides are shuffled anew in every browser.

    Args:
        pictures: two or more folders, one a method, named after it, with pictures of the same names in them, as
            ``evaluate(pictures=...)`` writes them.
        out: the file to write.
        prompts: a text file with a prompt a line, in the order of names; None where the PNGs carry theirs.
        pairs: how many pairs at most; a random choice of all.
        seed: of the choice.
        overwrite: replace a page that is there.

    Raises:
        EntropyLabError: fewer than two folders, no name in two of them, a picture without prompt, a file in the way.

    Source: paper, Table 3 and supplement 6.2.4.
    """
    path = check_writable(out, overwrite)
    check_int("pairs", pairs)
    check_int("seed", seed, 0)
    found = found_pairs([as_path(folder, "pictures", "folder") for folder in pictures], prompts)
    rng = np.random.default_rng(seed)
    chosen = [swapped(found[i], bool(rng.integers(2))) for i in sorted(rng.permutation(len(found))[:pairs])]
    write_whole(path, page_of(chosen).encode())
    return Path(out)


def found_pairs(folders: Sequence[Path], prompts: str | Path | None) -> list[Pair]:
    """All pairs of pictures of the same name in two folders."""
    files = [pictures_of(folder) for folder in folders]
    names = [folder.resolve().name for folder in folders]
    if len(folders) < 2 or len(set(names)) < len(names):
        raise EntropyLabError(f"pictures must be two or more folders of different names, one a method. Got {names}.")
    texts = prompts_of(files, prompts)
    found = [
        Pair(texts[name], (names[i], names[j]), (files[i][name], files[j][name]))
        for i, j in combinations(range(len(folders)), 2)
        for name in files[i]
        if name in files[j]
    ]
    if not found:
        raise EntropyLabError(
            f"pictures must have names that are in two folders. {', '.join(names)} have none in common."
        )
    return found


def pictures_of(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by name, in the order of their names."""
    try:
        if not folder.is_dir():
            raise EntropyLabError(f"pictures must be folders. {folder} is none.")
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file())
    except OSError as error:
        raise EntropyLabError(f"pictures must be folders that can be read. {folder}: {one_line(error)}.") from error
    found = {path.stem: path for path in files}
    if not found:
        raise EntropyLabError(f"pictures must be folders with pictures ({', '.join(PICTURES)}). {folder} has none.")
    return found


def prompts_of(files: Sequence[dict[str, Path]], prompts: str | Path | None) -> dict[str, str]:
    """The prompt of every name."""
    names = sorted(set().union(*files))
    if prompts is not None:
        lines = lines_of(as_path(prompts, "prompts"))
        if len(lines) != len(names):
            raise EntropyLabError(
                f"prompts must be a line for each of {len(names)} pictures. {prompts} has {len(lines)}."
            )
        return dict(zip(names, lines, strict=True))
    found = {name: prompt_in(next(group[name] for group in files if name in group)) for name in names}
    missing = [name for name, text in found.items() if text is None]
    if missing:
        raise EntropyLabError(f"prompts must be a file with a prompt a line: picture {missing[0]!r} carries no prompt.")
    return {name: str(text) for name, text in found.items()}


def lines_of(path: Path) -> list[str]:
    """Lines of a text file, without blank ones."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = one_line(error, 200)
        raise EntropyLabError(f"prompts must be a text file in UTF-8, one prompt a line. {path}: {reason}.") from error


def prompt_in(path: Path) -> str | None:
    """The prompt that a picture carries."""
    try:
        return prompt_of(path)
    except Exception as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> EntropyLabError:
    """The error for a file that Pillow can't read: it raises of all kinds, also for pictures far too large."""
    return EntropyLabError(f"pictures must be readable as pictures. {path}: {one_line(error, 200)}.")


def swapped(pair: Pair, swap: bool) -> Pair:
    """The pair, or the pair the other way round: whoever reads the page's text does not learn the order either."""
    return Pair(pair.prompt, pair.methods[::-1], pair.files[::-1]) if swap else pair


def page_of(pairs: Sequence[Pair]) -> str:
    """The page's HTML."""
    shown = [{"prompt": pair.prompt, "pictures": [as_url(path) for path in pair.files]} for pair in pairs]
    key = [{"prompt": pair.prompt, "methods": pair.methods, "name": pair.files[0].stem} for pair in pairs]
    hidden = base64.b64encode(json.dumps(key).encode()).decode()
    data: dict[str, Any] = {"format": FORMAT, "page": hashlib.sha256(hidden.encode()).hexdigest()[:12]}
    text = json.dumps(data | {"key": hidden, "widest": WIDEST, "pairs": shown})
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    # "</script" ends a script and "<!--<script" keeps it from ending, whatever quotes they stand in.
    return template.replace("{{count}}", html.escape(str(len(pairs)))).replace("{{data}}", text.replace("<", "\\u003c"))


def as_url(path: Path) -> str:
    """A picture as a PNG within the page, without what it carries beside its pixels: there its method may be named."""
    import io

    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = image.convert("RGB")
    except Exception as error:
        raise unreadable(path, error) from error
    file = io.BytesIO()
    pixels.info = {}
    pixels.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
