"""Reports of joint attention: the image's part."""

from pathlib import Path

import numpy as np
import xarray as xr

import entropylab
from entropylab import check, report
from entropylab.law.joint import image_part
from entropylab.reporting.joint import pieces

from .reports import sections


def test_the_image_part_of_joint_attention(flux: xr.Dataset) -> None:
    part = image_part(flux)
    assert part["tokens"].values.tolist() == [[48.0] * 3, [100.0] * 3, [256.0] * 3]
    assert part["train_tokens"].values.tolist() == [4096.0] * 3
    rows = flux.isel(layer=flux["part"].values == "image")
    np.testing.assert_array_equal(part["entropy"], rows["entropy_image"])
    np.testing.assert_array_equal(part["sigma2"], rows["sigma2_image"])
    found = check(part, kind="joint")
    own = np.log(part["tokens"]) - rows["sigma2_image"].mean(["scaling", "branch", "sample", "step"]) / 2
    np.testing.assert_allclose(found["law"], own.transpose("size", "layer", "head"), rtol=1e-6)
    mixed = check(rows, kind="joint")
    assert float(abs(mixed["entropy"] - found["entropy"]).min()) > 0.02, "over all keys it is another entropy"


def test_the_chain_rule_in_the_table(flux: xr.Dataset) -> None:
    parts = pieces(flux)
    total = sum(parts[name] for name in ("entropy_between", "entropy_from_image", "entropy_from_text"))
    np.testing.assert_allclose(total, parts["entropy"], atol=1e-4)
    np.testing.assert_allclose(parts["share"].isel(layer=0), [48 / 58, 100 / 110, 256 / 266])
    assert float(abs(total - parts["entropy_from_image"] - parts["entropy"]).max()) > 0.1


def test_a_report_of_joint_attention(flux: xr.Dataset, tmp_path: Path) -> None:
    written = report(flux, tmp_path / "flux.html")
    found = sections((tmp_path / "flux.md").read_text(encoding="utf-8"))
    assert list(found)[1:] == ["What was measured", "Joint attention: the image's part", "Words"]
    own = found["Joint attention: the image's part"]
    line = entropylab.fit(image_part(flux), kind="joint")
    assert f"{line.slope:.3f} ± {line.slope_error:.3f}" in own
    assert "of their weight to keys of the image" in own
    assert "| 256x256 | 256 | 96% |" in own
    assert "3 joint" in found["What was measured"]
    assert {path.name for path in written[2:]} == {f"joint1_{n}.png" for n in ("entropy", "deficit", "sigma2", "phase")}


def test_joint_and_self_attention_side_by_side(flux: xr.Dataset, ds: xr.Dataset, tmp_path: Path, undrawn: None) -> None:
    report([ds, flux.isel(size=[0])], tmp_path / "a.html", names=["U-Net", "FLUX"])
    found = sections((tmp_path / "a.md").read_text(encoding="utf-8"))
    assert "**FLUX**" not in found["The fit"]
    assert "**FLUX**" in found["Joint attention: the image's part"]
    assert "because only one size was measured" in found["Joint attention: the image's part"]
    assert "Side by side" not in found
