"""Entropy maps: rows in their places in the picture, with the Dataset's means, and pictures that stay as they are."""

import json

import numpy as np
import pytest
import torch
import xarray as xr

import entropylab
from entropylab import EntropyLabError, EntropyLabWarning
from entropylab.pipelines import denoisers
from entropylab.pipelines.arguments import inputs_of

from ..maps import entropy_of, logits_of, materialised
from ..pipelines import test_windows
from ..sampling import sample
from ..seeds import normal
from ..zoo import BY_NAME

FAMILIES = ["FLUX.1", "Lumina Image 2.0", "Stable Video Diffusion", "Perturbed-Attention Guidance"]


def layers_of(maps):
    """Layer -> its map, of the one size."""
    (size,) = maps.children.values()
    return {
        str(layer): group.entropy.sel(layer=layer) for group in size.children.values() for layer in group.layer.values
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_the_mean_of_a_map_is_the_entropy_of_its_layer(name):
    pipe = BY_NAME[name].build()
    plain = BY_NAME[name].sample(pipe)
    with entropylab.record(pipe, maps=True) as rec:
        assert torch.equal(BY_NAME[name].sample(pipe), plain)
    assert not rec.kept_maps.unplaced
    (size,) = rec.maps.children.values()
    means = [group.entropy.mean(set(group.dims) & {"frame", "y", "x", "token"}) for group in size.children.values()]
    ours = xr.merge([{"entropy": mean} for mean in means], join="outer", compat="no_conflicts").entropy
    wanted = rec.dataset.entropy.isel(size=0).mean(["head", "step"]).transpose(*ours.dims)
    ours = ours.sel(layer=wanted.layer, branch=wanted.branch)
    np.testing.assert_allclose(ours, wanted, atol=2e-5)
    assert np.abs(ours - wanted.roll(layer=1)).max() > 1e-2, "maps of other layers must not pass"


def test_every_row_is_where_float64_maps_have_it(random_pipe):
    size = (64, 96)
    with materialised(random_pipe.unet) as seen:
        sample(random_pipe, size)
    with entropylab.record(random_pipe, maps=True, keep=("branch", "sample", "step", "layer", "head")) as rec:
        sample(random_pipe, size)
    for layer, entropy in layers_of(rec.maps).items():
        assert entropy.dims == ("scaling", "branch", "sample", "step", "head", "y", "x")
        height, width = entropy.shape[-2:]
        assert width * 2 == height * 3
        whole = torch.stack([rows for rows, _ in seen[layer]]).unflatten(-1, (height, width)).numpy()
        wanted = {"uncond": whole[:, :2], "cond": whole[:, 2:]}
        for branch, rows in wanted.items():
            ours = entropy.sel(branch=branch).isel(scaling=0).transpose("step", "sample", "head", "y", "x").values
            np.testing.assert_allclose(ours, rows, atol=2e-5)
            assert np.abs(ours - rows[..., ::-1]).max() > 1e-2, "a mirrored map must not pass"
        np.testing.assert_allclose(np.diff(entropy.y), 64 / height)
        np.testing.assert_allclose(entropy.x[[0, -1]], [32 / height, 96 - 32 / height])


def test_statistics_are_those_without_maps():
    family, found = BY_NAME["FLUX.1"], []
    for maps in (False, True):
        pipe = family.build()
        with entropylab.record(pipe, maps=maps, statistics=("sigma2", "lse", "gaussian")) as rec:
            family.sample(pipe)
        found.append(rec.dataset)
    xr.testing.assert_allclose(*found, atol=2e-5, rtol=1e-4)
    assert rec.maps["96x128/6x8"].entropy.notnull().all()


def moved(family, at):
    """The maps of a family whose denoiser is handed another latent pixel at one place, (..., y, x) of the picture."""
    pipe = family.build()

    def change(module, args, kwargs):
        image = inputs_of(module, args, kwargs).image[0]
        new = image.clone()
        if at is None:
            return None
        if image.ndim == 3:
            grid = torch.zeros(1, 1, family.size[0] // 8, family.size[1] // 8)
            grid[0, 0, *at[-2:]] = 1
            packed = pipe._pack_latents(grid, 1, 1, *grid.shape[-2:])
            new[:, packed[0].sum(-1) > 0] += 5
        elif image.ndim == 5 and image.shape[1] != module.config.in_channels:
            new[:, at[0], :, at[1], at[2]] += 5
        else:
            new[(slice(None), slice(None), *at)] += 5
        swap = {id(image): new}
        return tuple(swap.get(id(each), each) for each in args), {k: swap.get(id(v), v) for k, v in kwargs.items()}

    for root in denoisers(pipe).values():
        root.register_forward_pre_hook(change, with_kwargs=True)
    with entropylab.record(pipe, maps=True, keep=("step", "layer", "head")) as rec:
        family.sample(pipe)
    return rec.maps


@pytest.mark.parametrize(
    ("name", "at", "token", "off"),
    [
        ("FLUX.1", (4, 13), (2, 6), 0),
        ("CogVideoX", (1, 2, 9), (1, 1, 4), 0),
        ("Stable Diffusion 1", (2, 9), (2, 9), 1),
        ("Stable Video Diffusion", (4, 2, 9), (4, 2, 9), 1),
    ],
)
def test_what_changes_at_a_pixel_shows_up_there(name, at, token, off):
    """The row of a token that has changed has other logits everywhere; other rows have one other logit."""
    before, after = (layers_of(moved(BY_NAME[name], where)) for where in (None, at))
    layer = next(layer for layer in before if "text" not in layer)
    change = np.abs(after[layer] - before[layer]).isel(step=0).max(["scaling", "sample", "head"]).values
    found = np.unravel_index(np.argmax(change), change.shape)
    assert np.abs(np.subtract(found, token)).max() <= off


def test_what_is_kept_apart(random_pipe):
    with entropylab.record(random_pipe, maps=True, keep=("layer",)) as rec:
        sample(random_pipe, steps=2)
        sample(random_pipe, (64, 96), prompts=("a red car",), steps=2)
        assert set(rec.maps.children) == {"64x64", "64x96"}
    wide = rec.maps["64x96/16x24"]
    assert wide.entropy.dims == ("scaling", "sample", "layer", "y", "x")
    assert wide.sizes["sample"] == 1
    assert rec.maps["64x64/16x16"].prompt.values.tolist() == ["a red car", "a blue house"]


def test_what_is_held_does_not_grow_with_steps_and_heads(random_pipe):
    held = []

    def seen(pipe, step, time, arguments):
        held.append(sum(each.sums.numel() for each in rec.run.maps.values()))
        assert rec.maps["64x64/16x16"].entropy.notnull().all(), "they can be looked at before the end"
        return arguments

    with entropylab.record(random_pipe, maps=True) as rec:
        sample(random_pipe, steps=4, callback_on_step_end=seen)
    assert held == [4 * (6 * 16 * 16 + 8 * 8 * 8)] * 4


def test_saved_and_opened_again(random_pipe, tmp_path):
    path = tmp_path / "maps.nc"
    ds = entropylab.measure(
        random_pipe, [64, 96], prompts=["a red car"], steps=2, scaling=["original", "sqrt_log"], maps=path,
        train_size=64, progress=False,
    )  # fmt: skip
    maps = entropylab.open(path)
    assert ds.attrs.keys() <= {*maps.attrs, "statistics", "unmeasured"}
    assert maps["96x96/24x24"].scaling.values.tolist() == ["original", "sqrt_log"]
    wanted = ds.entropy.sel(layer=maps["96x96/24x24"].layer, size="96x96").mean(["step", "head"])
    np.testing.assert_allclose(
        maps["96x96/24x24"].entropy.mean(["y", "x"]), wanted.transpose("scaling", ...), atol=2e-5
    )
    entropylab.save(maps, tmp_path / "again.nc")
    assert entropylab.open(tmp_path / "again.nc").identical(maps)
    with pytest.raises(EntropyLabError, match="exists already"):
        entropylab.measure(random_pipe, [64], maps=path, progress=False)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("AnyFlow FAR", "sampled in parts, one after the other"),
        ("MultiDiffusion Panorama", "several views of the picture"),
        ("Kandinsky 5 video, sparse", "stand in blocks, not line by line"),
        ("Stable Audio", "latent size of the picture is not known"),
    ],
)
def test_what_has_no_known_place_is_named(name, why):
    pipe = BY_NAME[name].build()
    with pytest.warns(EntropyLabWarning, match=f"got no map: .*{why}"), entropylab.record(pipe, maps=True) as rec:
        BY_NAME[name].sample(pipe)
    placed = {
        str(layer)
        for size in rec.maps.children.values()
        for group in size.children.values()
        for layer in group.layer.values
    }
    named = {line.partition(": ")[0] for line in json.loads(rec.maps.attrs["unplaced"])}
    assert placed | named == set(rec.dataset.layer.values) and named - placed


