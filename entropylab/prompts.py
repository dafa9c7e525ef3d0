"""What pictures are asked for: a list, or captions of a file or data set.

Lines of text, csv and JSON lines are read by the standard library, where a broken line costs that line only. Parquet,
JSON and data sets of the Hugging Face hub are streamed by the library ``datasets`` (``entropylab[prompts]``).
"""

import csv
import hashlib
import heapq
import itertools
import json
import os
import random
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import EntropyLabError, EntropyLabWarning, counted, one_line
from .files import is_plain_text

COLUMNS = ("prompt", "caption", "text", "prompts", "captions", "texts")
"""Columns that hold captions if nobody says which does."""

LONGEST = 10_000
"""A caption of more characters than this can't be used [characters]."""

HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+)/([\w.-]+))?")
"""OWNER/NAME, or OWNER/NAME:CONFIGURATION/SPLIT."""

LOADERS = {".parquet": "parquet", ".json": "json"}
"""Loaders of ``datasets``, by the end of a file's name."""

BATCH = 1000
"""Rows of a data set in memory at once."""

UNREADABLE = object()
"""A line that its format does not allow."""


class Prompts(list[str]):
    """Prompts that know their ``source``, and of ``skipped`` captions how many were left out for what reason."""

    def __init__(self, texts: Iterable[str], source: str = "", skipped: Mapping[str, int] = {}) -> None:
        super().__init__(texts)
        self.source, self.skipped = source, dict(skipped)

    @property
    def report(self) -> str:
        """What was left out, in words; "" if nothing was."""
        if not self.skipped:
            return ""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
        return f"{counted(sum(self.skipped.values()), 'caption')} of {self.source} left out: {reasons}."


def digest(texts: Iterable[str]) -> str:
    """SHA-256 of prompts in their order."""
    found = hashlib.sha256()
    for text in texts:
        found.update(json.dumps(text).encode() + b"\n")
    return found.hexdigest()


def check_list(prompts: Any) -> Prompts:
    """A list of prompts, every one a string that a file can hold."""
    if not isinstance(prompts, list | tuple) or not prompts or not all(isinstance(p, str) for p in prompts):
        raise EntropyLabError(f"prompts must name at least one prompt, each a string. Got {prompts!r}.")
    odd = next((text for text in prompts if not is_plain_text(text)), None)
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


