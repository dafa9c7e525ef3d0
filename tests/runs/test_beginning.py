"""A command that begins a run, makes it longer, overwrites it, or is refused before any sampling."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import entropylab
from entropylab import EntropyLabError
from entropylab.runs import folder
from entropylab.runs.folder import PROMPTS as TEXTS
from entropylab.runs.folder import RECORD, read_run

from .processes import start
from .stub import PROMPTS, Stub, again, bare, files

CHANGED: list[tuple[dict[str, Any], str]] = [
    ({"seed": 1}, "seed: 0 there, 1 now"),
    ({"sizes": [64]}, r'sizes: \["32x32"\] there, \["64x64"\] now.*entropylab merge can join'),
    ({"scaling": 1.5}, r'scaling: \["original"\] there, \["1.5"\] now.*entropylab merge can join'),
    ({"samples": 6}, "samples: 8 there, 6 now. Use another"),
    ({"prompts": [*PROMPTS[:7], "another"]}, "prompts: not the same"),
    ({"prompts": ["another", *PROMPTS]}, "prompts: not the same"),
    ({"steps": 3}, "settings.num_inference_steps: null there, 3 now"),
    ({"batch_size": 3}, "batch_size: 2 there, 3 now"),
    ({"statistics": ["entropy"]}, r'statistics: \["entropy", "sigma2"\] there'),
    ({"rows": 8}, "rows: null there, 8 now"),
    ({"keep": ("layer",)}, r'keep: .* there, \["layer"\] now'),
    ({"layers": "self"}, r'layers: \[\] there, \["self"\] now'),
    ({"unit_samples": 4}, "unit_samples: 2 there, 4 now"),
    ({"train_size": 48}, "train_size: null there, 48 now"),
]


def test_another_configuration_in_the_same_folder_is_refused_and_shown(run: Path, tmp_path: Path) -> None:
    pipe = Stub()
    for options, message in CHANGED:
        with pytest.raises(EntropyLabError, match=f"another configuration: .*{message}.*--overwrite"):
            again(run, pipe, **options)
    with torch.no_grad():
        pipe.unet.attn1.to_q.weight[0, 0] += 1
    with pytest.raises(EntropyLabError, match="weights: "):
        again(run, pipe)
    assert pipe.calls == 0
    assert len(files(run)) == 4
    assert read_run(run).prompts == PROMPTS

    def mine(tokens: int, trained: int) -> float:
        return factor

    factor = 1.1
    again(tmp_path / "mine", scaling=mine)
    factor = 1.2
    with pytest.raises(EntropyLabError, match="another configuration: rules: "):
        again(tmp_path / "mine", scaling=mine)


def test_overwriting_removes_what_is_the_runs_own_and_nothing_else(run: Path, tmp_path: Path) -> None:
    first, second, *_ = files(run)
    (tmp_path / "mine.nc").write_text("mine")
    first.unlink()
    first.symlink_to(tmp_path / "mine.nc")
    second.write_bytes(b"")
    second.rename(f"{second}.damaged")
    second.mkdir()
    foreign = [run / "notes.md", run / "units" / "holiday.jpg", run / "locks" / ".hidden", second / "picture.jpg"]
    for path in foreign:
        path.write_text("mine")
    (run / "units" / f".{'0' * 32}.partial").write_text("half")
    record = json.loads((run / RECORD).read_text())
    (run / RECORD).write_text(json.dumps(record | {"format": 9}))
    ds = again(run, seed=5, overwrite=True)
    assert ds.attrs["seed"] == entropylab.open(run).attrs["seed"] == 5
    assert (tmp_path / "mine.nc").read_text() == "mine"
    moved = {second / "picture.jpg": second.with_name(f"{second.name}.damaged") / "picture.jpg"}
    assert [moved.get(path, path).read_text() for path in foreign] == ["mine"] * 4
    there = {path.name for path in (run / "units").iterdir()}
    assert there == {*(path.name for path in files(run)), "holiday.jpg", f"{second.name}.damaged"}


def test_what_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    with read_run(run).locks.take("unit") or pytest.fail("not taken"):
        with pytest.raises(EntropyLabError, match="overwrite: processes are at work"):
            again(run, overwrite=True)
    (run / "units").rename(tmp_path / "elsewhere")
    (run / "units").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EntropyLabError, match="units is a link, and what is behind it is not removed"):
        again(run, overwrite=True)
    assert len(files(run)) == 4


@pytest.mark.parametrize(("name", "begun"), [("prompts.jsonl", False), ("units/metres.txt", False), ("units", True)])
def test_only_a_folder_that_a_run_has_begun_is_taken_for_one(name: str, begun: bool, tmp_path: Path) -> None:
    if begun:
        (tmp_path / name).mkdir()
        (tmp_path / TEXTS).write_text("half of th")
        assert again(tmp_path).sizes["size"] == 1
        return
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(EntropyLabError, match="out must be an empty folder or that of a run"):
            again(tmp_path, overwrite=overwrite)
    assert (tmp_path / name).read_text() == "mine"


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (3, {}, "out must be the name of a folder. Got 3"),
    (" ", {}, "out must be the name of a folder. Got ' '"),
    ("file", {}, "out must be a folder that can be written to"),
    ("file/run", {}, "out must be a folder that can be written to"),
    ("n" * 300, {}, "out must be a folder that can be written to"),
    ("/proc/self/run", {}, "out must be a folder that can be written to"),
    ("full", {}, "out must be an empty folder or that of a run.* holiday.jpg"),
    ("run", {"unit_samples": 1.5}, "unit_samples must be an int >= 1"),
    ("run", {"unit_samples": 3}, "unit_samples must be a multiple of batch_size = 2. Got 3"),
    (None, {"unit_samples": 4}, "overwrite, unit_samples and engine are for a long run: pass out="),
    (None, {"overwrite": True}, "overwrite, unit_samples and engine are for a long run: pass out="),
    ("run", {"column": "caption"}, "column is for prompts from a file"),
    ("run", {"sizes": [33]}, "multiples of 8 pixels"),
    ("run", {"samples": 10**9}, "samples must be at most 10000000. Got 1000000000"),
]


@pytest.mark.parametrize(("out", "options", "message"), BAD)
def test_bad_input_is_refused_before_any_sampling(
    out: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.jpg").write_text("a picture")
    pipe = Stub()
    with pytest.raises(EntropyLabError, match=message):
        again(tmp_path / out if isinstance(out, str) and out.strip() else out, pipe, **options)
    assert pipe.calls == 0


def test_more_samples_go_on_from_the_ones_there_are(run: Path, tmp_path: Path) -> None:
    """Also while a process is at work on those that there were."""
    more, others = [*PROMPTS, *PROMPTS[:5]], []
    files(run)[3].unlink()

    def grow(pipe: Stub) -> None:
        others.append(start(run, prompts=more, sizes=[32], scaling="original"))
        while len(files(run)) < 6:
            assert others[0].is_alive()
            time.sleep(0.01)

    pipe = Stub()
    pipe.on_call = grow
    assert int(again(run, pipe).samples[0, 0]) == 8
    others[0].join()
    assert others[0].exitcode == 0
    pipe = Stub()
    ds = again(run, pipe, prompts=more)
    assert pipe.calls == 0
    assert ds.attrs["prompts_digest"] == json.loads((run / RECORD).read_text())["configuration"]["prompts"]
    assert read_run(run).prompts == more
    assert bare(ds).identical(bare(again(tmp_path / "at once", prompts=more)))


def test_two_that_make_a_run_longer_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, long = tmp_path / "run", [f"{text}, number {i}" for i in range(2) for text in PROMPTS]
    again(run, prompts=long[:2])
    write, others = folder.write_whole, []

    def write_while_another_grows_it(path: Path, content: bytes) -> None:
        """Let another process make the run longer between reading its record and writing it, if it can."""
        if path.name == RECORD:
            others.append(start(run, prompts=long[:8], sizes=[32], scaling="original"))
            time.sleep(1)
        write(path, content)

    monkeypatch.setattr(folder, "write_whole", write_while_another_grows_it)
    assert int(again(run, prompts=long[:4]).samples[0, 0]) == 4
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0]
    assert read_run(run).prompts == long[:8]
    assert bare(entropylab.open(run)).identical(bare(again(tmp_path / "at once", prompts=long[:8])))
