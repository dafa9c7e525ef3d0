"""What a fit says of itself, hands out and predicts."""

from dataclasses import FrozenInstanceError

import pytest
import xarray as xr

from entropylab.errors import EntropyLabError
from entropylab.law import fit

from ..datasets import NOISY, SIZES, synthetic


def test_a_fit_describes_itself() -> None:
    result = fit(synthetic(**NOISY))
    text = result.summary()
    for word in (
        "slope",
        "±",
        "95%",
        "intercept",
        "R^2",
        "5 self layers and 32 heads",
        "samples as clusters",
        "128x128",
    ):
        assert word in text
    assert f"{result.slope:.4f}" in text
    assert f"{result.slope:.4f}" in result._repr_html_()
    assert f"{result.slope:.4f}" in repr(result)
    by_layer = fit(synthetic(**NOISY), by="layer")
    assert "unet.mid_block" in by_layer.summary()
    assert "unet.mid_block" in by_layer._repr_html_()
    assert "5 lines" in repr(by_layer)
    assert len(by_layer.points()) == 5 * len(SIZES)
    with pytest.raises(FrozenInstanceError):
        result.dataset = xr.Dataset()  # type: ignore[misc]


def test_tables_and_files(tmp_path: object) -> None:
    result = fit(synthetic(**NOISY), by=("layer", "head"))
    data = result.to_dataset()
    assert all(variable.attrs["long_name"] and variable.attrs["units"] for variable in data.data_vars.values())
    data.to_netcdf(f"{tmp_path}/fit.nc", engine="h5netcdf")
    xr.testing.assert_identical(xr.load_dataset(f"{tmp_path}/fit.nc", engine="h5netcdf")["slope"], data["slope"])
    data["slope"][:] = 0
    assert (result.to_frame()["slope"] > 0.5).all(), "what was handed out is a copy"
    one = fit(synthetic(**NOISY)).to_frame()
    assert one.shape[0] == 1
    assert one["slope"][0] == fit(synthetic(**NOISY)).slope


def test_prediction() -> None:
    result = fit(synthetic())
    assert result.predict(1) == pytest.approx(result.intercept)
    assert result.predict([100, 200]).dims == ("tokens",)
    assert fit(synthetic(), by="layer").predict([100, 200]).dims == ("layer", "tokens")
    with pytest.raises(EntropyLabError, match="tokens must be a positive number"):
        result.predict(0)
