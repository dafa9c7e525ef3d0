"""What can't be drawn is one error, before anything is drawn."""

import numpy as np
import pytest
import xarray as xr

from entropylab import EntropyLabError, plot

IMAGE = np.zeros((2, 2))
PIXELS = np.zeros((4, 6))

OF_DATASETS = [
    ("law_residual", {"name": "fourth"}, None, "name must be one of law, .*, gaussian, rarefied. Got 'fourth'"),
    ("law_residual", {"name": "series"}, "fourth", "'series' is not in this check"),
    ("residual_vs_cumulants", {}, "third", "'series' is not in this check"),
    ("phase", {}, "sigma2", "ds must hold sigma2"),
    ("entropy_vs_step", {"size": 50}, None, "size must be one of those measured"),
    ("entropy_vs_step", {}, "step", "ds must have a dim step"),
    ("heads", {}, "head", "ds must have a dim head"),
    ("heads", {"name": "colour"}, None, "'colour' is not in this check"),
    ("heads", {"kind": "joint"}, None, "kind='joint'"),
    ("stabilization", {"sizes": (48, 50)}, None, "each of sizes must be one of those measured.* Got 50"),
    ("stabilization", {"sizes": (48,)}, None, "sizes must be two"),
    ("stabilization", {"sizes": 48}, None, "sizes must be two.* Got 48"),
    ("by_layer", {}, None, "runs must map at least one name to a Dataset. Got Dataset"),
    ("stabilization", {"sizes": (48.5, 64)}, None, "a size must be a label, a side or a pair.* Got 48.5"),
    ("stabilization", {"scaling": ["calibrated"]}, None, "scaling must be some of those measured.* Got"),
    ("stabilization", {"train_size": 50}, None, "train_size"),
    ("sweep", {}, None, r"size must be named: one of \['32x32', '48x48'"),
    ("sweep", {"size": 47}, None, "size must be one of those measured.* Got 47"),
    ("sweep", {"size": 32}, None, "must have a coordinate multiplier"),
    ("entropy_predicted", {}, "train_tokens", "train_tokens"),
    ("entropy_predicted", {"trained": 99}, None, "16, 64, 256. Got 99"),
    ("entropy_predicted", {"trained": "64x64"}, None, "16, 64, 256. Got '64x64'"),
    ("compare", {}, None, "comparison must be from entropylab.compare"),
]
OTHERS = [
    ("by_layer", ({},), {}, "runs must map"),
    ("by_layer", ([1],), {}, "runs must map"),
    ("by_layer", ("runs",), {"name": "wisdom"}, "name must be one of slope"),
    ("logit_distribution", ({},), {}, "logits"),
    ("logit_distribution", ([1, 2],), {}, "logits"),
    ("logit_distribution", ({"flat": np.ones((3, 4))},), {}, "logits"),
    ("logit_distribution", ({"none": np.full((2, 3), np.nan)},), {}, "logits"),
    ("samples", ([],), {}, "rows of equally many pictures"),
    ("samples", ([[]],), {}, "rows of equally many pictures"),
    ("samples", ([[IMAGE], []],), {}, r"equally many pictures. Got \[1, 0\]"),
    ("samples", ([[np.zeros((2, 2, 5))]],), {}, r"Got shape \(2, 2, 5\) of float64"),
    ("samples", ([[IMAGE.astype(int)]],), {}, "of int64"),
    ("samples", ([[IMAGE]],), {"rows": ["a", "b"]}, "rows must be a label for each of 1. Got 2"),
    ("samples", ([[IMAGE]],), {"columns": []}, "columns must be a label for each of 1. Got 0"),
    ("entropy_map", ("maps",), {"size": "8x8"}, "size must be one of 32x48, 64x96. Got '8x8'"),
    ("entropy_map", ("maps",), {}, "size must be one of 32x48, 64x96. Got None"),
    ("entropy_map", ("maps",), {"size": "32x48", "layer": "temporal"}, "layer must be kinds, or patterns"),
    ("entropy_map", ("maps",), {"size": "32x48", "step": 7}, "step must be one of 0, 1, 2. Got 7"),
    (
        "entropy_map",
        ("maps",),
        {"size": "32x48", "frame": 1, "word": "cat", "variable": "entropy"},
        "word must be one of",
    ),
    (
        "entropy_map",
        ("maps",),
        {"size": "32x48", "variable": "lse"},
        "variable must be entropy, received or words. Got 'lse'",
    ),
    ("entropy_map", ("maps",), {"size": "32x48", "colour": 1}, "Got \\['colour'\\]"),
    ("entropy_map", (xr.Dataset(),), {}, "xarray.DataTree of record"),
    ("entropy_maps", (xr.Dataset(),), {}, "xarray.DataTree of record"),
    ("entropy_maps", ("maps",), {"rows": "size", "columns": "size"}, "two of size"),
    ("entropy_maps", ("maps",), {"rows": "frame", "columns": "step", "size": "32x48"}, "frame kept apart"),
    ("entropy_maps", ("maps", [[PIXELS]]), {"columns": "step"}, "2 rows of 3 pictures"),
    ("animate", ("maps", [PIXELS] * 2), {"size": "32x48"}, "one for each of 3 steps. Got 2"),
]


@pytest.mark.parametrize(("function", "options", "change", "message"), OF_DATASETS)
def test_datasets(ds, ax, function: str, options: dict, change: str | None, message: str) -> None:
    part = ds.mean(change, keep_attrs=True) if change in ds.dims else ds.drop_vars(change) if change else ds
    with pytest.raises(EntropyLabError, match=message):
        getattr(plot, function)(part, ax, **options)
    assert not ax.get_lines() and not ax.collections


@pytest.mark.parametrize(("function", "given", "options", "message"), OTHERS)
def test_others(maps, ds, ax, function: str, given: tuple, options: dict, message: str) -> None:
    known = {"maps": maps, "runs": {"one": ds}}
    given = tuple(known[each] if isinstance(each, str) else each for each in given)
    with pytest.raises(EntropyLabError, match=message):
        getattr(plot, function)(*given, ax=ax, **options)
    assert not ax.images and not ax.get_lines()
