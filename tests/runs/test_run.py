"""``measure(..., out=...)``: the same numbers as without, whatever happens on the way."""

import errno
import json
import shlex
import shutil
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import entropylab
from entropylab import EntropyLabError
from entropylab.errors import EntropyLabWarning
from entropylab.runs import merge, status
from entropylab.runs.folder import RECORD, read_record
from entropylab.runs.merging import merge_run

from .stub import PROMPTS, Stub, measure

SAMPLES = ("branch", "sample", "step", "layer", "head")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests copy it before they change it."""
    path = tmp_path_factory.mktemp("runs") / "done"
    measure(path, scaling="original", sizes=[32])
    return path


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "run"))


def again(run: Path, pipe: Stub | None = None, **options: Any) -> xr.Dataset:
    """The command that made the finished run, again."""
    return measure(run, pipe, **{"scaling": "original", "sizes": [32], **options})


def bare(ds: xr.Dataset) -> xr.Dataset:
    """A Dataset without what says where it comes from."""
    return ds.drop_attrs(deep=False)


def files(run: Path) -> list[Path]:
    return sorted((run / "units").glob("*.nc"))


def test_a_run_is_what_measuring_at_once_gives(tmp_path: Path) -> None:
    at_once = measure(keep=("branch", "step", "layer", "head"))
    ds = measure(tmp_path / "run")
    assert bare(ds).identical(bare(at_once))
    assert ds.attrs.items() >= at_once.attrs.items()
    assert (ds.attrs["units"], ds.attrs["units_done"]) == (16, 16)
    assert entropylab.open(tmp_path / "run").identical(ds)
    other = measure(keep=("branch", "step", "layer", "head"), seed=1)
    assert not bare(other).identical(bare(at_once))


def test_samples_kept_apart(tmp_path: Path) -> None:
    ds = measure(tmp_path / "run", keep=SAMPLES)
    assert bare(ds).identical(bare(measure()))
    assert list(ds.prompt.values) == PROMPTS


def test_units_may_have_any_number_of_samples(done: Path, tmp_path: Path) -> None:
    ds = again(tmp_path / "run", unit_samples=6)
    assert len(files(tmp_path / "run")) == 2
    for name in ("entropy", "entropy_m2", "sigma2"):
        np.testing.assert_allclose(ds[name], entropylab.open(done)[name], rtol=1e-6)
    with pytest.raises(EntropyLabError, match="unit_samples must be a multiple of batch_size = 2. Got 3"):
        again(tmp_path / "other", unit_samples=3)


def test_a_finished_run_is_not_measured_again(run: Path) -> None:
    pipe = Stub()
    assert bare(again(run, pipe)).identical(bare(entropylab.open(run)))
    assert pipe.calls == 0
    again(run, pipe, overwrite=True)
    assert pipe.calls == 4


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_keeps_what_is_finished_and_the_same_call_goes_on(
    error: type[BaseException], done: Path, tmp_path: Path
) -> None:
    def stop(pipe: Stub) -> None:
        if pipe.calls == 3:
            raise error("out of patience")

    pipe, out = Stub(), tmp_path / "run"
    pipe.on_call = stop
    with pytest.raises(error) as caught:
        again(out, pipe)
    assert any("entropylab.open" in note and "samples 4 to 5" in note for note in caught.value.__notes__)
    assert list((out / "claims").iterdir()) == []
    assert status(out).finished == {path.stem for path in files(out)}
    with pytest.warns(EntropyLabWarning, match="is not finished, it has 2 of 4 units: 32x32 original 4 of 8 samples"):
        half = entropylab.open(out)
    assert (half.attrs["units_done"], int(half.samples[0, 0])) == (2, 4)
    pipe = Stub()
    assert bare(again(out, pipe)).identical(bare(entropylab.open(done)))
    assert pipe.calls == 2


def test_half_a_run_with_samples_apart_keeps_every_sample_in_its_place(tmp_path: Path) -> None:
    whole = measure(tmp_path / "run", keep=SAMPLES)
    run = read_record(tmp_path / "run")
    for unit in run.units:
        if unit.start in (0, 4) or (unit.size == (32, 48) and unit.scaling == "1.5"):
            run.file(unit).unlink()
    left = "32x32 original 4 of 8 samples; 32x32 1.5 4 of 8 samples; 32x48 original 4 of 8 samples; 32x48 1.5 0 of 8"
    with pytest.warns(EntropyLabWarning, match=left):
        half = entropylab.open(tmp_path / "run")
    assert list(half.prompt.values) == PROMPTS
    known = half.entropy.notnull().all(["branch", "step", "layer", "head"])
    gone = [0, 1, 4, 5]
    assert not known.isel(sample=gone).any()
    assert not known.isel(size=1, scaling=1).any()
    np.testing.assert_array_equal(half.entropy.where(known), whole.entropy.where(known))
    assert int(known.sum()) == 3 * 4


def test_nothing_finished_yet(run: Path) -> None:
    for path in files(run):
        path.unlink()
    with pytest.raises(EntropyLabError, match="has no finished unit yet, of 4"):
        entropylab.open(run)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    import h5py

    with h5py.File(path) as file:
        chunk = file["sums"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    path.write_bytes(content)


def forge(path: Path) -> None:
    """A valid file whose content is not what was measured."""
    ds = entropylab.open(path)
    ds["sums"].values[1] += 1e-9
    entropylab.save(ds, path, overwrite=True)


def exchange(path: Path) -> None:
    path.write_bytes(files(path.parents[1])[0].read_bytes())


@pytest.mark.parametrize("harm", [truncate, flip, forge, exchange, lambda path: path.write_bytes(b"")])
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
    claim = read_record(run).claims.take("unit")
    assert claim is not None
    with pytest.raises(EntropyLabError, match="overwrite: processes seem to be at work"):
        again(run, overwrite=True)
    claim.release()
    again(run, overwrite=True)


def test_a_disk_that_is_full_loses_only_the_unit_in_hand(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = xr.Dataset.to_netcdf

    def to_netcdf(self: xr.Dataset, path: Any, **options: Any) -> Any:
        if len(files(tmp_path / "run")) == 2:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(self, path, **options)

    monkeypatch.setattr(xr.Dataset, "to_netcdf", to_netcdf)
    with pytest.raises(EntropyLabError, match="could not be written: .*No space left"):
        again(tmp_path / "run")
    with pytest.warns(EntropyLabWarning, match="2 of 4 units"):
        assert entropylab.open(tmp_path / "run").attrs["units_done"] == 2
    assert not list((tmp_path / "run").rglob("*.partial"))
    monkeypatch.undo()
    assert bare(again(tmp_path / "run")).identical(bare(entropylab.open(done)))


@pytest.mark.parametrize("name", ["open", "link", "fsync"])
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
    (None, {"unit_samples": 4}, "overwrite and unit_samples are for a long run: pass out="),
    (None, {"overwrite": True}, "overwrite and unit_samples are for a long run: pass out="),
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


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 1}', '{"format": 9, "configuration": {}, "attributes": {}}']
)
def test_a_record_that_cannot_be_read(content: str, run: Path) -> None:
    (run / RECORD).write_text(content)
    with pytest.raises(EntropyLabError, match=r"run.json can't be read|run of format 9"):
        entropylab.open(run)
    with pytest.raises(EntropyLabError, match=r"run.json can't be read|run of format 9"):
        again(run)


def test_seeds_belong_to_samples_not_to_units(tmp_path: Path) -> None:
    a, b = (again(tmp_path / str(each), unit_samples=each, keep=SAMPLES) for each in (2, 6))
    assert bare(a).identical(bare(b))
    late = again(tmp_path / "late", seed=4, prompts=PROMPTS[4:], keep=SAMPLES)
    np.testing.assert_array_equal(late.entropy, a.entropy.isel(sample=slice(4, None)))
    assert not np.array_equal(late.entropy, a.entropy.isel(sample=slice(0, 4)))


@pytest.mark.parametrize("keep", [SAMPLES, ("layer", "head")])
def test_runs_of_other_seeds_sizes_and_rules_are_joined(keep: tuple[str, ...], tmp_path: Path) -> None:
    whole = measure(tmp_path / "whole", keep=keep)
    parts = [
        measure(tmp_path / "a", keep=keep, prompts=PROMPTS[:6]),
        measure(tmp_path / "b", keep=keep, prompts=PROMPTS[6:], seed=6, scaling=(1.5, "original")),
        measure(tmp_path / "c", keep=keep, prompts=PROMPTS[6:], seed=6, sizes=[32], scaling="original"),
    ]
    ds = merge([tmp_path / name for name in "abc"])
    assert bare(ds).identical(bare(whole))
    assert ds.attrs["seed"] == [0, 6]
    assert not bare(parts[0]).identical(bare(whole))


def test_runs_that_do_not_belong_together(run: Path, tmp_path: Path) -> None:
    for name, options in {"steps": {"steps": 3}, "shifted": {"seed": 1}, "prompts": {"prompts": PROMPTS[::-1]}}.items():
        again(tmp_path / name, **options)
    with pytest.raises(EntropyLabError, match="runs must have one configuration.*num_inference_steps"):
        merge([run, tmp_path / "steps"])
    for name in ("shifted", "prompts"):
        with pytest.raises(EntropyLabError, match="runs must not share samples partly"):
            merge([run, tmp_path / name])
    with pytest.raises(EntropyLabError, match="runs must differ"):
        merge([run, run])
    for bad in ([], str(run), None):
        with pytest.raises(EntropyLabError, match="runs must be a list of at least one folder"):
            merge(bad)
    with pytest.raises(EntropyLabError, match="holds no run"):
        merge([tmp_path])


def test_a_unit_that_is_damaged_in_one_run_is_taken_from_another(run: Path, done: Path, tmp_path: Path) -> None:
    truncate(files(run)[1])
    files(run)[3].unlink()
    assert bare(merge([run, done])).identical(bare(entropylab.open(done)))


def test_memory_does_not_grow_with_samples(tmp_path: Path) -> None:
    def peak(samples: int, out: Path | None) -> int:
        tracemalloc.start()
        tracemalloc.reset_peak()
        measure(out, samples=samples, sizes=[16], scaling="original", batch_size=250, unit_samples=250 if out else None)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(250, tmp_path / "warm")
    few, many = (peak(samples, tmp_path / str(samples)) for samples in (500, 2500))
    assert int(entropylab.open(tmp_path / "2500").samples[0, 0]) == 2500
    assert many < 1.25 * few
    assert peak(2500, None) > 2 * many


def test_provenance_is_enough_to_repeat_a_run(run: Path) -> None:
    ds = entropylab.open(run)
    names = ("model", "revision", "versions", "dtype", "device", "scheduler", "scheduler_config", "seed", "command")
    assert set(names) <= ds.attrs.keys()
    assert ds.attrs["command"] == shlex.join(sys.orig_argv)
    assert len(ds.attrs["prompts_digest"]) == 64
    record = json.loads((run / RECORD).read_text())
    assert record["configuration"]["prompts"] == ds.attrs["prompts_digest"]
    assert read_record(run).prompts == PROMPTS
    assert len(record["configuration"]["weights"]) == 32
    assert merge_run(read_record(run)).devices == {"cpu": None}


def test_prompts_of_a_file_are_named_in_the_result(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_bytes(b"caption\n" + b"\n".join(text.encode() for text in PROMPTS) + b"\ncaf\xe9\n")
    with pytest.warns(EntropyLabWarning, match="1 wrongly encoded"):
        ds = again(tmp_path / "run", prompts=path, samples=4)
    assert json.loads(ds.attrs["prompts_skipped"]) == {"wrongly encoded": 1}
    assert ds.attrs["prompts_source"] == str(path)
    assert set(read_record(tmp_path / "run").prompts) < set(PROMPTS)


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


def test_a_record_that_was_changed_by_hand(run: Path) -> None:
    record = (run / RECORD).read_text()
    (run / RECORD).write_text(record.replace('"samples": 8', '"samples": 6'))
    with pytest.raises(EntropyLabError, match="run.json is damaged or was changed"):
        entropylab.open(run)


def test_the_clock_of_another_machine_is_not_believed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from entropylab.runs import clocks

    claim = read_record(run).claims.take("unit")
    assert claim is not None
    (run / "units" / ".0.partial").write_text("being written")
    monkeypatch.setattr(clocks.time, "time", lambda: 1e10)
    with pytest.raises(EntropyLabError, match="overwrite: processes seem to be at work"):
        again(run, overwrite=True)
    again(run)
    assert (run / "units" / ".0.partial").exists()


def test_units_of_several_versions_are_named(run: Path) -> None:
    record = read_record(run)
    assert "versions_of_units" not in entropylab.open(run).attrs
    ds = record.read(record.units[1])
    record.file(record.units[1]).unlink()
    record.write(record.units[1], ds.assign_attrs(versions='{"torch": "1"}'))
    assert '{"torch": "1"}' in json.loads(entropylab.open(run).attrs["versions_of_units"])
