"""Prompts from files of every format and from the hub: what is read, what is left out and counted, what is chosen."""

import csv
import io
import json
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from entropylab.errors import EntropyLabError, EntropyLabWarning
from entropylab.prompts import Prompts, check_list, count_cut, digest, hub, read_prompts
from entropylab.prompts.chosen import LONGEST, choose

GOOD = ["a red car", "ein Bär", "猫, sitting", "x" * LONGEST]
LONG = "y" * (LONGEST + 1)
WRONG = b"caf\xe9"


def quietly(*arguments: Any, **options: Any) -> Prompts:
    """Read prompts of which some are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EntropyLabWarning)
        return read_prompts(*arguments, **options)


def write_txt(path: Path) -> None:
    path.write_bytes(b"\n".join([b"\xef\xbb\xbfa red car", b"", "ein Bär".encode(), WRONG, "猫, sitting".encode(),
                                 LONG.encode(), b"nul\x00", GOOD[3].encode(), b"  "]))  # fmt: skip


def write_csv(path: Path, delimiter: str = ",") -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([("id", "caption", "width"), (1, "a red car", 5), (2, "ein Bär", 5), (3, "  ", 5), (4,)])
    writer.writerows([(5, "猫, sitting", 5), (6, LONG, 5), (7, "z" * 200_000, 5), (8, GOOD[3], 5)])
    path.write_bytes(text.getvalue().encode() + b"9," + WRONG + b",5\n")


def write_tsv(path: Path) -> None:
    write_csv(path, "\t")
    path.write_bytes(path.read_bytes().replace(b"9,caf\xe9,5", b"9\tcaf\xe9\t5"))


def write_jsonl(path: Path) -> None:
    rows: list[Any] = [{"id": 1, "caption": "a red car"}, {"id": 2, "caption": "ein Bär"}, {"id": 3}, {"caption": ""}]
    rows += [{"caption": 5}, "猫, sitting", {"caption": LONG}, {"caption": "half \ud83d"}, {"caption": GOOD[3]}]
    lines = [json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join([*lines, b"{broken", b'{"caption": "' + WRONG + b'"}', b"", b"[" * 100_000]))


def write_parquet(path: Path, kind: Any = None) -> None:
    cells = [text.encode() for text in GOOD] + [None, b"", WRONG, LONG.encode()]
    raw = pyarrow.array(cells, pyarrow.binary())
    column = pyarrow.Array.from_buffers(pyarrow.string(), len(raw), raw.buffers())  # a text column with a wrong byte
    column = column if kind is None else kind(column)
    pyarrow.parquet.write_table(pyarrow.table({"id": list(range(len(cells))), "caption": column}), path)


BAD = {
    "txt": {"wrongly encoded": 2, "too long": 1},
    "csv": {"empty": 1, "missing": 1, "too long": 1, "unreadable": 1, "wrongly encoded": 1},
    "tsv": {"empty": 1, "missing": 1, "too long": 1, "unreadable": 1, "wrongly encoded": 1},
    "jsonl": {"empty": 1, "missing": 1, "not text": 1, "too long": 1, "unreadable": 2, "wrongly encoded": 2},
    "parquet": {"empty": 1, "missing": 1, "too long": 1, "wrongly encoded": 1},
}
WRITERS = {"txt": write_txt, "csv": write_csv, "tsv": write_tsv, "jsonl": write_jsonl, "parquet": write_parquet}


@pytest.mark.parametrize("ending", list(BAD))
def test_good_captions_are_read_and_bad_ones_counted(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"captions.{ending}"
    WRITERS[ending](path)
    with pytest.warns(EntropyLabWarning, match=rf"{sum(BAD[ending].values())} captions of .*captions.{ending} were"):
        found = read_prompts(path)
    assert found == GOOD
    assert found.skipped == BAD[ending]
    assert found.source == str(path)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_a_column_by_name(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"captions.{ending}"
    WRITERS[ending](path)
    assert quietly(path, column="caption") == GOOD
    if ending != "jsonl":
        with pytest.raises(EntropyLabError, match="column must be one of those of .*id, caption.* Got 'captions'"):
            read_prompts(path, column="captions")


def test_large_text_and_dictionaries_of_parquet(tmp_path: Path) -> None:
    clean = pyarrow.array(GOOD)
    for kind in (pyarrow.large_string(), pyarrow.binary(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        pyarrow.parquet.write_table(pyarrow.table({"text": clean.cast(kind)}), tmp_path / "p.parquet")
        assert read_prompts(tmp_path / "p.parquet") == GOOD
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.nulls(3)}), tmp_path / "p.parquet")
    with pytest.raises(EntropyLabError, match="at least one caption. 3 captions .* 3 missing"):
        read_prompts(tmp_path / "p.parquet")


def parquet_of(path: Path, **columns: Any) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


REFUSED: list[tuple[str, Any, dict[str, Any], str]] = [
    ("p.txt", b"", {}, "at least one caption. It is empty"),
    ("p.txt", b"\n \n", {}, "at least one caption"),
    ("p.txt", b"\xff\xfe\x00bad", {}, "1 wrongly encoded"),
    ("p.txt", b"a", {"column": "caption"}, "column='caption' is for csv"),
    ("p.txt", b"a", {"column": 3}, "column must be the name of a column. Got 3"),
    ("p.csv", b"", {}, "at least one caption"),
    ("p.csv", b"caption\n", {}, "at least one caption"),
    ("p.csv", b"a,b\n1,2\n", {}, "column must say which column of .*: a, b"),
    ("p.csv", b"caption,text\n1,2\n", {}, "column must say which"),
    ("p.csv", b"a,b\n1,2\n", {"column": "c"}, "column must be one of those of .*: a, b. Got 'c'"),
    ("p.csv", "caption\nred\n".encode("utf-16"), {}, "prompts|column"),
    ("p.jsonl", b"{broken", {}, "1 unreadable"),
    ("p.jsonl", b'{"a": "x", "b": "y"}', {}, "column must say which column of .*: a, b"),
    ("p.jsonl", b'{"a": "x"}', {"column": "b"}, "1 missing"),
    ("p.jsonl", b"5", {}, "1 not text"),
    ("p.parquet", b"PAR1 and nothing else", {}, "can't be read as parquet"),
    ("p.parquet", b"", {}, "can't be read as parquet"),
    ("p.parquet", {"a": ["x"], "b": ["y"]}, {}, "column must say which"),
    ("p.parquet", {"caption": [["x"]]}, {}, "column 'caption' .* must hold text. Got list"),
    ("p.parquet", {"caption": [1]}, {}, "must hold text. Got int64"),
    ("p.parquet", {"caption": []}, {}, "at least one caption"),
    ("none.parquet", None, {}, "existing text file. Got .*none.parquet"),
    ("none.txt", None, {}, "existing text file. Got .*none.txt"),
    ("none", None, {}, "existing text file. Got"),
]


@pytest.mark.parametrize(("name", "content", "options", "message"), REFUSED)
def test_files_that_hold_no_prompts(
    name: str, content: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    if isinstance(content, dict):
        parquet_of(tmp_path / name, **content)
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(EntropyLabError, match=message):
        quietly(tmp_path / name, **options)


def test_a_truncated_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    write_parquet(path)
    whole = path.read_bytes()
    for part in (0.2, 0.9, 0.999):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(EntropyLabError, match="can't be read as parquet"):
            read_prompts(path)


def test_a_subset_is_chosen_by_the_seed_and_grows_without_changing() -> None:
    captions = [f"caption {i}" for i in range(1000)]
    few, more = choose(captions, 20, 3), choose(captions, 50, 3)
    assert more[:20] == few
    assert len(set(more)) == 50
    assert choose(captions, 20, 4) != few
    assert choose(iter(captions), 20, 3) == few
    assert choose(captions, 1000, 3) == choose(captions, 2000, 3) == choose(captions, None, 3) == captions


def test_every_caption_is_chosen_as_often_as_others() -> None:
    counts = [0] * 10
    for seed in range(2000):
        for text in choose([str(i) for i in range(10)], 3, seed):
            counts[int(text)] += 1
    assert max(abs(count - 600) for count in counts) < 5 * (2000 * 0.3 * 0.7) ** 0.5


@pytest.mark.parametrize("ending", ["txt", "csv", "jsonl"])
def test_memory_does_not_grow_with_the_file(ending: str, tmp_path: Path) -> None:
    peaks = []
    for count in (2_000, 20_000):
        path = tmp_path / f"{count}.{ending}"
        row = {"jsonl": '{"caption": "%s"}', "csv": "%s", "txt": "%s"}[ending]
        path.write_text("caption\n" * (ending == "csv") + "\n".join(row % f"{i} {'x' * 80}" for i in range(count)))
        tracemalloc.start()
        assert len(read_prompts(path, samples=50)) == 50
        peaks.append(tracemalloc.get_traced_memory()[1])
        if count == 20_000:
            tracemalloc.reset_peak()
            assert len(read_prompts(path)) == count
            assert tracemalloc.get_traced_memory()[1] > 5 * peaks[1]
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


class Hub:
    """Stands for the hub's file system: a folder."""

    def __init__(self, root: Path, parts: list[str]) -> None:
        self.root, self.parts = root, parts

    def glob(self, pattern: str) -> list[str]:
        assert pattern == "datasets/org/captions@refs/convert/parquet/**/*.parquet"
        return [f"datasets/org/captions@refs/convert/parquet/{part}" for part in self.parts]

    def open(self, path: str, mode: str) -> Any:
        return open(self.root / path.rpartition("parquet/")[2].replace("/", "_"), mode)


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ["default/train/0000.parquet", "default/train/0001.parquet", "default/val/0000.parquet"]
    for i, part in enumerate(parts):
        parquet_of(tmp_path / part.replace("/", "_"), caption=[f"caption {i}"], url=["x"])
    monkeypatch.setattr(hub, "filesystem", lambda: Hub(tmp_path, parts))
    assert read_prompts("org/captions:default/train") == ["caption 0", "caption 1"]
    with pytest.raises(EntropyLabError, match="org/captions:CONFIGURATION/SPLIT: it has default/train, default/val"):
        read_prompts("org/captions")
    with pytest.raises(EntropyLabError, match="Got 'default/test'"):
        read_prompts("org/captions:default/test")
    monkeypatch.setattr(hub, "filesystem", lambda: Hub(tmp_path, parts[:2]))
    assert read_prompts("org/captions", samples=1, seed=2)[0] in ("caption 0", "caption 1")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        def glob(self, pattern: str) -> list[str]:
            raise ConnectionError("no route to host")

    monkeypatch.setattr(hub, "filesystem", Nothing)
    with pytest.raises(EntropyLabError, match="'org/captions' is no file here.*no route to host"):
        read_prompts("org/captions")


@pytest.mark.parametrize("prompts", [["a\x00b"], ["half \ud83d"]])
def test_text_that_no_file_can_hold(prompts: list[str]) -> None:
    with pytest.raises(EntropyLabError, match="without NUL and halves of characters"):
        check_list(prompts)


def test_the_digest_depends_on_every_prompt_and_on_their_order() -> None:
    assert digest(["a", "b"]) == digest(Prompts(["a", "b"]))
    assert len({digest(texts) for texts in (["a", "b"], ["b", "a"], ["ab"], ["a\nb"], ["a", "b", "b"])}) == 5


def test_prompts_that_the_tokenizer_cuts_are_counted() -> None:
    class Tokenizer:
        model_max_length = 4

        def __call__(self, text: str) -> dict[str, list[str]]:
            return {"input_ids": text.split()}

    class Pipe:
        tokenizer = Tokenizer()

    assert count_cut(Pipe(), ["a b c d", "a b c d e", "a b c d e", "a b c d e f"]) == 2
    assert count_cut(object(), ["a b c d e"]) == 0
