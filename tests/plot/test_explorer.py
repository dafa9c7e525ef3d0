"""`explore` shows what its controls say: driven in Python, as a notebook drives it."""

import base64
import io
import json
import sys
import threading
from typing import Any

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import entropylab
from entropylab import EntropyLabError

pytest.importorskip("ipywidgets")

LAYERS = {"up.0.attn1": "self", "up.0.attn2": "cross", "mid.attn1": "self"}


def group(height: int, width: int, pitch: float, layers: list[str], rules: list[str]) -> xr.Dataset:
    """Entropies whose dims all have several values, but the branch."""
    shape = (len(rules), 1, 2, 3, len(layers), 2, height, width)
    values = np.random.default_rng(height).uniform(1, 3, shape)
    coords = {
        "scaling": rules,
        "branch": ["cond"],
        "sample": [0, 1],
        "prompt": ("sample", ["a red heart", "a fox"]),
        "step": np.arange(3),
        "layer": layers,
        "kind": ("layer", [LAYERS[each] for each in layers]),
        "block": ("layer", [each.rpartition(".")[0] for each in layers]),
        "part": ("layer", ["image"] * len(layers)),
        "tokens": ("layer", [float(height * width)] * len(layers)),
        "order": ("layer", np.arange(len(layers)) + (10 if height > 2 else 0)),
        "head": [0, 1],
        "y": (np.arange(height) + 0.5) * pitch,
        "x": (np.arange(width) + 0.5) * pitch,
    }
    dims = ("scaling", "branch", "sample", "step", "layer", "head", "y", "x")
    return xr.Dataset({"entropy": (dims, values)}, coords)


@pytest.fixture
def maps() -> xr.DataTree:
    groups = {"/": xr.Dataset(attrs={"entropylab_version": "0", "unplaced": json.dumps([])})}
    for size, side, rules in (("32x48", 1, ["original"]), ("64x96", 2, ["original", "sqrt_log"])):
        groups[f"{size}/fine"] = group(4 * side, 6 * side, 8.0, ["up.0.attn1", "up.0.attn2"], rules)
        groups[f"{size}/coarse"] = group(2 * side, 3 * side, 16.0, ["mid.attn1"], rules)
    return xr.DataTree.from_dict(groups)


def pictures(height: int, width: int, *shades: int) -> list[Image.Image]:
    return [Image.new("L", (width, height), shade) for shade in shades]


@pytest.fixture
def images() -> dict:
    return {
        (32, 48): pictures(32, 48, 10, 20),
        "64x96": {"original": pictures(64, 96, 30, 40), "sqrt_log": pictures(64, 96, 50, 60)},
    }


def drawn(view: Any) -> np.ndarray:
    return np.asarray(view.ax.images[-1].get_array())


def test_every_control_changes_what_is_drawn(maps, images):
    view = entropylab.explore(maps, images)
    assert list(view.controls) == ["size", "scaling", "sample", "step", "layer", "head", "units", "hold"]
    assert [label for label, _ in view.controls["sample"].options] == ["a red heart", "a fox"]
    assert [label for label, _ in view.controls["layer"].options] == [
        "self: all", "self: mid", "self: up 0", "cross: up 0",
    ]  # fmt: skip
    for name, value in {
        "size": "64x96", "scaling": "sqrt_log", "sample": 1, "step": 2, "layer": "up.0.attn1", "head": 1, "units": True,
    }.items():  # fmt: skip
        before, png = drawn(view), view.image.value
        view.controls[name].value = value
        assert before.shape != drawn(view).shape or not np.allclose(before, drawn(view)), name
        assert png != view.image.value and not view.said
    wanted = maps["64x96/fine"].entropy.sel(scaling="sqrt_log", sample=1, step=2, layer="up.0.attn1", head=1)
    np.testing.assert_allclose(drawn(view), wanted.squeeze("branch") / np.log(96))
    with Image.open(io.BytesIO(view.image.value)) as shown:
        assert shown.format == "PNG"


def test_it_begins_with_the_mean_of_self_attention_as_entropy_map_does(maps, ax):
    view = entropylab.explore(maps)
    entropylab.plot.entropy_map(maps, ax=ax, size="32x48", layer="self")
    np.testing.assert_array_equal(drawn(view), ax.images[0].get_array())
    assert len(view.ax.images) == 1


def test_the_picture_is_that_of_the_size_rule_and_sample(maps, images):
    view = entropylab.explore(maps, images)

    def shade() -> float:
        return float(np.asarray(view.ax.images[0].get_array()).mean())

    assert shade() == 10
    view.controls["sample"].value = 1
    assert shade() == 20
    view.controls["size"].value = "64x96"
    assert shade() == 40
    view.controls["scaling"].value = "sqrt_log"
    assert shade() == 60
    assert view.ax.images[0].get_extent() == [0, 96, 64, 0]


