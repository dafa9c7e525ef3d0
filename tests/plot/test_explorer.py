"""`explore` shows what its controls say: driven in Python, as a notebook drives it."""

import base64
import io
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

UNITS = ["units", "hold"]


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


def test_every_control_changes_what_is_drawn(maps, images, ax):
    view = entropylab.explore(maps, images)
    assert list(view.controls) == ["size", "scaling", "branch", "sample", "step", "layer", "head", *UNITS]
    assert [label for label, _ in view.controls["sample"].options] == ["a red heart", "a fox"]
    layers = [label for label, _ in view.controls["layer"].options]
    assert layers == ["self: all", "self: mid", "self: up 0", "cross: up 0"]
    entropylab.plot.entropy_map(maps, ax=ax, size="32x48", layer="self")
    np.testing.assert_array_equal(drawn(view), ax.images[0].get_array())
    rows = {"scaling": "sqrt_log", "branch": "uncond", "sample": 1, "step": 2, "layer": "up.0.attn1", "head": 1}
    for name, value in {"size": "64x96", **rows, "units": True}.items():
        before, png = drawn(view), view.image.value
        view.controls[name].value = value
        assert before.shape != drawn(view).shape or not np.allclose(before, drawn(view)), name
        assert png != view.image.value and not view.said
    np.testing.assert_allclose(drawn(view), maps["64x96/fine"].entropy.sel(rows) / np.log(96))
    with Image.open(io.BytesIO(view.image.value)) as shown:
        assert shown.format == "PNG"
    bundle = view._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/png", "application/vnd.jupyter.widget-view+json"}
    assert base64.b64decode(bundle["image/png"]) == view.image.value, "for those who only read the notebook"
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == view.box.model_id


def test_the_picture_is_that_of_the_size_rule_and_sample(maps, images):
    view, shades = entropylab.explore(maps, images), []
    for name, value in (("sample", 0), ("sample", 1), ("size", "64x96"), ("scaling", "sqrt_log")):
        view.controls[name].value = value
        shades.append(float(np.asarray(view.ax.images[0].get_array()).mean()))
    assert shades == [10, 20, 40, 60]
    assert view.ax.images[0].get_extent() == [0, 96, 64, 0]
    assert len(entropylab.explore(maps).ax.images) == 1


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
            changes[0].join(0.5)  # it waits for its turn; else it would be over, and what it drew would be lost
        return entropylab.plot.entropy_map(*given, **named)

    monkeypatch.setattr("entropylab.plot.explorer.entropy_map", interrupted)
    view.controls["step"].value = 2
    changes[0].join()
    shown = view.image.value
    view.show()
    assert shown == view.image.value


def test_what_has_one_value_has_no_control(maps):
    alone = {"sample": [0], "branch": [0], "step": 0, "head": 0}
    one = {f"32x48/{name}": maps[f"32x48/{name}"].to_dataset() for name in ("fine", "coarse")}
    one = {name: ds.sel(layer=ds.kind == "self").isel(alone, drop=True) for name, ds in one.items()}
    view = entropylab.explore(xr.DataTree.from_dict(one), pictures(32, 48, 10)[0])
    assert list(view.controls) == ["layer", *UNITS]
    assert len(view.ax.images) == 2


def test_entropy_is_shown_where_words_were_kept_too(maps):
    ds = maps["32x48/fine"].to_dataset()
    words = xr.concat([ds["entropy"] / 100, ds["entropy"] / 50], "word").assign_coords(word=["red", "hat"])
    view = entropylab.explore(xr.DataTree.from_dict({"32x48/fine": ds.assign(words=words)}))
    assert not view.said and "word" not in view.controls
    assert view.ax.figure.axes[1].get_ylabel() == "attention entropy [nats]"


TWO = pictures(32, 48, 1, 2)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "dict by size, with 32x48, 64x96 in it. Got list"),
        ({(32, 48): TWO}, "dict by size, with 32x48, 64x96 in it. Got only 32x48"),
        ({(32, 48): TWO, "64x96": pictures(64, 96, 1, 2)}, "dict by rule, with original, sqrt_log"),
        ({(32, 48): TWO[:1], "64x96": []}, "one for each of 2 samples at 32x48. Got 1"),
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
