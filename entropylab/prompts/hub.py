"""Captions from a data set of the Hugging Face hub: its parquet files, streamed."""

import os
import re
from collections.abc import Iterator
from typing import Any

from ..errors import EntropyLabError, one_line
from .captions import read_parquet_from

HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+/[\w.-]+))?")
"""OWNER/NAME, or OWNER/NAME:CONFIGURATION/SPLIT."""

BRANCH = "refs/convert/parquet"
"""Where the hub keeps every data set as parquet, in folders CONFIGURATION/SPLIT."""


def is_hub_id(text: str) -> bool:
    """Whether ``text`` could name a data set of the hub."""
    return HUB_ID.fullmatch(text) is not None


def read_hub(text: str, column: str | None) -> Iterator[Any]:
    """A caption a row of a data set, e.g. "owner/name" or "owner/name:default/train"."""
    match = HUB_ID.fullmatch(text)
    assert match is not None
    name, part = match.groups()
    files = filesystem()
    for path in parquet_files(files, name, part):
        try:
            with files.open(path, "rb") as file:
                yield from read_parquet_from(file, column, path)
        except OSError as error:
            raise EntropyLabError(f"prompts {path} can't be read from the hub: {one_line(error, 200)}") from error


def filesystem() -> Any:
    """The hub as a file system."""
    from huggingface_hub import HfFileSystem

    return HfFileSystem()


def parquet_files(files: Any, name: str, part: str | None) -> list[str]:
    """The parquet files of a data set, of one of its parts; in the order of their names."""
    root = f"datasets/{name}@{BRANCH}"
    try:
        found = sorted(str(path) for path in files.glob(f"{root}/**/*.parquet"))
    except Exception as error:  # whatever the hub's client, and the network below it, make of it
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise EntropyLabError(
            f"prompts {name!r} is no file here and could not be had from the Hugging Face hub{offline}: "
            f"{one_line(error, 200)}"
        ) from error
    parts = {path: "/".join(path.split("/")[-3:-1]) for path in found}
    known = sorted(set(parts.values()))
    if not known or (part is None and len(known) > 1) or (part is not None and part not in known):
        raise EntropyLabError(
            f"prompts must name a part of the data set, as {name}:CONFIGURATION/SPLIT: it has "
            f"{', '.join(known) or 'no parquet files'}. Got {part or name!r}."
        )
    return [path for path in found if part is None or parts[path] == part]
