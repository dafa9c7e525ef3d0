"""Joint attention as the law sees it: image rows among the keys of the image alone, or among all their keys."""

import numpy as np
import xarray as xr

IMAGE, KEYS = "image", "keys"
"""What is asked for as a kind of layers, and the attribute that says that a Dataset is of it."""

NEEDED = ("entropy_image", "sigma2_image", "keys_image")


def image_rows(ds: xr.Dataset) -> xr.Dataset | None:
    """The joint layers' image rows, of those whose keys are told apart; None if there are none."""
    if not {"part", "kind"} <= set(ds.coords) or not set(NEEDED) <= set(ds.data_vars):
        return None
    chosen = (ds["kind"].astype(str) == "joint") & (ds["part"].astype(str) == "image")
    others = [dim for dim in ds["keys_image"].dims if dim != "layer"]
    known = xr.apply_ufunc(np.isfinite, ds["keys_image"]).any(others)
    places = np.flatnonzero(chosen & known)
    return ds.isel(layer=places) if len(places) else None


def image_part(ds: xr.Dataset) -> xr.Dataset | None:
    """Image rows among the image's keys, as a Dataset of its own: ``entropy`` is entropy_image, ``tokens`` keys_image.

    So everything that is asked of self-attention can be asked of it; third and fourth cumulant are of all keys, and
    left out. ``train_tokens`` is what the layer had in training less the keys that are not the image's.
    """
    if ds.attrs.get(KEYS) == IMAGE:
        return ds
    rows = image_rows(ds)
    if rows is None:
        return None
    keys = rows["keys_image"].astype("float64")
    keys = keys.mean([dim for dim in keys.dims if dim not in ("size", "layer")])
    own = {name: rows[f"{name}_image"] for name in ("entropy", "sigma2")}
    own |= {f"{name}_m2": rows[f"{name}_image_m2"] for name in ("entropy", "sigma2") if f"{name}_image_m2" in rows}
    kept = {name: rows[name] for name in ("rows", "rows_empty", "samples") if name in rows}
    part = xr.Dataset(own | kept, attrs={**rows.attrs, KEYS: IMAGE})
    if "train_tokens" in rows.coords:
        other = (rows["tokens"] - keys).mean([dim for dim in keys.dims if dim != "layer"])
        part = part.assign_coords(train_tokens=("layer", (rows["train_tokens"] - other).values))
    return part.assign_coords(tokens=(keys.dims, keys.values))
