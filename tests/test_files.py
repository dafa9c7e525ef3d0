"""Files as they come back from the world: damaged, crafted, on full disks, and under names that are no files."""

import os
import subprocess
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

from .test_dataset import measured

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="pipes, links, devices and limits of Linux")


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file that ``save`` wrote."""
    path = tmp_path_factory.mktemp("saved") / "entropy.nc"
    entropylab.save(measured(), path)
    return path.read_bytes()


def unsealed(content: bytes) -> bytes:
    """The file as versions without a seal wrote it."""
    return content[: content.rindex(netcdf.SEAL)]


def test_a_block_of_zeros_anywhere_is_noticed_before_hdf5_sees_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "entropy.nc"
    for start in range(0, len(content), 1536):
        damaged = content[:start] + bytes(len(content[start : start + 512])) + content[start + 512 :]
        if damaged != content:
            path.write_bytes(damaged)
            with pytest.raises(EntropyLabError, match="checksum|not a netCDF-4 file|first bytes|should have"):
                entropylab.open(path)


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


def test_what_another_program_changed_is_read_as_it_is_now(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "entropy.nc"
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        file.attrs["model"] = "changed"
    assert entropylab.open(path).attrs["model"] == "changed"
    assert xr.open_dataset(path).attrs["model"] == "changed"


def external(file: h5py.File, secret: Path) -> None:
    del file["seed"]
    file.create_dataset("seed", (2,), "i8", external=[(str(secret), 0, 16)])


def link_in_a_group(file: h5py.File, secret: Path) -> None:
    file.create_group("group/inner")["seed"] = h5py.ExternalLink(str(secret), "seed")


def soft_link(file: h5py.File, secret: Path) -> None:
    del file["seed"]
    file["seed"] = h5py.SoftLink("/rows")


def endless(file: h5py.File, secret: Path) -> None:
    file.create_group("group")["again"] = file


def virtual(file: h5py.File, secret: Path) -> None:
    del file["seed"]
    layout = h5py.VirtualLayout((2,), "i8")
    layout[:] = h5py.VirtualSource(str(secret), "seed", (2,))
    file.create_virtual_dataset("seed", layout)


def sparse(file: h5py.File, secret: Path) -> None:
    file.create_dataset("huge", (25_000_000_000,), "f8", chunks=(1_000_000,), compression="gzip")


@pytest.mark.parametrize(
    ("craft", "message", "seal"),
    [
        (external, "'seed' are kept in other files", True),
        (soft_link, "'seed' is a link", False),
        (link_in_a_group, "inner/seed' is a link", True),
        (endless, "is there under several names", False),
        (virtual, "'seed' are kept in other files", False),
        (sparse, "'huge' claims 200 GB", True),
    ],
)
def test_a_crafted_file_reads_nothing_but_itself(
    craft: Any, message: str, seal: bool, content: bytes, tmp_path: Path
) -> None:
    secret, path = tmp_path / "secret", tmp_path / "crafted.nc"
    secret.write_bytes(content if "link" in message or craft is virtual else b"0123456789abcdef")
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


FULL = """
import resource, sys
from pathlib import Path
import entropylab
from tests.test_dataset import measured
path, limit = Path(sys.argv[1]), int(sys.argv[2])
before = path.read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    entropylab.save(measured(), path, overwrite=True)
except entropylab.EntropyLabError as error:
    print(error)
assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1
"""


@LINUX
def test_a_disk_with_no_room_left_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "entropy.nc").write_bytes(b"before")
    command = [sys.executable, "-c", FULL, str(tmp_path / "entropy.nc"), "3000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stderr) == (0, "")
    assert "entropy.nc can't be written: File too large" in done.stdout


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
    entropylab.save(measured(layers=2), link, overwrite=True)
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


@settings(max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
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
    assert list(tmp_path.iterdir()) == []