@pytest.mark.parametrize(("cut", "is_placed"), [("rows", True), ("columns", True), ("4x4", False)])
def test_parts_of_the_picture(cut, is_placed):
    """Lines have a place; windows may be shifted, which nobody can tell, and are named."""
    net, picture = test_windows.Net(test_windows.PARTS[cut][0]), normal(2, test_windows.WIDTH, *test_windows.PICTURE)
    if not is_placed:
        why = "got no map: model.attn:image .* at 24 places of each image are windows, .* can't be told by"
        with pytest.warns(EntropyLabWarning, match=why), entropylab.record(net, maps=True) as rec:
            net(picture, torch.tensor(1))
        assert not rec.maps.children
        return
    with entropylab.record(net, maps=True, keep=("layer", "head")) as rec, torch.no_grad():
        net(picture, torch.tensor(1))
    (entropy,) = layers_of(rec.maps).values()
    query, key, _ = net.attn.sides(3 * net.cut(picture[..., ::2, ::2]))
    rows = entropy_of(logits_of(query, key)).detach().unflatten(0, (2, -1)).transpose(1, 2)  # sample, head, line, row
    wanted = rows if cut == "rows" else rows.mT
    np.testing.assert_allclose(entropy.isel(scaling=0), wanted, atol=2e-5)


def test_arguments_that_do_not_fit(random_pipe, tmp_path):
    with pytest.raises(EntropyLabError, match="leave rows out"), entropylab.record(random_pipe, maps=True, rows=4):
        pass
    with pytest.raises(EntropyLabError, match="True or False"), entropylab.record(random_pipe, maps="maps.nc"):
        pass
    for wrong in ({"maps": True}, {"maps": tmp_path / "maps.nc", "out": tmp_path / "run"}):
        with pytest.raises(EntropyLabError, match="name of a file"):
            entropylab.measure(random_pipe, [64], **wrong)
    with entropylab.record(random_pipe) as rec:
        sample(random_pipe, steps=1)
    with pytest.raises(EntropyLabError, match="maps=True"):
        _ = rec.maps
