"""Prompts from files of every format and from data sets: what is read, left out and counted, and chosen."""

import csv
import io
import json
import random
import sys
import tracemalloc
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from entropylab.errors import EntropyLabError, EntropyLabWarning
from entropylab.prompts import LONGEST, Prompts, choose, count_cut, digest, read_prompts

GOOD = ["a red car", "ein Bär", "猫, sitting", "x" * LONGEST]
LONG = "y" * (LONGEST + 1)
WRONG = b"caf\xe9"


def quietly(*arguments: Any, **options: Any) -> Prompts:
    """Read prompts of which some are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EntropyLabWarning)
        return read_prompts(*arguments, **options)


def parquet_of(path: Path, **columns: Any) -> None:
    """A parquet file; only where the library that reads it is installed."""
    pytest.importorskip("datasets")
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def write_txt(path: Path) -> None:
    lines = [b"\xef\xbb\xbfa red car", b"", "ein Bär".encode(), WRONG, "猫, sitting".encode(), LONG.encode()]
    path.write_bytes(b"\n".join([*lines, b"nul\x00", GOOD[3].encode(), b"  "]))


def write_csv(path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t" if path.suffix == ".tsv" else ",")
    writer.writerows([("id", "caption", "width"), (1, "a red car", 5), (2, "ein Bär", 5), (3, "  ", 5), (4,)])
    writer.writerows([(5, "猫, sitting", 5), (6, LONG, 5), (7, "z" * 200_000, 5), (8, GOOD[3], 5), (9, "WRONG", 5)])
    path.write_bytes(text.getvalue().encode().replace(b"WRONG", WRONG))


def write_jsonl(path: Path) -> None:
    rows: list[Any] = [{"id": 1, "caption": "a red car"}, {"id": 2, "caption": "ein Bär"}, {"id": 3}, {"caption": ""}]
    rows += [{"caption": 5}, "猫, sitting", {"caption": LONG}, {"caption": "half \ud83d"}, {"caption": GOOD[3]}]
    lines = [json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join([*lines, b"{broken", b'{"caption": "' + WRONG + b'"}', b"", b"[" * 100_000]))


def write_parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    cells = [text.encode() for text in GOOD] + [None, b"", WRONG, LONG.encode()]
    raw = pyarrow.array(cells, pyarrow.binary())
    column = pyarrow.Array.from_buffers(pyarrow.string(), len(raw), raw.buffers())  # a text column with a wrong byte
    parquet_of(path, id=list(range(len(cells))), caption=column)


BAD = {
    "txt": (write_txt, {"wrongly encoded": 2, "too long": 1}),
    "csv": (write_csv, {"empty": 1, "missing": 1, "too long": 1, "unreadable": 1, "wrongly encoded": 1}),
    "tsv": (write_csv, {"empty": 1, "missing": 1, "too long": 1, "unreadable": 1, "wrongly encoded": 1}),
    "jsonl": (
        write_jsonl,
        {"empty": 1, "missing": 1, "not text": 1, "too long": 1, "unreadable": 2, "wrongly encoded": 2},
    ),
    "parquet": (write_parquet, {"empty": 1, "missing": 1, "too long": 1, "wrongly encoded": 1}),
}


@pytest.mark.parametrize("ending", list(BAD))
def test_good_captions_are_read_and_bad_ones_counted(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"captions.{ending}"
    write, bad = BAD[ending]
    write(path)
    with pytest.warns(EntropyLabWarning, match=rf"{sum(bad.values())} captions of .*captions.{ending} left out"):
        found = read_prompts(path)
    assert (found, found.skipped, found.source) == (GOOD, bad, str(path))
    if ending != "txt":
        assert quietly(path, column="caption") == GOOD


def test_json_and_the_types_of_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    clean = pyarrow.array(GOOD)
    for kind in (pyarrow.large_string(), pyarrow.binary(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        parquet_of(tmp_path / "p.parquet", text=clean.cast(kind))
        assert read_prompts(tmp_path / "p.parquet") == GOOD
    (tmp_path / "p.json").write_text(json.dumps([{"caption": "one", "id": 1}, {"caption": "two", "id": 2}]))
    assert read_prompts(tmp_path / "p.json") == ["one", "two"]


def test_of_parquet_only_the_captions_are_read(tmp_path: Path) -> None:
    """The columns beside them may be pictures; here they are broken, so that whoever reads them fails."""
    pictures = [random.Random(i).randbytes(10_000) for i in range(100)]
    path = tmp_path / "p.parquet"
    parquet_of(path, caption=["a", "b"] * 50, image=pictures)
    content = path.read_bytes()
    place = content.index(pictures[50][:1000])
    path.write_bytes(content[:place] + b"\xff" * 300_000 + content[place + 300_000 :])
    assert read_prompts(path) == ["a", "b"] * 50
    with pytest.raises(EntropyLabError, match="can't be read"):
        read_prompts(path, column="image")


REFUSED: list[tuple[str, Any, dict[str, Any], str]] = [
    ("p.txt", b"\n \n", {}, "at least one caption. It is empty"),
    ("p.txt", b"a", {"column": "caption"}, "column='caption' is for csv"),
    ("p.csv", b"caption,text\n1,2\n", {}, "column must say which column of .*: caption, text"),
    ("p.csv", b"a,b\n1,2\n", {"column": "c"}, "column must be one of those of .*: a, b. Got 'c'"),
    ("p.jsonl", b"{broken", {}, "1 unreadable"),
    ("p.jsonl", b'{"a": "x"}', {"column": "b"}, "1 missing"),
    ("p.parquet", b"PAR1 and nothing else", {}, "can't be read"),
    ("p.parquet", {"a": ["x"], "b": ["y"]}, {"column": "c"}, "column must be one of those of .*: a, b. Got 'c'"),
    ("p.parquet", {"caption": [["x"]]}, {}, "column 'caption' .* must hold text. Got list"),
    ("none", None, {}, "existing text file. Got"),
]


@pytest.mark.parametrize(("name", "content", "options", "message"), REFUSED)
def test_files_that_hold_no_prompts(name: str, content: Any, options: dict, message: str, tmp_path: Path) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("datasets")
    if isinstance(content, dict):
        parquet_of(tmp_path / name, **content)
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(EntropyLabError, match=message):
        quietly(tmp_path / name, **options)


def test_a_file_that_may_not_be_read_and_a_library_that_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ending in ("txt", "parquet"):
        (tmp_path / f"captions.{ending}").write_text("a cat\n")

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as changed:
        changed.setattr("builtins.open", refused)
        with pytest.raises(EntropyLabError, match="captions.txt can't be read: Permission denied"):
            read_prompts(tmp_path / "captions.txt")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(EntropyLabError, match=r"need datasets: pip install 'entropylab\[prompts\]'"):
        read_prompts(tmp_path / "captions.parquet")


def test_a_subset_is_chosen_by_the_seed_fairly_and_grows_without_changing() -> None:
    captions = [f"caption {i}" for i in range(1000)]
    few, more = choose(captions, 20, 3), choose(captions, 50, 3)
    assert few[:3] == ["caption 243", "caption 530", "caption 592"], "runs of earlier versions go on"
    assert more[:20] == few and len(set(more)) == 50
    assert choose(captions, 20, 4) != few
    assert choose(captions, 1000, 3) == choose(captions, 2000, 3) == choose(captions, None, 3) == captions
    counts = [0] * 10
    for seed in range(1000):
        for text in choose([str(i) for i in range(10)], 3, seed):
            counts[int(text)] += 1
    assert max(abs(count - 300) for count in counts) < 5 * (1000 * 0.3 * 0.7) ** 0.5


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path, peaks = tmp_path / "captions.csv", []
    for count, samples in ((1_000, 20), (10_000, 20), (10_000, None)):
        path.write_text("caption\n" + "\n".join(f"{i} {'x' * 80}" for i in range(count)))
        tracemalloc.start()
        assert len(read_prompts(path, samples=samples)) == samples or count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] and peaks[2] > 5 * peaks[1]


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder stands for it: `datasets` reads both in the same way."""
    monkeypatch.chdir(tmp_path.parents[1])
    datasets = pytest.importorskip("datasets")
    known = datasets.load_dataset
    local = {"org/captions": str(tmp_path)}
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **words: known(local.get(path, path), **words))
    parquet_of(tmp_path / "train-00000.parquet", caption=["caption 0", "caption 1"], url=["x", "x"])
    assert read_prompts("org/captions") == ["caption 0", "caption 1"]
    parquet_of(tmp_path / "validation-00000.parquet", caption=["caption 2"], url=["x"])
    assert read_prompts("org/captions:default/validation") == ["caption 2"]
    for name, message in [
        ("org/captions", "org/captions:CONFIGURATION/SPLIT: its splits are train, validation"),
        ("org/captions:default/test", "test"),
        ("org/captions:other/train", "other"),
        ("/".join(tmp_path.parts[-2:]), "prompts must be a list of strings"),  # a folder of one's own
    ]:
        with pytest.raises(EntropyLabError, match=message):
            read_prompts(name)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no route")))
    with pytest.raises(EntropyLabError, match="'org/captions' can't be read, as a file or from the .* hub: no route"):
        read_prompts("org/captions")


def test_the_digest_depends_on_every_prompt_and_on_their_order() -> None:
    assert digest(["a", "b"]) == digest(Prompts(["a", "b"]))
    assert len({digest(texts) for texts in (["a", "b"], ["b", "a"], ["ab"], ["a\nb"], ["a", "b", "b"])}) == 5


def test_prompts_that_the_tokenizer_cuts_are_counted() -> None:
    class Tokenizer(SimpleNamespace):
        def __call__(self, text: str) -> dict[str, list[str]]:
            return {"input_ids": text.split()}

    pipe = SimpleNamespace(tokenizer=Tokenizer(model_max_length=4))
    assert count_cut(pipe, ["a b c d", "a b c d e", "a b c d e", "a b c d e f"]) == 2
    assert count_cut(object(), ["a b c d e"]) == 0
