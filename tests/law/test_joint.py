"""The image's part of joint layers, asked for as kind "image": the law where it can be meant."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import entropylab
from entropylab.law.drift import drift

from ..joint_run import flux_run


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return flux_run()


def image_alone(ds: xr.Dataset) -> xr.Dataset:
    """The same by hand: entropy and sigma2 of image rows among image keys, under the names of self-attention."""
    rows = ds.isel(layer=np.flatnonzero((ds.kind == "joint") & (ds.part == "image")))
    keys = rows.keys_image.astype(float).mean([dim for dim in rows.keys_image.dims if dim not in ("size", "layer")])
    part = rows[["entropy_image", "sigma2_image"]].rename(entropy_image="entropy", sigma2_image="sigma2")
    return part.assign_coords(tokens=keys, kind=("layer", ["self"] * part.sizes["layer"]))


def test_the_fit_is_that_of_image_rows_among_image_keys(ds: xr.Dataset) -> None:
    found, own = entropylab.fit(ds, kind="image"), entropylab.fit(image_alone(ds))
    assert found.slope == pytest.approx(own.slope, abs=1e-12)
    assert found.intercept == pytest.approx(own.intercept, abs=1e-12)
    assert found.slope != pytest.approx(entropylab.fit(ds, kind="joint").slope, abs=1e-3)


def test_checks_figures_and_drift_take_it_too(ds: xr.Dataset) -> None:
    found, own = entropylab.check(ds, kind="image"), entropylab.check(image_alone(ds))
    np.testing.assert_allclose(found["law_residual"].values, own["law_residual"].values, atol=1e-12)
    size = str(ds["size"].values[0])
    for draw in (entropylab.plot.entropy_vs_tokens, entropylab.plot.law_residual, entropylab.plot.phase):
        assert draw(ds, kind="image").get_legend() is not None
    assert entropylab.plot.heads(ds, Figure().subplots(), kind="image", size=size).collections
    moved = drift(ds, size, kind="image")
    assert set(moved["layer"]) - {"mean"} == set(ds.layer.values[(ds.kind == "joint") & (ds.part == "image")].tolist())