def read_prompts(
    source: str | Path, *, column: str | None = None, samples: int | None = None, seed: int = 0
) -> Prompts:
    """The captions of a file (txt, csv, tsv, jsonl, json, parquet) or of a data set of the hub.

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
        chosen = choose(usable(cells_of(source, column), skipped), samples, seed)
    except OSError as error:
        raise EntropyLabError(f"prompts {source} can't be read: {one_line(error, 200)}") from error
    prompts = Prompts(chosen, str(source), dict(sorted(skipped.items())))
    if not prompts:
        raise EntropyLabError(f"prompts {source} must hold at least one caption. {prompts.report or 'It is empty.'}")
    if prompts.skipped:
        warnings.warn(prompts.report, EntropyLabWarning, stacklevel=3)
    return prompts


def choose(captions: Iterable[str], samples: int | None, seed: int) -> list[str]:
    """``samples`` of the captions at random, in random order, never held all; all, in order, if there are no more."""
    if samples is None:
        return list(captions)
    numbers, places = random.Random(seed), itertools.count()
    best = heapq.nsmallest(samples, ((numbers.random(), next(places), text) for text in captions))
    if next(places) <= samples:
        best.sort(key=lambda entry: entry[1])
    return [text for _, _, text in best]


def usable(cells: Iterable[Any], skipped: Counter[str]) -> Iterator[str]:
    """The captions that can be used; the others are counted by what is wrong with them."""
    for cell in cells:
        text = cell.decode("utf-8", errors="surrogateescape") if isinstance(cell, bytes) else cell
        problem = problem_of(text)
        if problem:
            skipped[problem] += 1
        else:
            yield text.strip()


def problem_of(text: Any) -> str:
    """What is wrong with a caption; "" if nothing is."""
    if text is None or text is UNREADABLE:
        return "missing" if text is None else "unreadable"
    if not isinstance(text, str):
        return "not text"
    if not text.strip() or len(text.strip()) > LONGEST:
        return "too long" if text.strip() else "empty"
    return "" if is_plain_text(text) else "wrongly encoded"


def cells_of(source: Any, column: str | None) -> Iterator[Any]:
    """What stands where captions are: text, bytes, None where nothing is, or UNREADABLE.

    Bytes that are no UTF-8 become halves of characters, so that the caption that holds them is left out and no other.
    """
    kind = Path(source).suffix.lower()
    named = None if os.path.exists(source) or kind in (*LOADERS, *READERS) else HUB_ID.fullmatch(str(source))
    if named:
        yield from read_data(source, named[1], {"name": named[2], "split": named[3]}, column)
    elif not os.path.isfile(source):
        raise EntropyLabError(
            "prompts must be a list of strings, the id of a data set on the hub, or a csv, tsv, jsonl, json, "
            f"parquet or existing text file. Got {str(source)!r}."
        )
    elif kind in LOADERS:
        yield from read_data(source, LOADERS[kind], {"data_files": str(source), "split": "train"}, column)
    else:
        with open(source, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from READERS.get(kind, read_lines)(file, Path(source), column)


def column_of(column: str | None, names: Sequence[str], source: Any) -> str:
    """The name of the column to read: as given, or the only one, or the one that is called like captions are."""
    if column is not None:
        if column not in names:
            raise EntropyLabError(f"column must be one of those of {source}: {', '.join(names)}. Got {column!r}.")
        return column
    known = [name for name in names if name.lower() in COLUMNS]
    if len(names) == 1 or len(known) == 1:
        return (known or list(names))[0]
    raise EntropyLabError(f"column must say which column of {source} holds the captions: {', '.join(names)}.")


def read_lines(file: Any, path: Path, column: str | None) -> Iterator[Any]:
    """A caption a line; blank lines are none."""
    if column is not None:
        raise EntropyLabError(f"column={column!r} is for csv, tsv, jsonl, json and parquet. Got prompts from {path}.")
    yield from filter(str.strip, file)


def read_csv(file: Any, path: Path, column: str | None) -> Iterator[Any]:
    """A caption a row, after a first row of column names."""
    rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    if not rows.fieldnames:
        return
    name = column_of(column, rows.fieldnames, path)
    while True:
        try:
            yield next(rows)[name]
        except StopIteration:
            return
        except csv.Error:
            yield UNREADABLE


def read_jsonl(file: Any, path: Path, column: str | None) -> Iterator[Any]:
    """A caption a line: an object that has it under ``column``, or a string."""
    for line in filter(str.strip, file):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = UNREADABLE
        if isinstance(value, dict):
            column = column_of(None, list(value), path) if column is None else column
            value = value.get(column)
        yield value


READERS = {".txt": read_lines, ".csv": read_csv, ".tsv": read_csv, ".jsonl": read_jsonl, ".ndjson": read_jsonl}
"""How a file is read, by the end of its name; files of other names are read as text."""


def read_data(source: Any, path: str, options: dict[str, Any], column: str | None) -> Iterator[Any]:
    """A caption a row of what ``datasets.load_dataset`` gives, a batch of rows at a time."""
    try:
        import datasets
    except ImportError as error:
        raise EntropyLabError(f"prompts {source} need datasets: pip install 'entropylab[prompts]'.") from error
    try:
        data = datasets.load_dataset(path, streaming=True, **options)
        if isinstance(data, dict):
            if len(data) > 1:
                parts = f"{source}:CONFIGURATION/SPLIT: its splits are {', '.join(data)}"
                raise EntropyLabError(f"prompts must name a part of the data set, as {parts}. Got {str(source)!r}.")
            (data,) = data.values()
        name = column_of(column, data.column_names or list(next(iter(data), {})), source)
        try:  # of parquet, other columns must not be read: they may hold pictures
            known = options | {"split": data.split, "columns": [name], "batch_size": BATCH}
            data = datasets.load_dataset(path, streaming=True, **known)
        except (TypeError, ValueError):  # what is not stored as parquet takes no such options
            data = data.select_columns([name])
        for table in data.with_format("arrow").iter(BATCH):
            try:  # not yet decoded: a cell that is wrongly encoded must not spoil the others
                yield from table[name].cast("large_binary").to_pylist()
            except (ValueError, NotImplementedError) as error:
                kind = table[name].type
                raise EntropyLabError(f"column {name!r} of {source} must hold text. Got {kind}.") from error
    except EntropyLabError:
        raise
    except Exception as error:  # whatever the readers, the hub's client and the network below it make of it
        raise EntropyLabError(
            f"prompts {str(source)!r} can't be read, as a file or from the Hugging Face hub: {one_line(error, 200)}"
        ) from error
