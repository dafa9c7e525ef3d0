"""A command that begins a run, goes on with it, makes it longer, overwrites it, or is refused before any sampling."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import entropylab
from entropylab import EntropyLabError
from entropylab.runs.folder import RECORD, read_record

from .short import again, bare, files
from .stub import PROMPTS, Stub

CHANGED: list[tuple[dict[str, Any], str]] = [
    ({"seed": 1}, "seed: 0 there, 1 now"),
    ({"sizes": [64]}, r'sizes: \["32x32"\] there, \["64x64"\] now'),
    ({"scaling": 1.5}, r'scaling: \["original"\] there, \["1.5"\] now'),
    ({"samples": 6}, "samples: 8 there, 6 now"),
    ({"prompts": [*PROMPTS[:7], "another"]}, "prompts: "),
    ({"steps": 3}, "settings.num_inference_steps: null there, 3 now"),
    ({"batch_size": 3}, "batch_size: 2 there, 3 now"),
    ({"statistics": ["entropy"]}, r'statistics: \["entropy", "sigma2"\] there'),
    ({"rows": 8}, "rows: null there, 8 now"),
    ({"keep": ("layer",)}, r'keep: .* there, \["layer"\] now'),
    ({"layers": "self"}, r'layers: \[\] there, \["self"\] now'),
    ({"unit_samples": 4}, "unit_samples: 2 there, 4 now"),
    ({"train_size": 48}, "train_size: null there, 48 now"),
]


@pytest.mark.parametrize(("options", "message"), CHANGED)
def test_another_configuration_in_the_same_folder_is_refused_and_shown(
    options: dict[str, Any], message: str, run: Path
) -> None:
    pipe = Stub()
    with pytest.raises(EntropyLabError, match=f"another configuration: .*{message}.*--overwrite"):
        again(run, pipe, **options)
    assert pipe.calls == 0
    assert len(files(run)) == 4


def test_other_weights_and_other_rules_of_the_same_name_are_another_configuration(run: Path, tmp_path: Path) -> None:
    pipe = Stub()
    with torch.no_grad():
        pipe.unet.attn1.to_q.weight[0, 0] += 1
    with pytest.raises(EntropyLabError, match="weights: "):
        again(run, pipe)

    def mine(tokens: int, trained: int) -> float:
        return factor

    factor = 1.1
    again(tmp_path / "mine", scaling=mine)
    factor = 1.2
    with pytest.raises(EntropyLabError, match="another configuration: rules: "):
        again(tmp_path / "mine", scaling=mine)


def test_overwriting_starts_afresh_and_leaves_other_files_alone(run: Path) -> None:
    (run / "notes.md").write_text("mine")
    ds = again(run, seed=5, overwrite=True)
    assert ds.attrs["seed"] == 5
    assert (run / "notes.md").read_text() == "mine"


def test_a_run_that_is_being_made_is_not_overwritten(run: Path) -> None:
    lock = read_record(run).locks.take("unit")
    assert lock is not None
    with pytest.raises(EntropyLabError, match="overwrite: processes are at work"):
        again(run, overwrite=True)
    lock.release()
    again(run, overwrite=True)


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (3, {}, "out must be the name of a folder. Got 3"),
    ("", {}, "out must be the name of a folder. Got ''"),
    ("file", {}, "out must be a folder for the run. Got the file"),
    ("file/run", {}, "can't be written"),
    ("n" * 300, {}, "can't be written"),
    ("full", {}, "out must be an empty folder or that of a run.* holiday.jpg"),
    ("run", {"unit_samples": 0}, "unit_samples must be an int >= 1"),
    ("run", {"unit_samples": 1.5}, "unit_samples must be an int >= 1"),
    ("run", {"unit_samples": 1}, "unit_samples must be a multiple of batch_size = 2"),
    (None, {"unit_samples": 4}, "overwrite, unit_samples and engine are for a long run: pass out="),
    (None, {"overwrite": True}, "overwrite, unit_samples and engine are for a long run: pass out="),
    ("run", {"column": "caption"}, "column is for prompts from a file"),
    ("run", {"prompts": []}, "prompts must name at least one prompt"),
    ("run", {"prompts": ["a\x00b"]}, "without NUL"),
    ("run", {"prompts": "none.csv"}, "existing text file"),
    ("run", {"samples": 0}, "samples must be an int >= 1"),
    ("run", {"samples": "all"}, "samples must be an int >= 1"),
    ("run", {"seed": -1}, "seed must be an int >= 0"),
    ("run", {"sizes": [33]}, "multiples of 8 pixels"),
    ("run", {"keep": ["pixels"]}, "keep must be some of"),
    ("run", {"scaling": "sqrtlog"}, "scaling must be one of"),
    ("run", {"statistics": []}, "statistics must be some of"),
    ("run", {"batch_size": 0}, "batch_size must be an int >= 1"),
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
        again(tmp_path / out if isinstance(out, str) and out else out, pipe, **options)
    assert pipe.calls == 0


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which not even root may write")
def test_a_folder_in_which_nobody_may_write() -> None:
    with pytest.raises(EntropyLabError, match="can't be written"):
        again(Path("/proc/self/run"))


def test_more_samples_go_on_from_the_ones_there_are(run: Path, tmp_path: Path) -> None:
    pipe, more = Stub(), [*PROMPTS, *PROMPTS[:5]]
    ds = again(run, pipe, prompts=more)
    assert pipe.calls == 3
    assert ds.attrs["prompts_digest"] == json.loads((run / RECORD).read_text())["configuration"]["prompts"]
    assert read_record(run).prompts == more
    assert bare(ds).identical(bare(again(tmp_path / "at once", prompts=more)))
    with pytest.raises(EntropyLabError, match="samples: 13 there, 8 now. Use another"):
        again(run)
    with pytest.raises(EntropyLabError, match='prompts: sample 1 has "a very red car" there, "a blue car" now'):
        again(run, prompts=[PROMPTS[0], "a blue car", *more, "and more"])


def test_a_process_at_work_goes_on_when_its_run_grows(run: Path) -> None:
    files(run)[3].unlink()

    def grow(pipe: Stub) -> None:
        if pipe.calls == 1:
            again(run, prompts=[*PROMPTS, "one more"])

    pipe = Stub()
    pipe.on_call = grow
    assert int(again(run, pipe).samples[0, 0]) == 8
    assert int(entropylab.open(run).samples[0, 0]) == 9


def test_a_command_that_is_refused_leaves_the_prompts_of_the_run_alone(done: Path, run: Path) -> None:
    from entropylab.runs import beginning

    record = read_record(done)
    other = {**record.configuration, "prompts": "another", "seed": 1}
    exists, seen = Path.exists, []

    def not_yet(self: Path, **options: Any) -> bool:
        seen.append(self)
        return exists(self, **options) and self.name != RECORD

    with pytest.MonkeyPatch.context() as patch, pytest.raises(EntropyLabError, match="seed: 0 there, 1 now"):
        patch.setattr(Path, "exists", not_yet)  # as for a command that looked just before the other one began
        beginning.begin(run, other, {}, ["another"])
    assert run / RECORD in seen
    assert read_record(run).prompts == PROMPTS


def test_the_clock_of_this_machine_is_not_believed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "units" / ".0.partial").write_text("being written")
    monkeypatch.setattr("time.time", lambda: 1e10)
    again(run)
    assert (run / "units" / ".0.partial").exists()
    os.utime(run / "units" / ".0.partial", (0, 0))
    again(run)
    assert not (run / "units" / ".0.partial").exists()
