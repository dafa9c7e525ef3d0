"""A page that asks people to rate pictures blindly, for table 3.

It is of two or more folders with pictures of the same names, one a method, as `entropylab evaluate --pictures` writes
them: pictures/96x96/original pictures/96x96/sqrt_log. The page, ratings.html, needs no server and no network: whoever
rates opens it, rates from 1 to 10 how well each picture shows its prompt, and saves a file, which table3.py analyses.
Which method made which picture stands in it in a form that nobody reads by accident; order of pairs and sides are
shuffled anew in every browser. (Paper, Table 3 and supplement 6.2.4.)
"""

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import shared
from entropylab import EntropyLabError
from entropylab.errors import check_int
from entropylab.files import write_whole
from entropylab.quality.saving import PICTURES, picture_files, prompt_of, read_picture

FORMAT = "entropylab ratings 1"

PAIRS = 50
"""Pairs on a page at most; the paper's number."""

WIDEST = 512
"""Pictures smaller than this are shown at a whole multiple of their size [pixels], so that none looks blurred."""


def make_page(pictures: Sequence[str | Path], path: Path, pairs: int = PAIRS, seed: int = 0) -> None:
    """Write a page with ``pairs`` pairs at most of the pictures of two or more folders, chosen by ``seed``."""
    check_int("pairs", pairs)
    check_int("seed", seed, 0)
    found = found_pairs(list(map(Path, pictures)))
    rng = np.random.default_rng(seed)
    chosen = [found[i] for i in sorted(rng.permutation(len(found))[:pairs])]
    # Whoever reads the page's text does not learn the order of the methods either.
    write_whole(path, page_of([files[::-1] if rng.integers(2) else files for files in chosen]).encode())


def found_pairs(folders: Sequence[Path]) -> list[tuple[Path, Path]]:
    """All pairs of pictures of the same name in two folders."""
    files = [{path.stem: path for path in picture_files(folder, "pictures")} for folder in folders]
    methods = [folder.resolve().name for folder in folders]
    if len(folders) < 2 or len(set(methods)) < len(methods):
        raise EntropyLabError(f"pictures must be two or more folders of different names, one a method. Got {methods}.")
    found = [(one[name], other[name]) for one, other in combinations(files, 2) for name in one if name in other]
    if not found:
        raise EntropyLabError(
            f"pictures must be folders with pictures ({', '.join(PICTURES)}), of the same names in two of them. "
            f"{', '.join(methods)} have none in common."
        )
    return found


def page_of(pairs: Sequence[tuple[Path, ...]]) -> str:
    """The page's HTML."""
    shown, key = [], []
    for files in pairs:
        prompt, other = map(prompt_of, files)
        if not prompt or prompt != other:
            raise EntropyLabError(
                "pictures must carry their prompts, as `entropylab evaluate` writes them, and two of a name the same. "
                f"Got {prompt!r} and {other!r} of {' and '.join(map(str, files))}."
            )
        shown.append({"prompt": prompt, "pictures": [as_url(path) for path in files]})
        methods = [path.parent.resolve().name for path in files]
        key.append({"prompt": prompt, "methods": methods, "name": files[0].stem})
    hidden = base64.b64encode(json.dumps(key).encode()).decode()
    data: dict[str, Any] = {"format": FORMAT, "page": hashlib.sha256(hidden.encode()).hexdigest()[:12]}
    text = json.dumps(data | {"key": hidden, "widest": WIDEST, "pairs": shown})
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    # "</script" ends a script and "<!--<script" keeps it from ending, whatever quotes they stand in.
    return template.replace("{{count}}", str(len(pairs))).replace("{{data}}", text.replace("<", "\\u003c"))


def as_url(path: Path) -> str:
    """A picture as a PNG within the page, without what it carries beside its pixels: there its method may be named."""
    file = io.BytesIO()
    Image.fromarray(read_picture(path).permute(1, 2, 0).numpy()).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    parser = shared.new_parser(__doc__)
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURES", help="folders of pictures, one a method")
    parser.add_argument("--pairs", type=int, default=PAIRS, metavar="N", help="pairs on the page at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice of pairs (%(default)s)")
    given = parser.parse_args()
    page = given.out / "ratings.html"
    shared.run(parser, given.out, lambda: make_page(given.pictures, page, given.pairs, given.seed))
    print(f"wrote {page}")
