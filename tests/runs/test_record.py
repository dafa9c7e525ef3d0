"""A run whose record is lost or damaged: its units know whose they are, and nothing finished is stranded."""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import entropylab
from entropylab import EntropyLabError
from entropylab.errors import EntropyLabWarning
from entropylab.runs import merge, status
from entropylab.runs.configuration import digest_of
from entropylab.runs.folder import RECORD, read_record

from ..command_line import run as command
from .short import again, bare, files, truncate
from .stub import PROMPTS, Stub

DEEP = "[" * 100_000


def lost(record: Path) -> None:
    record.unlink()


def by_hand(record: Path) -> None:
    record.write_text(record.read_text().replace('"samples": 8', '"samples": 6'))


def pipe_instead(record: Path) -> None:
    """What waits for ever for a writer."""
    record.unlink()
    os.mkfifo(record)


def written(content: str) -> Callable[[Path], None]:
    return lambda record: record.write_text(content) and None


def changed(**changes: Any) -> Callable[[Path], None]:
    """A record with other values, and the right digest."""

    def harm(record: Path) -> None:
        known = json.loads(record.read_text())
        known["attributes"] = changes.pop("attributes", known["attributes"])
        known["configuration"] |= changes
        record.write_text(json.dumps(known | {"digest": digest_of(known["configuration"])}))

    return harm


HARMS: dict[str, Callable[[Path], None]] = {
    "lost": lost,
    "a pipe": pipe_instead,
    "by hand": by_hand,
    "empty": written(""),
    "cut": lambda record: record.write_text(record.read_text()[:200]) and None,
    "a list": written("[]"),
    "deep": written(DEEP),
    "no text": lambda record: record.write_bytes(b"\xff\xfe\x00") and None,
    "no digest": written('{"configuration": {}, "attributes": {}}'),
    "a configuration that is none": written(
        json.dumps({"format": 2, "configuration": [], "digest": digest_of([]), "attributes": {}})  # type: ignore[arg-type]
    ),
    "samples as text": changed(samples="8"),
    "no samples": changed(samples=0),
    "samples without end": changed(samples=10**9),
    "units without end": changed(samples=10**7, unit_samples=1),
    "units of nothing": changed(unit_samples=0),
    "sizes": changed(sizes=["large"]),
    "no sizes": changed(sizes=[]),
    "a size": changed(sizes="32x32"),
    "scaling": changed(scaling=[1.5]),
    "rules": changed(rules=[]),
    "keep": changed(keep="layer"),
    "seed": changed(seed=None),
    "prompts": changed(prompts=3),
    "attributes": changed(attributes=[]),
    "no version": changed(attributes={}),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_record_that_is_lost_or_damaged_is_found_in_the_units(harm: str, run: Path) -> None:
    before, record = entropylab.open(run), (run / RECORD).read_text()
    HARMS[harm](run / RECORD)
    harmed = (run / RECORD).is_file() and (run / RECORD).read_bytes()
    with pytest.warns(EntropyLabWarning, match=r"run.json.*was found in the units; the command that made the run"):
        assert entropylab.open(run).identical(before)
    with pytest.warns(EntropyLabWarning, match="found in the units"):
        assert status(run, check=True).damaged == {}
    with pytest.warns(EntropyLabWarning, match="found in the units"):
        assert merge([run]).equals(before)
    assert ((run / RECORD).is_file() and (run / RECORD).read_bytes()) == harmed  # reading changes nothing
    pipe = Stub()
    with pytest.warns(EntropyLabWarning, match="found in the units"):
        assert bare(again(run, pipe)).identical(bare(before))
    assert pipe.calls == 0
    assert (run / RECORD).read_text() == record
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entropylab.open(run)


def test_half_a_run_without_its_record_goes_on(run: Path) -> None:
    before = entropylab.open(run)
    (run / RECORD).unlink()
    (run / "prompts.jsonl").unlink()
    files(run)[0].unlink()
    truncate(files(run)[1])
    (run / "notes.md").write_text("mine")
    pipe = Stub()
    with pytest.warns(EntropyLabWarning, match="found in the units"):
        assert bare(again(run, pipe)).identical(bare(before))
    assert pipe.calls == 2


def test_a_record_that_is_found_is_still_that_of_one_configuration(run: Path) -> None:
    (run / RECORD).unlink()
    pipe = Stub()
    with pytest.warns(EntropyLabWarning), pytest.raises(EntropyLabError, match="another configuration: seed: 0 there"):
        again(run, pipe, seed=3)
    assert pipe.calls == 0
    assert len(files(run)) == 4


def test_the_units_of_a_run_that_grew_know_of_all_samples(run: Path) -> None:
    again(run, prompts=[*PROMPTS, "more", "and more"])
    (run / RECORD).unlink()
    with pytest.warns(EntropyLabWarning, match="found in the units"):
        ds = entropylab.open(run)
    assert int(ds.samples[0, 0]) == 10


def test_units_of_two_runs_in_one_folder_are_refused(run: Path, tmp_path: Path) -> None:
    again(tmp_path / "other", seed=9)
    files(run)[1].write_bytes(files(tmp_path / "other")[1].read_bytes())
    (run / RECORD).unlink()
    with pytest.raises(EntropyLabError, match=f"Units {files(run)[0].stem} and {files(run)[1].stem} are of diff.*seed"):
        entropylab.open(run)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "of another program"}', DEEP])
def test_a_record_that_cannot_be_read_where_nothing_is_finished(content: str, run: Path) -> None:
    (run / RECORD).write_text(content)
    for file in files(run):
        file.unlink()
    for use in (entropylab.open, again, status):
        with pytest.raises(EntropyLabError, match=r"run.json can't be read: it is not what entropylab wrote"):
            use(run)


def test_a_record_of_a_newer_format(run: Path) -> None:
    record = json.loads((run / RECORD).read_text())
    (run / RECORD).write_text(json.dumps(record | {"format": 9}))
    for use in (entropylab.open, again):
        with pytest.raises(EntropyLabError, match="run of format 9; this is for format 2"):
            use(run)


def test_the_command_line_says_it_in_one_line(run: Path) -> None:
    (run / RECORD).unlink()
    result = command("status", run)
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout.splitlines()[2].split() == ["all", "4/4", "8/8", "0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 10**9}, "samples must be at most 10000000. Got 1000000000"),
        ({"samples": 10**7, "unit_samples": 2}, "unit_samples must be so many that there are at most 1000000 units"),
    ],
)
def test_runs_without_end_are_refused_before_any_sampling(options: Any, message: str, tmp_path: Path) -> None:
    pipe = Stub()
    with pytest.raises(EntropyLabError, match=message):
        again(tmp_path / "run", pipe, **options)
    assert pipe.calls == 0
    assert not (tmp_path / "run" / RECORD).exists()


def test_a_record_is_read_without_its_units(run: Path) -> None:
    for file in files(run):
        file.unlink()
    assert len(read_record(run).units) == 4
