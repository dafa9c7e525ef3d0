"""Figures of entropy maps and of pictures draw their numbers, in pixels of the picture."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.animation import FuncAnimation
from PIL import Image

from entropylab import EntropyLabError, plot
from entropylab.plot import animate, entropy_map, entropy_maps

from .conftest import x_names, y_names

FIRST = {"scaling": "original", "branch": "cond", "sample": 0}
"""What is drawn of several if nothing is said; of steps and heads the mean."""


def test_a_map_over_its_picture(maps, ax):
    assert entropy_map(maps, Image.new("RGB", (48, 32), "red"), ax, layer="*attn1", size=(32, 48)) is ax
    under, over = ax.images
    assert under.get_extent() == over.get_extent() == [0, 48, 32, 0]
    assert float(over.get_array().max()) == over.norm.vmax and over.cmap(0.5)[3] < 1
    fine, coarse = (maps[f"32x48/{name}"].entropy.sel(FIRST).mean(["step", "head"]) for name in ("fine", "coarse"))
    wanted = (fine.sel(layer="up.0.attn1").values + np.kron(coarse.sel(layer="mid.attn1"), np.ones((2, 2)))) / 2
    np.testing.assert_allclose(over.get_array(), wanted)
    assert ax.figure.axes[1].get_ylabel() == "attention entropy [nats]"


def test_maps_side_by_side_on_one_scale(maps, ax):
    entropy_maps(maps, ax=ax, columns="sample", layer="up*attn1")
    assert y_names(ax) == ["32x48", "64x96"]
    assert x_names(ax) == ["sample 1", "sample 2"]
    assert [image.get_array().shape for image in ax.images] == [(4, 6), (4, 6), (8, 12), (8, 12)]
    assert len({image.norm.vmax for image in ax.images}) == 1
    assert not np.allclose(ax.images[0].get_array(), ax.images[1].get_array())


def test_layers_in_their_order_by_steps(maps, ax):
    entropy_maps(maps, ax=ax, rows="layer", columns="step", layer=["self", "cross"], size="32x48", normalised=False)
    assert y_names(ax) == ["mid", "up 0, 0", "up 0, 1"]
    wanted = maps["32x48/coarse"].entropy.sel(FIRST | {"layer": "mid.attn1", "step": 1}).mean("head")
    np.testing.assert_allclose(ax.images[1].get_array(), wanted)


@pytest.fixture
def weights(maps) -> xr.DataTree:
    """The maps, and received attention of one layer, words of another, and a layer whose rows are elsewhere."""
    ds = maps["32x48/fine"].to_dataset()
    shares = ds["entropy"] / 100
    words = xr.concat([shares, 2 * shares], "word").assign_coords(word=["red", "hat"])
    given = ds.assign(received=shares.where(ds["kind"] == "self"), words=words.where(ds["kind"] == "cross"))
    elsewhere = given.isel(layer=[0]).assign_coords(layer=["text.attn1"])
    fine = xr.concat([given, elsewhere.assign(entropy=elsewhere["entropy"] * np.nan)], "layer")
    return xr.DataTree.from_dict({"32x48/fine": fine, "64x96/fine": maps["64x96/fine"].to_dataset()})


def test_received_attention(weights, ax):
    chosen = {"variable": "received", "size": "32x48"}
    wanted = weights["32x48/fine"].entropy.sel(FIRST | {"layer": "up.0.attn1"}).mean(["step", "head"]) / 100
    entropy_map(weights, ax=ax, **chosen)
    np.testing.assert_allclose(ax.images[0].get_array(), wanted)
    assert ax.figure.axes[1].get_ylabel() == "received attention [fraction]"
    entropy_maps(weights, ax=ax, rows="branch", columns="scaling", **chosen)
    assert ax.figure.axes[2].get_ylabel() == "received attention x N, 1 is uniform"
    np.testing.assert_allclose(ax.images[-1].get_array(), wanted * 24)


def test_words(weights, ax):
    entropy_maps(weights, ax=ax, rows="branch", columns="word", size="32x48")
    assert x_names(ax) == ["red", "hat"]
    shares = weights["32x48/fine"].entropy.sel(FIRST | {"layer": "up.0.attn2", "branch": "uncond"}) / 100
    np.testing.assert_allclose(ax.images[1].get_array(), 2 * shares.mean(["step", "head"]))
    assert ax.figure.axes[1].get_ylabel() == "weight on the word [fraction]"
    entropy_map(weights, ax=ax, word="hat", size="32x48", branch="uncond")
    np.testing.assert_allclose(ax.images[-1].get_array(), 2 * shares.mean(["step", "head"]))
    with pytest.raises(EntropyLabError, match="word must be one of red, hat. Got None"):
        entropy_map(weights, ax=ax, variable="words", size="32x48")
    with pytest.raises(EntropyLabError, match="maps of words at 64x96"):
        entropy_map(weights, ax=ax, word="hat", size="64x96")


def test_layers_whose_rows_are_elsewhere_are_left_out(weights, ax):
    entropy_map(weights, ax=ax, size="32x48", layer=["*attn1"])
    assert np.isfinite(ax.images[0].get_array()).all()


def test_an_animation_through_the_steps(maps, ax, tmp_path):
    moving = animate(maps, Image.new("L", (48, 32)), ax, size="32x48", layer="up.0.attn1")
    assert isinstance(moving, FuncAnimation)
    moving.save(tmp_path / "maps.gif", writer="pillow", dpi=30)
    with Image.open(tmp_path / "maps.gif") as saved:
        assert saved.n_frames == 3
    assert len(ax.images) == 2


def test_pictures_stand_in_a_grid(ax) -> None:
    rng = np.random.default_rng(0)
    small, tall = rng.random((2, 4, 4, 3)), rng.integers(0, 256, (2, 12, 8, 3), dtype=np.uint8)
    assert plot.samples([small, tall], ax, rows=["small", "tall"], columns=["a cat", "a very long prompt"]) is ax
    shown = ax.images
    np.testing.assert_allclose(shown[1].get_array(), small[1])
    np.testing.assert_array_equal(shown[2].get_array(), tall[0])
    assert {image.get_interpolation() for image in shown} == {"nearest"}
    left, right, bottom, top = np.transpose([image.get_extent() for image in shown])
    np.testing.assert_allclose(right - left, 1)
    np.testing.assert_allclose(bottom - top, [1, 1, 1.5, 1.5])
    assert bool((top[2:] > bottom[:2]).all()), "rows do not overlap"
    assert left[1] > right[0], "columns do not overlap"
    assert y_names(ax) == ["small", "tall"]
    assert x_names(ax) == ["a cat", "a very long\nprompt"]
    assert ax.get_ylim() == (pytest.approx(bottom[-1]), 0)
