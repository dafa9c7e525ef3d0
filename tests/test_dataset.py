"""Datasets in files: what comes back, and what can't be read or written."""

import errno
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

from entropylab.dataset import ATTRIBUTE, describe
from entropylab.errors import EntropyLabError
from entropylab.files import check_writable
from entropylab.netcdf import open_dataset, save

from .datasets import flip_byte


def measured(layers: int = 3, heads: int = 4) -> xr.Dataset:
    """A Dataset as ``measure`` returns it: two sizes, two samples, heads padded with NaN, text that is not ASCII."""
    shape = (2, 1, 2, layers, heads)
    entropy = np.random.default_rng(0).normal(5, 1, shape).astype(np.float32)
    entropy[..., 0, 2:] = np.nan
    paths = [f"unet.down_blocks.{index}.attentions.0.transformer_blocks.0.attn1" for index in range(layers)]
    dims = ("size", "scaling", "sample", "layer", "head")
    ds = xr.Dataset(
        {
            "entropy": (dims, entropy),
            "entropy_m2": (dims, entropy**2),
            "sigma2": (dims, entropy * 2),
            "rows": (("size", "layer"), np.full((2, layers), 2**40 + 1)),
        },
        coords={
            "size": ["64x64", "96x128"],
            "height": ("size", [64, 96]),
            "width": ("size", [64, 128]),
            "scaling": ["original"],
            "sample": [0, 1],
            "prompt": ("sample", ["", "a réd heart 猫"]),
            "seed": ("sample", [7, 2**62]),
            "layer": paths,
            "kind": ("layer", ["self"] * layers),
            "head": np.arange(heads),
            "tokens": (("size", "layer"), np.full((2, layers), 1024.0)),
            "train_tokens": ("layer", [256.0, np.nan, 64.0][:layers]),
        },
        attrs={
            ATTRIBUTE: "0.1.0",
            "model": "embedded",
            "steps": 20,
            "guidance_scale": 7.5,
            "seed": 2**70,
            "statistics": ["entropy"],
            "unmeasured": [],
            "versions": {"torch": "2.6.0"},
            "revision": None,
            "note": "",
            "exact": True,
        },
    )
    return describe(ds)


@pytest.fixture
def ds() -> xr.Dataset:
    return measured()


@pytest.fixture
def saved(ds: xr.Dataset, tmp_path: Path) -> Path:
    save(ds, tmp_path / "entropy.nc")
    return tmp_path / "entropy.nc"


def test_everything_comes_back(ds: xr.Dataset, saved: Path) -> None:
    xr.testing.assert_identical(ds, measured())  # what was saved has not changed
    back = open_dataset(saved)
    save(back, saved, overwrite=True)  # over its own file
    again = open_dataset(saved)
    saved.unlink()  # all is in memory
    for found in (back, again):
        xr.testing.assert_identical(found, ds)
        assert {name: v.dtype for name, v in found.variables.items()} == {n: v.dtype for n, v in ds.variables.items()}
        assert {name: type(v) for name, v in found.attrs.items()} == {name: type(v) for name, v in ds.attrs.items()}
    ds["entropy"][0, 0, 0, 1, 0] += np.float32(1e-6) * 5
    assert not back.identical(ds)


def test_numpy_numbers_and_tuples_in_attributes_come_back_as_pythons_own(ds: xr.Dataset, tmp_path: Path) -> None:
    ds.attrs |= {"scale": np.float32(0.5), "array": np.arange(3), "pair": (1, 2)}
    save(ds, tmp_path / "entropy.nc")
    back = open_dataset(tmp_path / "entropy.nc").attrs
    assert (back["scale"], back["array"], back["pair"]) == (0.5, [0, 1, 2], [1, 2])


def test_files_are_compressed(tmp_path: Path) -> None:
    ds = measured(heads=20_000)
    ds["entropy"][:] = ds["entropy_m2"][:] = ds["sigma2"][:] = 1
    save(ds, tmp_path / "entropy.nc")
    assert (tmp_path / "entropy.nc").stat().st_size < ds.nbytes / 4


