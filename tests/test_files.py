"""Datasets in files: what comes back; what is damaged, crafted, on full disks, or under names that are no files."""

import errno
import os
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import entropylab
from entropylab import EntropyLabError, netcdf
from entropylab.dataset import ATTRIBUTE, describe

from .datasets import flip_byte, synthetic

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="pipes, links and devices of Linux")


def measured() -> xr.Dataset:
    """A Dataset with heads padded with NaN, text that is not ASCII, large numbers, and attributes of all types."""
    ds = synthetic(sizes=((64, 64), (96, 128)), samples=2, steps=1, average=("branch",))
    ds = ds.assign_coords(prompt=("sample", ["", "a réd heart 猫"]), seed=("sample", [7, 2**62]))
    attributes = {"versions": {"torch": "2.6.0"}, "statistics": ["entropy"], "unmeasured": [], "seed": 2**70}
    return ds.assign_attrs(attributes, guidance_scale=7.5, revision=None, note="", exact=True)


@pytest.fixture
def ds() -> xr.Dataset:
    return measured()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file that ``save`` wrote."""
    path = tmp_path_factory.mktemp("saved") / "entropy.nc"
    entropylab.save(measured(), path)
    return path.read_bytes()


@pytest.fixture
def saved(content: bytes, tmp_path: Path) -> Path:
    (tmp_path / "entropy.nc").write_bytes(content)
    return tmp_path / "entropy.nc"


def test_everything_comes_back(ds: xr.Dataset, saved: Path) -> None:
    back = entropylab.open(saved)
    entropylab.save(back, saved, overwrite=True)  # over its own file
    again = entropylab.open(saved)
    odd = {"scale": np.float32(0.5), "array": np.arange(3), "pair": (1, 2)}
    entropylab.save(ds.assign_attrs(odd), saved, overwrite=True)
    assert entropylab.open(saved).attrs.items() >= {"scale": 0.5, "array": [0, 1, 2], "pair": [1, 2]}.items()
    saved.unlink()  # all is in memory
    xr.testing.assert_identical(ds, measured())  # what was saved has not changed
    for found in (back, again):
        xr.testing.assert_identical(found, ds)
        assert {name: v.dtype for name, v in found.variables.items()} == {n: v.dtype for n, v in ds.variables.items()}
        assert {name: type(v) for name, v in found.attrs.items()} == {name: type(v) for name, v in ds.attrs.items()}
    ds["entropy"][dict.fromkeys(ds["entropy"].dims, 0)] += np.float32(1e-6) * 5
    assert not back.identical(ds)


def test_files_are_compressed_and_another_program_can_read_and_change_them(tmp_path: Path) -> None:
    ds, path = xr.ones_like(synthetic(samples=50)), tmp_path / "entropy.nc"
    entropylab.save(ds, path)
    assert path.stat().st_size < ds.nbytes / 4
    with h5py.File(path, "r+") as file:
        file.attrs["model"] = "changed"
    assert entropylab.open(path).attrs["model"] == "changed"
    with xr.open_dataset(path, engine="h5netcdf") as other:
        assert other["entropy"].attrs["units"] == "nats"
        assert other.attrs["model"] == "changed"


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_file_that_exists_is_kept_if_a_save_fails_or_may_not_overwrite(
    failure: BaseException, ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "entropy.nc"
    target.write_bytes(b"before")
    with pytest.raises(EntropyLabError, match=r"exists already.*overwrite=True"):
        entropylab.save(ds, target)

    def fail(handle: int) -> None:
        raise failure

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(EntropyLabError if isinstance(failure, OSError) else KeyboardInterrupt):
        entropylab.save(ds, target, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["entropy.nc"]
    assert target.read_bytes() == b"before"


PLACES = {
    "none/entropy.nc": "no folder .*none",
    "": "Got the folder",
    "file.txt/entropy.nc": "can't be written",
    "n" * 300 + ".nc": "can't be written",
}


def test_places_and_things_that_are_not_written(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("a file, no folder")
    for name, message in PLACES.items():
        with pytest.raises(EntropyLabError, match=message):
            entropylab.save(measured(), tmp_path / name)
    if Path("/proc/self").is_dir():  # in which not even root may write
        with pytest.raises(EntropyLabError, match="can't be written"):
            entropylab.save(measured(), "/proc/self/entropy.nc")
    wrong: Any
    for wrong in ("", None, 3, b""):
        for taker in (lambda path: entropylab.save(measured(), path), entropylab.open):
            with pytest.raises(EntropyLabError, match=r"path must be .* Got"):
                taker(wrong)
    for wrong in (None, {"entropy": 1}, measured()["entropy"], xr.Dataset({"entropy": 1.0})):
        with pytest.raises(EntropyLabError, match=r"ds must be .* Got"):
            entropylab.save(wrong, tmp_path / "entropy.nc")
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_damage_anywhere_is_noticed_before_hdf5_sees_it(saved: Path, content: bytes) -> None:
    flip_byte(saved, "entropy")
    with pytest.raises(EntropyLabError, match="truncated, damaged"):
        entropylab.open(saved)
    for part in (0.0, 0.001, 0.5, 0.999, 1 - 1e-9):
        saved.write_bytes(content[: int(part * len(content))])
        with pytest.raises(EntropyLabError, match=r"entropy\.nc is (empty|truncated|not a netCDF)"):
            entropylab.open(saved)
    for start in range(0, len(content), 1536):
        damaged = content[:start] + bytes(len(content[start : start + 512])) + content[start + 512 :]
        if damaged != content:
            saved.write_bytes(damaged)
            with pytest.raises(EntropyLabError, match="checksum|not a netCDF-4 file|first bytes|should have"):
                entropylab.open(saved)


def test_what_is_no_file_of_ours(tmp_path: Path) -> None:
    for name, content in {"cdf": b"CDF\x01" + bytes(100), "text": b"size,entropy\n64,5.1\n"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EntropyLabError, match=r"not a netCDF-4 file"):
            entropylab.open(tmp_path / name)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["weights"] = np.zeros((3, 4))
    with pytest.raises(EntropyLabError, match=r"other\.h5 is .*another program's"):
        entropylab.open(tmp_path / "other.h5")
    xr.Dataset({"entropy": ("size", [1.0, 2.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(EntropyLabError, match=rf"another program's.*{ATTRIBUTE}"):
        entropylab.open(tmp_path / "other.nc")
    for name, message in (("none.nc", "No such file"), (".", "holds no run: run.json is missing")):
        with pytest.raises(EntropyLabError, match=message):
            entropylab.open(tmp_path / name)


def test_described_variables_say_their_units(ds: xr.Dataset) -> None:
    units = {"entropy": "nats", "sigma2": "nats^2", "height": "pixels", "tokens": "tokens"}
    assert {name: ds[name].attrs["units"] for name in units} == units
    assert all(ds[name].attrs["long_name"] for name in units)
    bare = xr.Dataset({"entropy": 1.0, "sigma2_m2": 1.0, "mine": ("x", [1], {"units": "apples"})})
    assert describe(bare)["sigma2_m2"].attrs["units"] == "nats^4"
    assert describe(bare)["mine"].attrs == {"units": "apples"}
    assert bare["entropy"].attrs == {}


def unsealed(content: bytes) -> bytes:
    """The file as versions without a seal wrote it."""
    return content[: content.rindex(netcdf.SEAL)]


def test_a_file_without_a_seal(content: bytes, tmp_path: Path) -> None:
    """It is opened, unless it is one on which HDF5 hangs."""
    path, old = tmp_path / "old.nc", bytearray(unsealed(content))
    path.write_bytes(old)
    xr.testing.assert_identical(entropylab.open(path), measured())
    heap = old.index(b"GCOL")
    old[heap + 512 : heap + 1024] = bytes(512)
    path.write_bytes(old)
    with pytest.raises(EntropyLabError, match=r"old\.nc is truncated, damaged.*a heap of its texts is damaged"):
        entropylab.open(path)


def external(file: h5py.File, secret: Path) -> None:
    del file["seed"]
    file.create_dataset("seed", (2,), "i8", external=[(str(secret), 0, 16)])


def virtual(file: h5py.File, secret: Path) -> None:
    del file["seed"]
    layout = h5py.VirtualLayout((2,), "i8")
    layout[:] = h5py.VirtualSource(str(secret), "seed", (2,))
    file.create_virtual_dataset("seed", layout)


def linked(file: h5py.File, secret: Path) -> None:
    file.create_group("group/inner")["seed"] = h5py.ExternalLink(str(secret), "seed")


def endless(file: h5py.File, secret: Path) -> None:
    file.create_group("group")["again"] = file


def sparse(file: h5py.File, secret: Path) -> None:
    file.create_dataset("huge", (25_000_000_000,), "f8", chunks=(1_000_000,), compression="gzip")


@pytest.mark.parametrize(
    ("craft", "message", "seal"),
    [
        (external, "'seed' are kept in other files", True),
        (linked, "inner/seed' is a link", True),
        (endless, "is there under several names", False),
        (virtual, "'seed' are kept in other files", False),
        (sparse, "'huge' claims 200 GB", True),
    ],
)
def test_a_crafted_file_reads_nothing_but_itself(
    craft: Any, message: str, seal: bool, content: bytes, tmp_path: Path
) -> None:
    secret, path = tmp_path / "secret", tmp_path / "crafted.nc"
    secret.write_bytes(b"0123456789abcdef" if craft is external else content)
    path.write_bytes(unsealed(content))
    with h5py.File(path, "r+") as file:
        craft(file, secret)
    if seal:
        path.write_bytes(netcdf.sealed(path.read_bytes()))
    with pytest.raises(EntropyLabError, match=message):
        entropylab.open(path)


def test_too_little_memory_is_one_clear_error(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*arguments: Any, **options: Any) -> None:
        raise MemoryError("Unable to allocate 186. GiB")

    (tmp_path / "entropy.nc").write_bytes(content)
    monkeypatch.setattr(xr, "open_dataset", exhausted)
    with pytest.raises(EntropyLabError, match=r"entropy\.nc can't be read: it needs more memory"):
        entropylab.open(tmp_path / "entropy.nc")


@LINUX
def test_what_is_no_file_is_neither_replaced_nor_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/full")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("pipe", "device", "loop"):
        with pytest.raises(EntropyLabError, match=f"path must name a file. Got a device, a pipe.*{name}"):
            entropylab.save(measured(), tmp_path / name, overwrite=True)
        with pytest.raises(EntropyLabError, match=f"{name} can't be read"):
            entropylab.open(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["device", "loop", "pipe"]


@LINUX
def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    real, link = tmp_path / "disk" / "real.nc", tmp_path / "link.nc"
    link.symlink_to(real)
    entropylab.save(measured(), link)
    with pytest.raises(EntropyLabError, match="exists already"):
        entropylab.save(measured(), link)
    entropylab.save(measured().isel(layer=slice(2)), link, overwrite=True)
    assert link.is_symlink()
    assert entropylab.open(real).sizes["layer"] == 2


TEXT = st.text(st.characters(codec=None), max_size=8)
SPECIAL = st.sampled_from(
    ["coordinates", "dtype", "_FillValue", "entropylab_json", "entropylab_apart", "entropylab_dtype", "scale_factor",
     "missing_value", "units", "calendar", "CLASS", "NAME", "DIMENSION_LIST", "_Netcdf4Dimid", "_NCProperties", "", "/",
     "a/b", ".", " ", "a b", "a ", "\0", "é", "grid_mapping", "add_offset", "_Unsigned", "x" * 300]
)  # fmt: skip
SIMPLE = st.none() | st.booleans() | st.integers() | st.floats(width=64) | TEXT | st.just("bool")
VALUES = st.recursive(
    SIMPLE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)
ATTRIBUTES = st.dictionaries(SPECIAL | TEXT, VALUES, max_size=4)
DTYPES = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="=")
    | hnp.unsigned_integer_dtypes(endianness="=")
    | hnp.floating_dtypes(endianness="=", sizes=(16, 32, 64))
    | hnp.complex_number_dtypes(endianness="=", sizes=(64, 128))
    | st.sampled_from([np.dtype("datetime64[ns]"), np.dtype("timedelta64[ns]"), np.dtype("U5")])
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=3))


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types, NaN included."""
    return repr(one) == repr(other)


