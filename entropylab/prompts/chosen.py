"""Prompts for ``measure``: a list, or a seeded random subset of the captions of a file or data set.

Bad captions are counted. Knows neither tensors nor models.
"""

import hashlib
import heapq
import json
import random
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import EntropyLabError, EntropyLabWarning, one_line
from ..wording import counted
from .captions import READERS, UNREADABLE, read_lines
from .hub import is_hub_id, read_hub

LONGEST = 10_000
"""A caption of more characters than this is none [characters]."""


class Prompts(list[str]):
    """Prompts that know where they come from.

    Attributes:
        source: the file or data set; "" for a list that was handed over.
        skipped: why captions were left out -> how many.
    """

    source: str = ""
    skipped: dict[str, int]

    def __init__(self, texts: Iterable[str], source: str = "", skipped: dict[str, int] | None = None) -> None:
        super().__init__(texts)
        self.source, self.skipped = source, dict(skipped or {})

    @property
    def report(self) -> str:
        """What was left out, in words; "" if nothing was."""
        if not self.skipped:
            return ""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
        left_out = sum(self.skipped.values())
        were = "was" if left_out == 1 else "were"
        return f"{counted(left_out, 'caption')} of {self.source} {were} left out: {reasons}."


def digest(texts: Iterable[str]) -> str:
    """SHA-256 of prompts in their order."""
    found = hashlib.sha256()
    for text in texts:
        found.update(json.dumps(text).encode() + b"\n")
    return found.hexdigest()


def read_prompts(
    source: str | Path, *, column: str | None = None, samples: int | None = None, seed: int = 0
) -> Prompts:
    """The captions of a file (txt, csv, tsv, jsonl, parquet) or of a data set of the hub.

    Captions that are empty, missing, wrongly encoded, too long (over 10,000 characters) or unreadable are left out and
    counted, with a warning. If there are more than ``samples``, that many are chosen at random by ``seed``; the first
    ones of a larger choice are the smaller choice.

    Args:
        source: a file, or the id of a data set on the hub: "owner/name", or "owner/name:configuration/split".
        column: the column that holds the captions; found by its name if left out.
        samples: how many are wanted; None for all, in the order of the file.
        seed: decides which are chosen.

    Raises:
        EntropyLabError: no such file or data set, no such column, or not one caption that can be used.
    """
    skipped: Counter[str] = Counter()
    try:
        chosen = choose(usable(reader(source, column), skipped), samples, seed)
    except OSError as error:
        raise EntropyLabError(f"prompts {source} can't be read: {one_line(error, 200)}") from error
    prompts = Prompts(chosen, str(source), dict(sorted(skipped.items())))
    if not prompts:
        raise EntropyLabError(f"prompts {source} must hold at least one caption. {prompts.report or 'It is empty.'}")
    if prompts.skipped:
        warnings.warn(prompts.report, EntropyLabWarning, stacklevel=3)
    return prompts


def reader(source: Any, column: str | None) -> Iterator[Any]:
    """What reads ``source``."""
    if column is not None and (not isinstance(column, str) or not column):
        raise EntropyLabError(f"column must be the name of a column. Got {column!r}.")
    path = Path(source)
    if is_file(path):
        return READERS.get(path.suffix.lower(), read_lines)(path, column)
    if path.suffix.lower() not in READERS and not is_there(path) and is_hub_id(str(source)):
        return read_hub(str(source), column)
    raise EntropyLabError(
        "prompts must be a list of strings, the id of a data set on the hub, or a csv, tsv, jsonl, parquet or "
        f"existing text file. Got {str(source)!r}."
    )


def is_file(path: Path) -> bool:
    """Whether ``path`` is a file; False for what can't be a path at all."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_there(path: Path) -> bool:
    """Whether something has this name."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def usable(captions: Iterable[Any], skipped: Counter[str]) -> Iterator[str]:
    """The captions that can be used; the others are counted by what is wrong with them."""
    for caption in captions:
        text, problem = judged(caption)
        if problem:
            skipped[problem] += 1
        else:
            yield text


def judged(caption: Any) -> tuple[str, str]:
    """A caption as text, and what is wrong with it ("" if nothing is)."""
    if caption is None or caption is UNREADABLE:
        return "", "missing" if caption is None else "unreadable"
    if isinstance(caption, bytes):
        try:
            caption = caption.decode("utf-8")
        except UnicodeDecodeError:
            return "", "wrongly encoded"
    if not isinstance(caption, str):
        return "", "not text"
    text = caption.strip()
    if not text:
        return "", "empty"
    if len(text) > LONGEST:
        return "", "too long"
    return text, "" if can_be_stored(text) else "wrongly encoded"


def can_be_stored(text: str) -> bool:
    """Whether a netCDF file can hold the text: no NUL, and no half of a character."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def choose(captions: Iterable[str], samples: int | None, seed: int) -> list[str]:
    """``samples`` of the captions at random, in random order; all, in their order, if there are no more.

    No more than ``samples`` are ever held: each gets a random number, and the smallest numbers win.
    """
    if samples is None:
        return list(captions)
    numbers = random.Random(seed)
    best: list[tuple[float, int, str]] = []
    count = 0
    for place, text in enumerate(captions):
        count += 1
        entry = (-numbers.random(), -place, text)
        if len(best) < samples:
            heapq.heappush(best, entry)
        else:
            heapq.heappushpop(best, entry)
    if count <= samples:
        return [text for _, _, text in sorted(best, key=lambda entry: -entry[1])]
    return [text for _, _, text in sorted(best, reverse=True)]


def check_list(prompts: Any) -> Prompts:
    """A list of prompts, every one a string that a file can hold."""
    if not isinstance(prompts, list | tuple) or not prompts or not all(isinstance(p, str) for p in prompts):
        raise EntropyLabError(f"prompts must name at least one prompt, each a string. Got {prompts!r}.")
    odd = next((text for text in prompts if not can_be_stored(text)), None)
    if odd is not None:
        raise EntropyLabError(f"prompts must be text without NUL and halves of characters. Got {odd!r}.")
    return prompts if isinstance(prompts, Prompts) else Prompts(prompts)


def count_cut(pipe: Any, prompts: list[str]) -> int:
    """How many prompts have more tokens than the pipeline's tokenizer takes, which cuts off the rest."""
    tokenizer = getattr(pipe, "tokenizer", None)
    longest = getattr(tokenizer, "model_max_length", None)
    if not callable(tokenizer) or not isinstance(longest, int) or longest > LONGEST:
        return 0
    return sum(len(ids) > longest for text in dict.fromkeys(prompts) for ids in [tokenizer(text)["input_ids"]])
