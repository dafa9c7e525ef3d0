"""Figures of entropy maps draw the numbers of the maps, in pixels of the picture."""

import json

import numpy as np
import pytest
import xarray as xr
from matplotlib.animation import FuncAnimation
from PIL import Image

from entropylab import EntropyLabError
from entropylab.plot import animate, entropy_map, entropy_maps


def group(height: int, width: int, pitch: float, layers: list[str], steps: int) -> xr.Dataset:
    values = np.random.default_rng(height).uniform(1, 3, (2, 2, steps, len(layers), height, width))
    coords = {
        "scaling": ["original", "sqrt_log"],
        "branch": ["uncond", "cond"],
        "step": np.arange(steps),
        "layer": layers,
        "kind": ("layer", ["self" if "attn1" in each else "cross" for each in layers]),
        "block": ("layer", [each.rpartition(".")[0] for each in layers]),
        "part": ("layer", ["image"] * len(layers)),
        "tokens": ("layer", [float(height * width)] * len(layers)),
        "order": ("layer", np.arange(len(layers)) + (10 if height > 2 else 0)),
        "y": (np.arange(height) + 0.5) * pitch,
        "x": (np.arange(width) + 0.5) * pitch,
    }
    return xr.Dataset({"entropy": (("scaling", "branch", "step", "layer", "y", "x"), values)}, coords)


@pytest.fixture(scope="module")
def maps() -> xr.DataTree:
    groups = {"/": xr.Dataset(attrs={"entropylab_version": "0", "unplaced": json.dumps([])})}
    for size, side in (("32x48", 1), ("64x96", 2)):
        groups[f"{size}/fine"] = group(4 * side, 6 * side, 8.0, ["up.0.attn1", "up.0.attn2"], 3)
        groups[f"{size}/coarse"] = group(2 * side, 3 * side, 16.0, ["mid.attn1"], 3)
    return xr.DataTree.from_dict(groups)


def test_a_map_over_its_picture(maps, ax):
    image = Image.new("RGB", (48, 32), "red")
    entropy_map(maps, image, ax, layer="*attn1", size=(32, 48))
    under, over = ax.images
    assert under.get_extent() == over.get_extent() == [0, 48, 32, 0]
    assert float(over.get_array().max()) == over.norm.vmax and over.cmap(0.5)[3] < 1
    fine, coarse = (maps[f"32x48/{each}"].entropy.sel(scaling="original", branch="cond") for each in ("fine", "coarse"))
    fine, coarse = fine.sel(layer="up.0.attn1").mean("step"), coarse.sel(layer="mid.attn1").mean("step")
    wanted = (fine.values + np.kron(coarse.values, np.ones((2, 2)))) / 2
    np.testing.assert_allclose(over.get_array(), wanted)
    assert ax.figure.axes[1].get_ylabel() == "attention entropy [nats]"


def test_one_step_of_one_layer_as_a_share_of_log_n(maps, ax):
    entropy_map(
        maps, ax=ax, layer="mid.attn1", size="64x96", scaling="sqrt_log", branch="uncond", step=2, normalised=True
    )
    wanted = maps["64x96/coarse"].entropy.sel(scaling="sqrt_log", branch="uncond", step=2, layer="mid.attn1") / np.log(
        24
    )
    np.testing.assert_allclose(ax.images[0].get_array(), wanted)