@settings(max_examples=12, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(ARRAYS, ATTRIBUTES, ATTRIBUTES)
@example(np.zeros((1, 2)), {"dtype": "bool", "coordinates": "label"}, {"coordinates": "x", "entropylab_json": "["})
@example(np.zeros((1, 2), "datetime64[ns]"), {"units": "days since 2000-01-01", "calendar": "noleap"}, {})
@example(np.array([["a\0b", "\udcff"]]), {"\udcff": "\0", "nan": [float("nan")]}, {"dtype": "int"})
def test_whatever_is_saved_comes_back(tmp_path_factory: Any, array: Any, own: dict, of_all: dict) -> None:
    ds = xr.Dataset(
        {"entropy": (("sample", "step"), array, own)},
        {"label": ("sample", np.arange(array.shape[0]), own), "two words": ("step", np.arange(array.shape[1]))},
        {"entropylab_version": "0", **of_all},
    )
    path = tmp_path_factory.mktemp("any") / "entropy.nc"
    entropylab.save(ds, path)
    back = entropylab.open(path)
    assert set(back.coords) == {"label", "two words"}
    assert back["entropy"].dtype == array.dtype or array.dtype.kind == "U"
    np.testing.assert_array_equal(back["entropy"].values, array)
    for before, after in ((own, back["entropy"].attrs), (own, back["label"].attrs), (ds.attrs, back.attrs)):
        assert set(before) == set(after)
        assert all(same(before[name], after[name]) for name in before)


def test_dates_and_time_spans_come_back_as_such(tmp_path: Path) -> None:
    days = pd.DatetimeIndex(["2026-01-01", "2026-02-01"], name="day").as_unit("ns")
    ds = xr.concat([measured()] * 2, days).assign(took=("day", np.array([3, "NaT"], "timedelta64[ns]")))
    entropylab.save(ds, tmp_path / "runs.nc")
    back = entropylab.open(tmp_path / "runs.nc")
    xr.testing.assert_identical(back, ds)
    assert back.sel(day="2026-02-01").sizes == measured().sizes
    with xr.open_dataset(tmp_path / "runs.nc", decode_timedelta=True) as other:
        assert list(other["day"].values) == list(ds["day"].values)


@pytest.mark.parametrize(
    "change",
    [
        {"v": ("z", np.array([1, "a"], object))},
        {"v": ("z", pd.Categorical(["a"]))},
        {"v": ("z", np.zeros(2, "V4"))},
        {"v": ("z", np.array(["ends in NUL\0"], object))},
        {"a/b": ("z", [1.0])},
        {3: ("z", [1.0])},
        {"_nc4_non_coord_x": ("z", [1.0])},
        *({"v": ("z", [1.0], odd)} for odd in ({"x": {1: 2}}, {1: "x"}, {"x": b"y"}, {"x": {2}}, {"x": 1j})),
    ],
)
def test_what_would_not_come_back_is_refused(change: Any, tmp_path: Path) -> None:
    with pytest.raises(EntropyLabError, match="could not be written|of ds must|ds must hold"):
        entropylab.save(measured().assign(change), tmp_path / "entropy.nc")
    other = measured()
    other.attrs = {5: "five", **other.attrs}
    with pytest.raises(EntropyLabError, match="with text for keys. Got 'attributes': {5: 'five'"):
        entropylab.save(other, tmp_path / "entropy.nc")
    assert list(tmp_path.iterdir()) == []
