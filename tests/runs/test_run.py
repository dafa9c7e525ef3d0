"""``measure(..., out=...)``: the same numbers as without, also after a stop, and where they come from."""

import json
import os
import shlex
import signal
import sys
import tracemalloc
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import entropylab
from entropylab import EntropyLabError, netcdf
from entropylab.capture.tracing import Trace
from entropylab.errors import EntropyLabWarning
from entropylab.runs import folder, status
from entropylab.runs.folder import RECORD, read_run

from .stub import PROMPTS, SAMPLES, Stub, again, bare, files, measure


@pytest.mark.parametrize("keep", [None, SAMPLES])
def test_a_run_is_what_measuring_at_once_gives(keep: tuple[str, ...] | None, tmp_path: Path) -> None:
    kept = keep or ("branch", "step", "layer", "head")
    ds, at_once = measure(tmp_path / "run", keep=keep), measure(keep=kept)
    assert bare(ds).identical(bare(at_once))
    assert ds.attrs.items() >= at_once.attrs.items()
    assert (ds.attrs["units"], ds.attrs["units_done"]) == (16, 16)
    assert entropylab.open(tmp_path / "run").identical(ds)
    assert not bare(measure(keep=kept, seed=1)).identical(bare(at_once))
    if keep is SAMPLES:
        assert list(ds.prompt.values) == PROMPTS
        late = measure(tmp_path / "late", seed=4, prompts=PROMPTS[4:], keep=keep)
        np.testing.assert_array_equal(late.entropy, ds.entropy.isel(sample=slice(4, None)))


def test_units_may_have_any_number_of_samples(done: Path, tmp_path: Path) -> None:
    ds = again(tmp_path / "run", unit_samples=6)
    assert len(files(tmp_path / "run")) == 2
    for name in ("entropy", "entropy_m2", "sigma2"):
        np.testing.assert_allclose(ds[name], entropylab.open(done)[name], rtol=1e-6)


def test_an_exception_keeps_what_is_finished_and_the_same_call_goes_on(done: Path, tmp_path: Path) -> None:
    def stop(pipe: Stub) -> None:
        if pipe.calls == 3:
            raise RuntimeError("out of patience")

    pipe, out = Stub(), tmp_path / "run"
    pipe.on_call = stop
    with pytest.raises(RuntimeError) as caught:
        again(out, pipe)
    assert any("entropylab.open" in note and "samples 4 to 5" in note for note in caught.value.__notes__)
    assert list((out / "locks").iterdir()) == []
    assert status(out).finished == {path.stem for path in files(out)}
    with pytest.warns(EntropyLabWarning, match="is not finished, it has 2 of 4 units: 32x32 original 4 of 8 samples"):
        half = entropylab.open(out)
    assert (half.attrs["units_done"], int(half.samples[0, 0])) == (2, 4)
    for calls in (2, 0):
        pipe = Stub()
        assert bare(again(out, pipe)).identical(bare(entropylab.open(done)))
        assert pipe.calls == calls
    for path in files(out):
        path.unlink()
    with pytest.raises(EntropyLabError, match="has no finished unit yet, of 4"):
        entropylab.open(out)


def test_half_a_run_with_samples_apart_keeps_every_sample_in_its_place(tmp_path: Path) -> None:
    whole, gone = measure(tmp_path / "run", keep=SAMPLES), [0, 1, 4, 5]
    run = read_run(tmp_path / "run")
    for unit in run.units:
        if unit.start in gone or (unit.size == (32, 48) and unit.scaling == "1.5"):
            run.file(unit).unlink()
    left = "32x32 original 4 of 8 samples; 32x32 1.5 4 of 8 samples; 32x48 original 4 of 8 samples; 32x48 1.5 0 of 8"
    with pytest.warns(EntropyLabWarning, match=left):
        half = entropylab.open(tmp_path / "run")
    assert list(half.prompt.values) == PROMPTS
    known = half.entropy.notnull().all(["branch", "step", "layer", "head"])
    assert not known.isel(sample=gone).any()
    assert not known.isel(size=1, scaling=1).any()
    np.testing.assert_array_equal(half.entropy.where(known), whole.entropy.where(known))
    assert int(known.sum()) == 3 * 4
    (run.path / folder.PROMPTS).unlink()
    assert set(status(run.path, check=True).damaged) == {folder.PROMPTS}
    with pytest.raises(
        EntropyLabError, match="prompts.jsonl is missing .*the prompts of 32x32 original, samples 0 to 1"
    ):
        entropylab.open(run.path)
    for unit in run.units:  # of every size and rule all, or none
        if unit.scaling == "1.5" or unit.size == (32, 48):
            run.file(unit).unlink(missing_ok=True)
    again(run.path.with_name("first"), keep=SAMPLES)
    for path in files(run.path.with_name("first")):
        path.rename(run.path / "units" / path.name)
    with pytest.warns(EntropyLabWarning, match="it has 4 of 16 units"):
        found = entropylab.open(run.path)
    np.testing.assert_array_equal(found.entropy, whole.entropy.isel(size=[0], scaling=[0]))
    assert list(found.prompt.values) == PROMPTS


