"""What the entropy of image rows in joint attention is made of."""

import xarray as xr

from ..law.joint import image_rows

PIECES = ("entropy_between", "entropy_from_image", "entropy_from_text", "entropy_from_other")
"""What the entropy of a row is the sum of, by the chain rule."""


def all_keys(ds: xr.Dataset) -> xr.Dataset | None:
    """The same rows among all their keys."""
    rows = image_rows(ds)
    return rows if rows is not None and "sigma2" in rows else None


def pieces(ds: xr.Dataset) -> xr.Dataset:
    """What the entropy of image rows is made of, by size and layer [nats]; and the image's weight and share of keys."""
    rows = image_rows(ds)
    assert rows is not None
    names = ["entropy", *(name for name in PIECES if name in rows), "mass_image", "keys_image"]
    data = rows[[name for name in names if name in rows]].astype("float64")
    data = data.isel(scaling=0, drop=True) if "scaling" in data.dims else data
    mean = data.mean([dim for dim in data.dims if dim not in ("size", "layer")])
    if "size" not in mean.dims:
        mean = mean.expand_dims("size")
    return mean.assign(share=mean["keys_image"] / rows["tokens"])
