"""What the tests of reports share: a run whose deficit is known, and the sections of what was written."""

import re
from typing import Any

import xarray as xr

from ..datasets import under_both

PNG = b"\x89PNG"


def with_sigma2(factor: float, **options: Any) -> xr.Dataset:
    """Attention whose deficit is its sigma^2/2 divided by ``factor``."""
    ds = under_both(sigma2=(0.3, 0.4, 0.5, 0.35, 0.25), **options)
    return ds.assign(sigma2=(factor * ds["sigma2"]).assign_attrs(ds["sigma2"].attrs))


def sections(markdown: str) -> dict[str, str]:
    parts = re.split(r"^## (.*)$", markdown, flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}
