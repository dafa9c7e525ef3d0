"""What goes wrong with the files of a run: damage, full disks, what was removed, replaced or changed by hand."""

import errno
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import entropylab
from entropylab import EntropyLabError
from entropylab.errors import EntropyLabWarning
from entropylab.runs import folder, status
from entropylab.runs.folder import read_record

from ..datasets import flip_byte
from .short import again, bare, files, truncate
from .stub import PROMPTS, Stub


def forge(path: Path) -> None:
    """A valid file whose content is not what was measured."""
    ds = entropylab.open(path)
    ds["sums"].values[1] += 1e-9
    entropylab.save(ds, path, overwrite=True)


def blank(path: Path) -> None:
    """A block of zeros, as a power cut leaves it, where HDF5 would never return from."""
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    content[heap + 512 : heap + 1024] = bytes(512)
    path.write_bytes(content)


def exchange(path: Path) -> None:
    path.write_bytes(files(path.parents[1])[0].read_bytes())


@pytest.mark.parametrize(
    "harm", [truncate, blank, partial(flip_byte, name="sums"), forge, exchange, lambda path: path.write_bytes(b"")]
)
def test_a_damaged_unit_is_noticed_and_measured_again(harm: Any, run: Path) -> None:
    before = entropylab.open(run)
    victim = files(run)[2]
    harm(victim)
    with pytest.raises(EntropyLabError, match=f"damaged units .1.; the command .* again.*{victim.stem}"):
        entropylab.open(run)
    assert list(status(run, check=True).damaged) == [victim.stem]
    pipe = Stub()
    assert bare(again(run, pipe)).identical(bare(before))
    assert pipe.calls == 1
    assert [path.name for path in (run / "units").glob("*.damaged")] == [f"{victim.name}.damaged"]


def test_a_disk_that_is_full_loses_only_the_unit_in_hand(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = folder.write_whole

    def full(path: Path, content: bytes) -> None:
        if len(files(tmp_path / "run")) == 2:
            monkeypatch.setattr("os.fsync", no_space)
        write(path, content)

    def no_space(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder, "write_whole", full)
    with pytest.raises(EntropyLabError, match="can't be written: No space left"):
        again(tmp_path / "run")
    with pytest.warns(EntropyLabWarning, match="2 of 4 units"):
        assert entropylab.open(tmp_path / "run").attrs["units_done"] == 2
    assert not list((tmp_path / "run").rglob("*.partial"))
    monkeypatch.undo()
    assert bare(again(tmp_path / "run")).identical(bare(entropylab.open(done)))


@pytest.mark.parametrize("name", ["open", "fsync"])
def test_a_disk_that_is_full_for_small_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    from entropylab import files as small

    if name == "open":
        monkeypatch.setattr(small, "open", full, raising=False)
    else:
        monkeypatch.setattr(small.os, name, full)
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(EntropyLabError, match="can't be written: No space left"):
        again(tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_a_run_that_is_removed_or_replaced_under_a_process_that_is_at_work(done: Path, tmp_path: Path) -> None:
    def remove(pipe: Stub) -> None:
        shutil.rmtree(tmp_path / "run")

    def replace(pipe: Stub) -> None:
        remove(pipe)
        shutil.copytree(done, tmp_path / "run")

    for harm, message in ((remove, "is no folder of a run"), (replace, "seed: 5 there, 0 now")):
        pipe = Stub()
        pipe.on_call = harm
        with pytest.raises(EntropyLabError, match=f"was removed, or overwritten by another command, .*{message}"):
            again(tmp_path / "run", pipe, seed=5)
        assert pipe.calls == 1
    assert bare(entropylab.open(tmp_path / "run")).identical(bare(entropylab.open(done)))


@pytest.mark.parametrize("content", [None, "", "[1]\n", '"a"\n'])
def test_prompts_that_are_lost_are_written_again(content: str | None, run: Path) -> None:
    path = run / "prompts.jsonl"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(EntropyLabError, match=r"prompts.jsonl .* The command that made the run writes it again"):
        entropylab.open(run)
    pipe = Stub()
    again(run, pipe)
    assert (pipe.calls, read_record(run).prompts) == (0, PROMPTS)