def test_another_program_can_read_the_file(saved: Path) -> None:
    with xr.open_dataset(saved, engine="h5netcdf") as other:
        assert other["entropy"].attrs["units"] == "nats"
        assert other.attrs["model"] == "embedded"


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_file_that_exists_is_kept_if_a_save_fails_or_may_not_overwrite(
    failure: BaseException, ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "entropy.nc"
    target.write_bytes(b"before")
    with pytest.raises(EntropyLabError, match=r"exists already.*overwrite=True"):
        save(ds, target)

    def fail(handle: int) -> None:
        raise failure

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(EntropyLabError if isinstance(failure, OSError) else KeyboardInterrupt):
        save(ds, target, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["entropy.nc"]
    assert target.read_bytes() == b"before"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none/entropy.nc", "no folder .*none"),
        ("", "Got the folder"),
        ("file.txt/entropy.nc", "can't be written"),
        ("n" * 300 + ".nc", "can't be written"),
        ("/proc/self/entropy.nc", "can't be written"),
    ],
)
def test_places_that_cannot_be_written(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("a file, no folder")
    if name.startswith("/proc") and not Path("/proc/self").is_dir():
        pytest.skip("needs a folder in which not even root may write")
    with pytest.raises(EntropyLabError, match=message):
        check_writable(tmp_path / name)


@pytest.mark.parametrize("path", ["", None, 3, b""])
def test_paths_that_are_none(path: Any) -> None:
    for taker in (check_writable, open_dataset):
        with pytest.raises(EntropyLabError, match=r"path must be .* Got"):
            taker(path)


@pytest.mark.parametrize("other", [None, {"entropy": 1}, measured()["entropy"], xr.Dataset({"entropy": 1.0})])
def test_only_measured_datasets_are_saved(other: Any, tmp_path: Path) -> None:
    with pytest.raises(EntropyLabError, match=r"ds must be .* Got"):
        save(other, tmp_path / "entropy.nc")
    assert list(tmp_path.iterdir()) == []


def test_truncated_and_changed_files(saved: Path) -> None:
    flip_byte(saved, "entropy")
    with pytest.raises(EntropyLabError, match="truncated, damaged"):
        open_dataset(saved)
    content = saved.read_bytes()
    for part in (0.0, 0.001, 0.5, 0.999, 1 - 1e-9):
        saved.write_bytes(content[: int(part * len(content))])
        with pytest.raises(EntropyLabError, match=r"entropy\.nc is (empty|truncated|not a netCDF)"):
            open_dataset(saved)


def test_another_programs_files(tmp_path: Path) -> None:
    for name, content in {"cdf": b"CDF\x01" + bytes(100), "text": b"size,entropy\n64,5.1\n"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EntropyLabError, match=r"not a netCDF-4 file"):
            open_dataset(tmp_path / name)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["weights"] = np.zeros((3, 4))
    with pytest.raises(EntropyLabError, match=r"other\.h5 is .*another program's"):
        open_dataset(tmp_path / "other.h5")
    xr.Dataset({"entropy": ("size", [1.0, 2.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(EntropyLabError, match=rf"another program's.*{ATTRIBUTE}"):
        open_dataset(tmp_path / "other.nc")


@pytest.mark.parametrize(("name", "message"), [("none.nc", "No such file"), (".", "holds no run: run.json is missing")])
def test_files_that_are_not_there(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(EntropyLabError, match=message):
        open_dataset(tmp_path / name)


def test_described_variables_say_their_units(ds: xr.Dataset) -> None:
    units = {"entropy": "nats", "sigma2": "nats^2", "entropy_m2": "nats^2", "height": "pixels", "tokens": "tokens"}
    assert {name: ds[name].attrs["units"] for name in units} == units
    assert describe(xr.Dataset({"sigma2_m2": 1.0}))["sigma2_m2"].attrs["units"] == "nats^4"
    assert all(ds[name].attrs["long_name"] for name in ds.variables)
    bare = xr.Dataset({"entropy": 1.0, "mine": ("x", [1], {"units": "apples"})})
    assert describe(bare)["mine"].attrs == {"units": "apples"}
    assert bare["entropy"].attrs == {}


def test_nan_within_a_dict_comes_back(ds: xr.Dataset, tmp_path: Path) -> None:
    save(ds.assign_attrs(losses={"last": float("nan"), "all": [1.0, float("nan")]}), tmp_path / "ds.nc")
    found = open_dataset(tmp_path / "ds.nc").attrs["losses"]
    assert (str(found["last"]), str(found["all"])) == ("nan", "[1.0, nan]")


def test_attributes_whose_names_are_no_text_are_named(ds: xr.Dataset, tmp_path: Path) -> None:
    ds.attrs = {5: "five", **ds.attrs}
    with pytest.raises(EntropyLabError, match="with text for keys. Got 'attributes': {5: 'five'"):
        save(ds, tmp_path / "ds.nc")
