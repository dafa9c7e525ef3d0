"""Captions as they stand in files (txt, csv, tsv, jsonl, parquet) and in data sets of the hub, one after the other.

Files are streamed. What a reader yields is what stands there: text, bytes that are no text, None where nothing is, or
``UNREADABLE``; whether it can be used is ``prompts``'s to judge.
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import EntropyLabError, one_line

COLUMNS = ("prompt", "caption", "text", "prompts", "captions", "texts")
"""Columns that hold captions if nobody says which does."""

UNREADABLE = object()
"""A line or row that its format does not allow."""

BATCH = 1024
"""Rows of a parquet file in memory at once."""


def read_lines(path: Path, column: str | None) -> Iterator[Any]:
    """A caption a line; blank lines are none."""
    if column is not None:
        raise EntropyLabError(f"column={column!r} is for csv, tsv, jsonl and parquet. Got prompts from {path}.")
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            caption = without_mark(line, number).strip()
            if caption:
                yield caption


def without_mark(line: bytes, number: int) -> bytes:
    """A line without the byte order mark that some programs begin UTF-8 with."""
    return line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line


def read_csv(path: Path, column: str | None) -> Iterator[Any]:
    """A caption a row, after a first row of column names."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        names = next_row(rows)
        place = None
        while (row := next_row(rows)) is not None:
            if place is None:
                place = names.index(check_column(column, names, path)) if isinstance(names, list) else 0
            if row is UNREADABLE:
                yield UNREADABLE
            elif row:
                yield as_bytes(row[place]) if place < len(row) else None
        if place is None and isinstance(names, list):
            check_column(column, names, path)


def next_row(rows: Any) -> Any:
    """The next row of a csv file, UNREADABLE if its format does not allow it, None after the last one."""
    try:
        return next(rows, None)
    except csv.Error:
        return UNREADABLE


def as_bytes(text: str) -> bytes:
    """A cell as it stands in the file."""
    return text.encode("utf-8", errors="surrogateescape")


def read_jsonl(path: Path, column: str | None) -> Iterator[Any]:
    """A caption a line: an object that has it under ``column``, or a string."""
    name = column
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            if not (line := without_mark(line, number).strip()):
                continue
            value = parse(line)
            if isinstance(value, dict):
                name = name or check_column(None, list(value), path)
                value = value.get(name)
            yield value


def parse(line: bytes) -> Any:
    """A line of JSON; as it came if it is not UTF-8, UNREADABLE if it is no JSON."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return line
    except (ValueError, RecursionError):
        return UNREADABLE


def read_parquet(path: Path, column: str | None) -> Iterator[Any]:
    """A caption a row of a parquet file."""
    with open(path, "rb") as file:
        yield from read_parquet_from(file, column, str(path))


def read_parquet_from(file: BinaryIO, column: str | None, source: str) -> Iterator[Any]:
    """A caption a row of an open parquet file, a batch of rows at a time."""
    pyarrow = import_pyarrow()
    try:
        table = pyarrow.parquet.ParquetFile(file)
        name = check_column(column, table.schema_arrow.names, source)
        for batch in table.iter_batches(batch_size=BATCH, columns=[name]):
            yield from values_of(batch.column(0), name, source)
    except (pyarrow.ArrowException, OSError) as error:
        raise EntropyLabError(f"prompts {source} can't be read as parquet: {one_line(error, 200)}") from error


def values_of(array: Any, name: str, source: str) -> Iterator[Any]:
    """The cells of a column as bytes, not yet decoded: one that is wrongly encoded must not spoil the others."""
    pyarrow = import_pyarrow()
    if pyarrow.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pyarrow.types.is_null(array.type):
        return iter([None] * len(array))
    try:
        return iter(array.cast(pyarrow.large_binary()).to_pylist())
    except pyarrow.ArrowException as error:
        raise EntropyLabError(f"column {name!r} of {source} must hold text. Got {array.type}.") from error


def import_pyarrow() -> Any:
    """pyarrow, or how to get it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise EntropyLabError("prompts from parquet need pyarrow: pip install 'entropylab[runs]'.") from error
    return pyarrow


def check_column(column: str | None, names: Sequence[str], source: Any) -> str:
    """The name of the column to read: as given, or the only one, or the one that is called like captions are."""
    if column is not None:
        if column not in names:
            raise EntropyLabError(f"column must be one of those of {source}: {', '.join(names)}. Got {column!r}.")
        return column
    known = [name for name in names if name.lower() in COLUMNS]
    if len(names) == 1 or len(known) == 1:
        return (known or list(names))[0]
    raise EntropyLabError(f"column must say which column of {source} holds the captions: {', '.join(names)}.")


READERS: dict[str, Callable[[Path, str | None], Iterator[Any]]] = {
    ".txt": read_lines,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
}
"""How a file is read, by the end of its name; others are read as text."""
