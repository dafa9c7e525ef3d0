"""Joint attention as the law sees it: image rows among the keys of the image alone, or among all their keys."""

import numpy as np
import xarray as xr

from ..law.averages import finite

NEEDED = ("entropy_image", "sigma2_image", "keys_image")
PIECES = ("entropy_between", "entropy_from_image", "entropy_from_text", "entropy_from_other")
"""What the entropy of a row is the sum of, by the chain rule."""


def image_rows(ds: xr.Dataset) -> xr.Dataset | None:
    """The joint layers' image rows, of those whose keys are told apart; None if there are none."""
    if not {"part", "kind"} <= set(ds.coords) or not set(NEEDED) <= set(ds.data_vars):
        return None
    chosen = (ds["kind"].astype(str) == "joint") & (ds["part"].astype(str) == "image")
    others = [dim for dim in ds["keys_image"].dims if dim != "layer"]
    known = finite(ds["keys_image"]).any(others)
    places = np.flatnonzero(chosen & known)
    return ds.isel(layer=places) if len(places) else None


def image_part(ds: xr.Dataset) -> xr.Dataset | None:
    """Image rows among the image's keys, as a Dataset of its own: ``entropy`` is entropy_image, ``tokens`` keys_image.

    So everything that is asked of self-attention can be asked of it; third and fourth cumulant are of all keys, and
    left out. ``train_tokens`` is what the layer had in training less the keys that are not the image's.
    """
    rows = image_rows(ds)
    if rows is None:
        return None
    keys = rows["keys_image"].astype("float64")
    keys = keys.mean([dim for dim in keys.dims if dim not in ("size", "layer")])
    own = {name: rows[f"{name}_image"] for name in ("entropy", "sigma2")}
    own |= {f"{name}_m2": rows[f"{name}_image_m2"] for name in ("entropy", "sigma2") if f"{name}_image_m2" in rows}
    kept = {name: rows[name] for name in ("rows", "rows_empty", "samples") if name in rows}
    part = xr.Dataset(own | kept, attrs=rows.attrs)
    if "train_tokens" in rows.coords:
        other = (rows["tokens"] - keys).mean([dim for dim in keys.dims if dim != "layer"])
        part = part.assign_coords(train_tokens=("layer", (rows["train_tokens"] - other).values))
    return part.assign_coords(tokens=(keys.dims, keys.values))


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