def test_memory_does_not_grow_with_samples(tmp_path: Path) -> None:
    def peak(samples: int, out: Path | None) -> int:
        tracemalloc.start()
        measure(out, samples=samples, sizes=[16], scaling="original", batch_size=100, unit_samples=100 if out else None)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(100, tmp_path / "warm")
    few, many = (peak(samples, tmp_path / str(samples)) for samples in (200, 1000))
    assert int(entropylab.open(tmp_path / "1000").samples[0, 0]) == 1000
    assert many < 1.25 * few
    assert peak(1000, None) > 2 * many


def test_provenance_is_enough_to_repeat_a_run(run: Path) -> None:
    ds = entropylab.open(run)
    names = ("model", "revision", "versions", "dtype", "device", "scheduler", "scheduler_config", "seed", "command")
    assert set(names) <= ds.attrs.keys()
    assert ds.attrs["command"] == shlex.join(sys.orig_argv)
    assert json.loads(ds.attrs["devices"]) == ["cpu"]
    record = json.loads((run / RECORD).read_text())
    assert record["configuration"]["prompts"] == ds.attrs["prompts_digest"]
    assert read_run(run).prompts == PROMPTS
    assert len(record["configuration"]["weights"]) == 32
    assert "versions_of_units" not in ds.attrs
    known = read_run(run)
    unit = known.units[1]
    part = known.read(unit).assign_attrs(versions='{"torch": "1"}')
    known.write(unit, part)  # nothing finished is replaced by who comes late
    assert entropylab.open(run).identical(ds)
    known.file(unit).unlink()
    known.write(unit, part)
    assert '{"torch": "1"}' in json.loads(entropylab.open(run).attrs["versions_of_units"])


def test_prompts_of_a_file_are_named_in_the_result(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_bytes(b"caption\n" + b"\n".join(text.encode() for text in PROMPTS) + b"\ncaf\xe9\n")
    with pytest.warns(EntropyLabWarning, match="1 wrongly encoded"):
        ds = again(tmp_path / "run", prompts=path, samples=4)
    assert json.loads(ds.attrs["prompts_skipped"]) == {"wrongly encoded": 1}
    assert ds.attrs["prompts_source"] == str(path)
    assert set(read_run(tmp_path / "run").prompts) < set(PROMPTS)


def test_what_can_not_be_measured_or_told_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for out in (None, tmp_path / "run"):
        with pytest.raises(EntropyLabError, match="nothing was measured"):
            measure(out, layers="cross", sizes=[32], scaling="original")

    def broken(*arguments: Any) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(Trace, "__init__", broken)
    for out in (None, tmp_path / "another"):
        with pytest.warns(EntropyLabWarning, match="the part of layers is 'unknown', in Denoiser .out of order."):
            again(out)


def test_ctrl_c_while_a_unit_is_written_comes_when_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where h5netcdf frees an object, Python drops an interruption; elsewhere the unit would be lost."""
    to_bytes = netcdf.to_bytes

    def interrupted(found: Any) -> bytes:
        os.kill(os.getpid(), signal.SIGINT)
        return to_bytes(found)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr(netcdf, "to_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            again(tmp_path / "run")
        assert len(files(tmp_path / "run")) == 1
        monkeypatch.setattr(folder, "interrupted_later", nullcontext)
        with pytest.raises(KeyboardInterrupt):
            again(tmp_path / "other")
        assert files(tmp_path / "other") == []
    finally:
        signal.signal(signal.SIGINT, before)


class Enough(Exception):
    pass


def python_calls_of_a_unit(run: Path, samples: int) -> int:
    """Python function calls between the sampling of two units, in a run of which all units but the last are finished.

    From one sampling of the pipeline to the next lies what a unit costs beside it: it is written, told of, and the
    next is chosen and claimed.
    """
    options: dict[str, Any] = {"prompts": ["a"], "samples": samples, "unit_samples": 2, "progress": True}
    calls, begun = 0, (run / RECORD).exists()

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    def watch(pipe: Stub) -> None:
        if not begun or pipe.calls == 3:
            sys.setprofile(None)
            raise Enough
        if pipe.calls == 2:
            sys.setprofile(count)

    pipe = Stub()
    pipe.on_call = watch
    try:
        with pytest.raises(Enough):
            again(run, pipe, **options)
    finally:
        sys.setprofile(None)
    if begun:
        return calls
    known = read_run(run)
    for unit in known.units[:-4]:
        known.file(unit).touch()
    return python_calls_of_a_unit(run, samples)


def test_a_unit_costs_as_much_in_a_long_run_as_in_a_short_one(tmp_path: Path) -> None:
    short, long = (python_calls_of_a_unit(tmp_path / str(n), n) for n in (100, 2000))
    assert short > 1000
    assert long < short + 100