def test_what_is_not_there_is_said_and_comes_back(maps, images):
    view = entropylab.explore(maps, images)
    view.controls["scaling"].value = "sqrt_log"
    assert view.said == "scaling must be one of original. Got 'sqrt_log'."
    view.controls["size"].value = "64x96"
    assert not view.said
    maps["64x96/fine"]["entropy"].loc[{"layer": "up.0.attn2", "head": 1}] = np.nan
    view.controls["layer"].value = "up.0.attn2"
    view.controls["head"].value = 1
    assert "nothing but NaN" in view.said


def test_colours_are_held_on_request(maps):
    view = entropylab.explore(maps)
    fitted = view.ax.images[-1].get_clim()
    assert fitted == (drawn(view).min(), drawn(view).max())
    view.controls["hold"].value = True
    view.controls["step"].value = 1
    assert view.ax.images[-1].get_clim() == fitted != (drawn(view).min(), drawn(view).max())
    view.controls["units"].value = True
    assert view.ax.images[-1].get_clim() == (drawn(view).min(), drawn(view).max()), "nats are no shares of log N"
    view.controls["step"].value = 2
    view.controls["hold"].value = False
    assert view.ax.images[-1].get_clim() == (drawn(view).min(), drawn(view).max())


def test_controls_that_change_at_once_leave_the_picture_of_what_they_say_at_last(maps, monkeypatch):
    view, changes = entropylab.explore(maps), []

    def interrupted(*given: Any, **named: Any) -> Any:
        if not changes:
            changes.append(threading.Thread(target=setattr, args=(view.controls["head"], "value", 1)))
            changes[0].start()
            changes[0].join(1)  # it waits for its turn; else it would be over, and what it drew would be lost
        return entropylab.plot.entropy_map(*given, **named)

    monkeypatch.setattr("entropylab.plot.explorer.entropy_map", interrupted)
    view.controls["step"].value = 2
    changes[0].join()
    shown = view.image.value
    view.show()
    assert shown == view.image.value


def test_what_has_one_value_has_no_control(maps):
    groups = {name: maps[f"32x48/{name}"].to_dataset() for name in ("fine", "coarse")}
    one = {
        f"32x48/{name}": ds.sel(layer=ds.kind == "self").isel(sample=[0], step=0, head=0, drop=True)
        for name, ds in groups.items()
    }
    view = entropylab.explore(xr.DataTree.from_dict(one), pictures(32, 48, 10)[0])
    assert list(view.controls) == ["layer", "units", "hold"]
    assert len(view.ax.images) == 2


def test_a_notebook_has_a_widget_and_a_picture_for_those_who_only_read_it(maps):
    view = entropylab.explore(maps)
    shown = view._repr_mimebundle_()
    assert set(shown) == {"text/plain", "image/png", "application/vnd.jupyter.widget-view+json"}
    assert base64.b64decode(shown["image/png"]) == view.image.value
    assert shown["application/vnd.jupyter.widget-view+json"]["model_id"] == view.box.model_id


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "dict by size, with 32x48, 64x96 in it. Got list"),
        ({(32, 48): pictures(32, 48, 1, 2)}, "dict by size, with 32x48, 64x96 in it. Got only 32x48"),
        ({(32, 48): pictures(32, 48, 1, 2), "64x96": pictures(64, 96, 1, 2)}, "dict by rule, with original, sqrt_log"),
        ({(32, 48): pictures(32, 48, 1), "64x96": []}, "one for each of 2 samples at 32x48. Got 1"),
        ({(32, 48): "ab", "64x96": []}, "one for each of 2 samples at 32x48. Got 1"),
        ({(32, 48): [1, 2], "64x96": []}, "images must be pictures"),
        ({(32, 48): pictures(48, 48, 1, 2), "64x96": []}, r"images at 32x48 must be as high .* shape \(48, 48\)"),
    ],
)
def test_other_pictures_are_refused(maps, images, said):
    with pytest.raises(EntropyLabError, match=said):
        entropylab.explore(maps, images)


def test_what_can_not_be_explored(maps, monkeypatch):
    with pytest.raises(EntropyLabError, match=r"xarray.DataTree of record\(pipe, maps=True\)"):
        entropylab.explore(xr.Dataset())
    words = xr.Dataset({"entropy": ("token", np.ones(3))})
    with pytest.raises(EntropyLabError, match="maps of the image's tokens in them. Got none"):
        entropylab.explore(xr.DataTree.from_dict({"32x48/text_3": words}))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(EntropyLabError, match=r"ipywidgets, which is not here: pip install 'entropylab\[notebook\]'"):
        entropylab.explore(maps)
