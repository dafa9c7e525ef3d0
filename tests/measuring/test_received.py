"""Received attention: the column means of whole maps, where the keys stand."""

import warnings

import numpy as np
import pytest
import torch
import xarray as xr

import entropylab
from entropylab import EntropyLabWarning
from entropylab.pipelines import denoisers

from ..maps import every_map
from ..sampling import sample
from ..zoo import BY_NAME

EACH = ("branch", "sample", "step", "layer", "head")


def means_of(seen, path, rows=slice(None), keys=slice(None)):
    """What keys get of some rows: (step, batch, head, key)."""
    return torch.stack([weights[..., rows, :].mean(-2) for weights in seen[path]])[..., keys].numpy()


def received_of(maps, group, layer):
    """(step, branch and sample, head, *grid) of a layer."""
    (size,) = maps.children.values()
    found = size[group].received.sel(layer=layer).isel(scaling=0).transpose("step", "branch", "sample", "head", ...)
    return found.values.reshape(found.shape[0], -1, *found.shape[3:])


def test_self_and_cross_attention(random_pipe):
    size = (64, 96)
    with every_map({"unet": random_pipe.unet}) as seen:
        plain = sample(random_pipe, size)
    with entropylab.record(random_pipe, received=True, keep=EACH) as rec:
        assert torch.equal(sample(random_pipe, size), plain)
    groups = {256 + 128: "16x24", 96: "8x12", 24: "text_24"}
    assert {*groups.values()} == set(rec.maps["64x96"].children) and not rec.kept_maps.unplaced
    for layer in rec.dataset.layer.values:
        wanted = means_of(seen, layer)
        group = groups[wanted.shape[-1]]
        ours = received_of(rec.maps, group, layer)
        flat = ours.reshape(*ours.shape[:3], -1)[:, :, : wanted.shape[2]]
        np.testing.assert_allclose(flat, wanted, atol=1e-6)
        assert np.abs(flat[..., ::-1] - wanted).max() > 1e-3, "other places must not pass"
    assert rec.maps["64x96/16x24"].received.attrs["units"] == "1"
    assert "entropy" not in rec.maps["64x96/16x24"]


def test_joint_attention():
    family = BY_NAME["FLUX.1"]
    pipe = family.build()
    with every_map(denoisers(pipe)) as seen:
        family.sample(pipe)
    with entropylab.record(pipe, maps=True, received=True, keep=EACH) as rec:
        family.sample(pipe)
    places = {"text": slice(0, 10), "image": slice(10, None)}
    for path in seen:
        for part, rows in places.items():
            for group, keys, grid in (("6x8", places["image"], (6, 8)), ("text_10", places["text"], (10,))):
                wanted = means_of(seen, path, rows, keys).reshape(2, 1, 2, *grid)
                np.testing.assert_allclose(received_of(rec.maps, group, f"{path}:{part}"), wanted, atol=1e-6)
    with_entropy = (
        rec.maps["96x128/6x8"].entropy.notnull().all(["scaling", "branch", "sample", "step", "head", "y", "x"])
    )
    assert (with_entropy == (rec.maps["96x128/6x8"].part == "image")).all(), "rows of text have none in the picture"


def test_frames_and_places_of_a_video():
    family = BY_NAME["Latte"]
    pipe = family.build()
    with every_map(denoisers(pipe)) as seen:
        family.sample(pipe)
    with entropylab.record(pipe, received=True, keep=EACH) as rec:
        family.sample(pipe)
    frames, height, width = 5, 4, 6
    for layer, kind in zip(rec.dataset.layer.values, rec.dataset.kind.values, strict=True):
        if kind == "cross":
            continue
        wanted = means_of(seen, layer)
        batch = wanted.shape[1] // (frames if kind == "self" else height * width)
        whole = wanted.reshape(2, batch, -1, *wanted.shape[2:])
        if kind == "self":  # frames stand in the batch
            whole = whole.reshape(2, batch, frames, -1, height, width).transpose(0, 1, 3, 2, 4, 5)
        else:
            whole = whole.reshape(2, batch, height, width, -1, frames).transpose(0, 1, 4, 5, 2, 3)
        np.testing.assert_allclose(received_of(rec.maps, "5x4x6", layer), whole, atol=1e-6)


FAMILIES = ["DiT", "CogVideoX", "Lumina Image 2.0", "PixArt-Sigma", "Stable Video Diffusion", "AnimateDiff", "Wan 2.1"]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_all_keys_get_is_one(name):
    """Rows give weights that add up to 1; none of them is lost, whatever the keys stand for."""
    family = BY_NAME[name]
    pipe = family.build()
    with warnings.catch_warnings(), entropylab.record(pipe, received=True) as rec:
        warnings.simplefilter("ignore", EntropyLabWarning)
        family.sample(pipe)
    assert not rec.kept_maps.unplaced
    (size,) = rec.maps.children.values()
    total: dict = {}
    for group in size.children.values():
        received = group.received.fillna(0).isel(scaling=0)
        sides = [name for name in received.dims if name in ("frame", "y", "x", "token")]
        for layer in received.layer.values:
            own = received.sel(layer=layer, drop=True).sum(sides)
            apart = group.kind.sel(layer=layer) in ("self", "temporal") and "y" in sides
            calls = (
                np.prod([received.sizes[name] for name in sides]) / group.tokens.sel(layer=layer).item() if apart else 1
            )
            before, own = xr.align(total.get(layer, own * 0), own / calls, join="outer", fill_value=0)
            total[layer] = before + own
    assert set(total) == set(rec.dataset.layer.values)
    assert all(bool((found > 0).any()) for found in total.values())
    for layer, found in total.items():
        np.testing.assert_allclose(found.where(found > 0).dropna("branch"), 1, atol=1e-5, err_msg=layer)
