"""Runs to report, and a report of two of them."""

import re
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from entropylab import report
from entropylab.reporting import pictures

from ..datasets import under_both
from ..joint_run import flux_run

PNG = b"\x89PNG"


def with_sigma2(factor: float, **options: Any) -> xr.Dataset:
    """Attention whose deficit is its sigma^2/2 divided by ``factor``."""
    settings = {"samples": 3, "steps": 2, "sample_level": 0.02, "sigma2": (0.3, 0.4, 0.5, 0.35, 0.25)}
    ds = under_both(**settings | options)
    return ds.assign(sigma2=(factor * ds["sigma2"]).assign_attrs(ds["sigma2"].attrs))


def sections(markdown: str) -> dict[str, str]:
    parts = re.split(r"^## (.*)$", markdown, flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


@pytest.fixture(scope="session")
def ds() -> xr.Dataset:
    return with_sigma2(1)


@pytest.fixture(scope="session")
def flux() -> xr.Dataset:
    return flux_run()


@pytest.fixture(scope="session")
def two(ds: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two runs, without its figures; the second is off the law and knows less."""
    path = tmp_path_factory.mktemp("report") / "two.html"
    other = with_sigma2(4).mean("step", keep_attrs=True).assign_attrs(model="other <model> | 2*", steps=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "drawn", lambda name, caption, *_: [pictures.Picture(name, caption, PNG)])
        report([ds, other], path)
    return path