def test_rules_and_sizes_side_by_side_on_one_scale(maps, ax):
    entropy_maps(maps, ax=ax, layer="up*attn1")
    assert [text.get_text() for text in ax.get_yticklabels()] == ["32x48", "64x96"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["original", "sqrt_log"]
    assert [image.get_array().shape for image in ax.images] == [(4, 6), (4, 6), (8, 12), (8, 12)]
    assert len({image.norm.vmax for image in ax.images}) == 1
    assert not np.allclose(ax.images[0].get_array(), ax.images[1].get_array())


def test_layers_in_their_order_by_steps(maps, ax):
    entropy_maps(maps, ax=ax, rows="layer", columns="step", layer=["self", "cross"], size="32x48", normalised=False)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["mid", "up 0, 0", "up 0, 1"]
    wanted = maps["32x48/coarse"].entropy.sel(scaling="original", branch="cond", layer="mid.attn1")
    np.testing.assert_allclose(ax.images[1].get_array(), wanted.sel(step=1))


def with_weights(maps: xr.DataTree) -> xr.DataTree:
    """The maps, and received attention of one layer, words of another, and a layer of rows that are elsewhere."""
    groups = {node.path.strip("/") or "/": node.to_dataset() for node in maps.subtree}
    ds = groups["32x48/fine"].isel(step=[0])
    shares = ds.entropy / 100
    words = xr.concat([shares, 2 * shares], "word").assign_coords(word=["red", "hat"])
    given = ds.assign(received=shares.where(ds.kind == "self"), words=words.where(ds.kind == "cross"))
    elsewhere = given.isel(layer=[0]).assign_coords(layer=["text.attn1"])
    elsewhere["entropy"] = elsewhere.entropy * np.nan
    groups["32x48/fine"] = xr.concat([given, elsewhere], "layer")
    return xr.DataTree.from_dict(groups)


def test_received_attention(maps, ax):
    chosen = {"size": "32x48", "scaling": "original", "branch": "cond"}
    wanted = maps["32x48/fine"].entropy.sel(layer="up.0.attn1", scaling="original", branch="cond", step=0) / 100
    entropy_map(with_weights(maps), ax=ax, variable="received", **chosen)
    np.testing.assert_allclose(ax.images[0].get_array(), wanted)
    assert ax.figure.axes[1].get_ylabel() == "received attention [fraction]"
    entropy_maps(with_weights(maps), ax=ax, variable="received", rows="branch", columns="scaling", size="32x48")
    assert ax.figure.axes[2].get_ylabel() == "received attention x N, 1 is uniform"
    np.testing.assert_allclose(ax.images[3].get_array(), wanted * 24)


def test_words(maps, ax):
    weights = with_weights(maps)
    entropy_maps(weights, ax=ax, rows="branch", columns="word", size="32x48")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["red", "hat"]
    wanted = maps["32x48/fine"].entropy.sel(layer="up.0.attn2", scaling="original", branch="uncond", step=0) / 50
    np.testing.assert_allclose(ax.images[1].get_array(), wanted)
    assert ax.figure.axes[1].get_ylabel() == "weight on the word [fraction]"
    entropy_map(weights, ax=ax, word="hat", size="32x48", branch="uncond")
    np.testing.assert_allclose(ax.images[-1].get_array(), wanted)
    with pytest.raises(EntropyLabError, match="word must be one of red, hat. Got None"):
        entropy_map(weights, ax=ax, variable="words", size="32x48")
    with pytest.raises(EntropyLabError, match="maps of words at 64x96"):
        entropy_map(weights, ax=ax, word="hat", size="64x96")


def test_layers_whose_rows_are_elsewhere_are_left_out(maps, ax):
    entropy_map(with_weights(maps), ax=ax, size="32x48", layer=["*attn1"], scaling="original", step=0)
    assert np.isfinite(ax.images[0].get_array()).all()


def test_an_animation_through_the_steps(maps, ax, tmp_path):
    moving = animate(maps, Image.new("L", (48, 32)), ax, size="32x48", layer="up.0.attn1")
    assert isinstance(moving, FuncAnimation)
    moving.save(tmp_path / "maps.gif", writer="pillow")
    with Image.open(tmp_path / "maps.gif") as saved:
        assert saved.n_frames == 3
    assert len(ax.images) == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": "8x8"}, "size must be one of 32x48, 64x96. Got '8x8'"),
        ({}, "size must be one of 32x48, 64x96. Got None"),
        ({"size": "32x48", "layer": "temporal"}, "layer must be kinds, or patterns"),
        ({"size": "32x48", "step": 7}, "step must be one of 0, 1, 2. Got 7"),
        ({"size": "32x48", "head": 0}, "head must be one of"),
        ({"size": "32x48", "variable": "lse"}, "variable must be entropy, received or words. Got 'lse'"),
        ({"size": "32x48", "colour": 1}, "Got \\['colour'\\]"),
    ],
)
def test_what_can_not_be_drawn(maps, ax, wrong, said):
    with pytest.raises(EntropyLabError, match=said):
        entropy_map(maps, ax=ax, **wrong)


def test_what_else_can_not_be_drawn(maps, ax):
    with pytest.raises(EntropyLabError, match="xarray.DataTree of record"):
        entropy_map(xr.Dataset(), ax=ax)
    with pytest.raises(EntropyLabError, match="two of size"):
        entropy_maps(maps, ax=ax, rows="size", columns="size")
    with pytest.raises(EntropyLabError, match="head kept apart"):
        entropy_maps(maps, ax=ax, rows="head", columns="step", size="32x48")
    with pytest.raises(EntropyLabError, match="2 rows of 2 pictures"):
        entropy_maps(maps, [[np.zeros((4, 6))]], ax)
    with pytest.raises(EntropyLabError, match="one for each of 3 steps. Got 2"):
        animate(maps, [np.zeros((4, 6))] * 2, ax, size="32x48")
