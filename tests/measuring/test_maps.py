"""Maps of entropy, of received attention and of words: against whole maps in float64, in their places."""

import gc
import json
import warnings

import numpy as np
import pytest
import torch
import xarray as xr

import entropylab
from entropylab import EntropyLabError, EntropyLabWarning
from entropylab.pipelines import denoisers

from ..maps import entropy_of, entropy_of_map, every_map, logits_of
from ..pipelines import test_windows
from ..sampling import sample
from ..seeds import normal
from ..zoo import BY_NAME
from .test_words import EACH, PROMPTS, SPOKEN, TOKENS, check_words


def layers_of(maps, name="entropy"):
    """Layer -> its map, of the one size."""
    (size,) = maps.children.values()
    each = [group[name].sel(layer=layer) for group in size.children.values() if name in group for layer in group.layer]
    return {str(found.layer.item()): found for found in each if found.notnull().any()}


def steps_of(found):
    """(step, branch and sample, head, *grid) of a map."""
    found = found.isel(scaling=0).transpose("step", "branch", "sample", "head", ...)
    return found.values.reshape(found.shape[0], -1, *found.shape[3:])


def test_every_row_and_key_and_word_is_where_float64_maps_have_it(random_pipe):
    size = (64, 96)
    with every_map({"unet": random_pipe.unet}) as seen:
        plain = sample(random_pipe, size)
    with entropylab.record(random_pipe, maps=True, received=True, words=list(SPOKEN), keep=EACH) as rec:
        assert torch.equal(sample(random_pipe, size), plain)
    assert not rec.kept_maps.unplaced and not rec.kept_maps.missing
    assert set(rec.maps["64x96"].children) == {"16x24", "8x12", "text_24"}
    for name in ("received", "words"):
        assert rec.maps["64x96/16x24"][name].attrs["units"] == "1"
    entropies, received = layers_of(rec.maps), layers_of(rec.maps, "received")
    assert set(entropies) == set(received) == set(seen) == set(rec.dataset.layer.values)
    for layer, calls in seen.items():
        weights = torch.stack(calls)
        heads, rows, keys = weights.shape[2:]
        height, width = (16, 24) if rows == 384 else (8, 12)
        rows = entropy_of_map(weights).unflatten(-1, (height, width)).numpy()
        ours = steps_of(entropies[layer].dropna("head"))
        np.testing.assert_allclose(ours, rows, atol=2e-5)
        assert np.abs(ours - rows[..., ::-1]).max() > 1e-2, "a mirrored map must not pass"
        np.testing.assert_allclose(np.diff(entropies[layer].y), 64 / height)
        np.testing.assert_allclose(entropies[layer].x[[0, -1]], [32 / height, 96 - 32 / height])
        wanted = weights.mean(-2).numpy()
        ours = steps_of(received[layer])[:, :, :heads].reshape(*wanted.shape)
        np.testing.assert_allclose(ours, wanted, atol=1e-6)
        assert np.abs(ours[..., ::-1] - wanted).max() > 1e-3, "other places must not pass"
        assert keys in (384, 96, 24)
    assert check_words(rec.maps, seen, TOKENS) == 7
    with pytest.raises(AssertionError):
        check_words(rec.maps, seen, TOKENS | {"red": [1]})


@pytest.mark.parametrize(
    "name", ["Lumina Image 2.0", "Stable Video Diffusion", "Perturbed-Attention Guidance", "FLUX.1"]
)
def test_the_mean_of_a_map_is_the_entropy_of_its_layer(name):
    """And statistics and pictures are those without maps."""
    family, found = BY_NAME[name], []
    for maps in (False, True):
        pipe = family.build()
        with entropylab.record(pipe, maps=maps, statistics=("entropy", "sigma2", "lse", "gaussian")) as rec:
            found.append(family.sample(pipe))
        found.append(rec.dataset)
    plain, usual, images, ds = found
    assert torch.equal(images, plain)
    xr.testing.assert_allclose(usual, ds, atol=2e-5, rtol=1e-4)
    assert not rec.kept_maps.unplaced
    (size,) = rec.maps.children.values()
    means = [group.entropy.mean(set(group.dims) & {"frame", "y", "x", "token"}) for group in size.children.values()]
    ours = xr.merge([{"entropy": mean} for mean in means], join="outer", compat="no_conflicts").entropy
    wanted = ds.entropy.isel(size=0).mean(["head", "step"]).transpose(*ours.dims)
    ours = ours.sel(layer=wanted.layer, branch=wanted.branch)
    np.testing.assert_allclose(ours, wanted, atol=2e-5)
    assert np.abs(ours - wanted.roll(layer=1)).max() > 1e-2, "maps of other layers must not pass"


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
                wanted = torch.stack([weights[..., rows, :].mean(-2) for weights in seen[path]])[..., keys].numpy()
                ours = steps_of(rec.maps["96x128"][group].received.sel(layer=f"{path}:{part}"))
                np.testing.assert_allclose(ours, wanted.reshape(2, 1, 2, *grid), atol=1e-6)
    group = rec.maps["96x128/6x8"]
    with_entropy = group.entropy.notnull().all(["scaling", "branch", "sample", "step", "head", "y", "x"])
    assert (with_entropy == (group.part == "image")).all(), "rows of text have none in the picture"


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
        wanted = torch.stack([weights.mean(-2) for weights in seen[layer]]).numpy()
        batch = wanted.shape[1] // (frames if kind == "self" else height * width)
        whole = wanted.reshape(2, batch, -1, *wanted.shape[2:])
        if kind == "self":  # frames stand in the batch
            whole = whole.reshape(2, batch, frames, -1, height, width).transpose(0, 1, 3, 2, 4, 5)
        else:
            whole = whole.reshape(2, batch, height, width, -1, frames).transpose(0, 1, 4, 5, 2, 3)
        (size,) = rec.maps.children.values()
        np.testing.assert_allclose(steps_of(size["5x4x6"].received.sel(layer=layer)), whole, atol=1e-6)
    assert "entropy" not in size["5x4x6"]


@pytest.mark.parametrize("name", ["CogVideoX", "PixArt-Sigma", "AnimateDiff"])
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
        places = np.prod([received.sizes[name] for name in sides])
        for layer in received.layer.values:
            own = received.sel(layer=layer, drop=True).sum(sides)
            apart = group.kind.sel(layer=layer) in ("self", "temporal") and "y" in sides
            own = own / (places / group.tokens.sel(layer=layer).item() if apart else 1)
            before, own = xr.align(total.get(layer, own * 0), own, join="outer", fill_value=0)
            total[layer] = before + own
    assert set(total) == set(rec.dataset.layer.values)
    for layer, found in total.items():
        assert bool((found > 0).any())
        np.testing.assert_allclose(found.where(found > 0).dropna("branch"), 1, atol=1e-5, err_msg=layer)


def moved(family, at):
    """The maps of a family whose denoiser is handed another latent pixel at one place, (..., y, x) of the picture."""
    pipe = family.build()

    def change(module, args, kwargs):
        image = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        new = image.clone()
        if image.ndim == 3:
            grid = torch.zeros(1, 1, family.size[0] // 8, family.size[1] // 8)
            grid[0, 0, *at] = 1
            new[:, pipe._pack_latents(grid, 1, 1, *grid.shape[-2:])[0].sum(-1) > 0] += 5
        else:
            new[:, at[0], :, at[1], at[2]] += 5
        swap = {id(image): new}
        return tuple(swap.get(id(each), each) for each in args), {k: swap.get(id(v), v) for k, v in kwargs.items()}

    if at is not None:
        for root in denoisers(pipe).values():
            root.register_forward_pre_hook(change, with_kwargs=True)
    with entropylab.record(pipe, maps=True, keep=("step", "layer", "head")) as rec:
        family.sample(pipe)
    return layers_of(rec.maps)


@pytest.mark.parametrize(
    ("name", "at", "token", "off"),
    [
        ("FLUX.1", (4, 13), (2, 6), 0),
        ("CogVideoX", (1, 2, 9), (1, 1, 4), 0),
        ("Stable Video Diffusion", (4, 2, 9), (4, 2, 9), 1),
    ],
)
def test_what_changes_at_a_pixel_shows_up_there(name, at, token, off):
    """The row of a token that has changed has other logits everywhere; other rows have one other logit."""
    before, after = (moved(BY_NAME[name], where) for where in (None, at))
    layer = next(layer for layer in before if "text" not in layer)
    change = np.abs(after[layer] - before[layer]).isel(step=0).max(["scaling", "sample", "head"]).values
    found = np.unravel_index(np.argmax(change), change.shape)
    assert np.abs(np.subtract(found, token)).max() <= off


def test_what_is_kept_apart(random_pipe):
    with entropylab.record(random_pipe, maps=True, keep=("layer",)) as rec:
        sample(random_pipe, steps=1)
        assert rec.maps["64x64/16x16"].entropy.notnull().all(), "they can be looked at before the end"
        sample(random_pipe, (64, 96), prompts=("a red car",), steps=1)
        assert set(rec.maps.children) == {"64x64", "64x96"}
    wide = rec.maps["64x96/16x24"]
    assert wide.entropy.dims == ("scaling", "sample", "layer", "y", "x")
    assert wide.sizes["sample"] == 1
    assert rec.maps["64x64/16x16"].prompt.values.tolist() == ["a red car", "a blue house"]


def test_what_is_held_does_not_grow_with_steps(random_pipe):
    def grown(**options):
        """How many numbers are held two steps later that were not held before."""
        held = []

        def look(pipe, step, time, arguments):
            gc.collect()
            held.append(sum(each.numel() for each in gc.get_objects() if isinstance(each, torch.Tensor)))
            return arguments

        with entropylab.record(random_pipe, **options):
            sample(random_pipe, steps=4, callback_on_step_end=look)
        return held[3] - held[1]

    without, maps = grown(), 4 * (6 * 16 * 16 + 8 * 8 * 8)
    assert abs(grown(maps=True) - without) < maps / 4
    assert grown(maps=True, keep=("branch", "sample", "step", "layer", "head")) - without > 2 * maps


def test_measured_and_opened_again(random_pipe, tmp_path):
    """Words of some prompts, batch by batch: the samples of others are NaN."""
    path, rules = tmp_path / "maps.nc", ["original", "sqrt_log"]
    options = {"prompts": PROMPTS, "steps": 1, "batch_size": 1, "progress": False, "layers": "*down_blocks.1*"}
    ds = entropylab.measure(random_pipe, [48], scaling=rules, maps=path, words=["red"], received=True, **options)
    maps = entropylab.open(path)
    group = maps["48x48/6x6"]
    assert ds.attrs.keys() <= {*maps.attrs, "statistics", "unmeasured"}
    assert set(group.data_vars) == {"entropy", "received", "words"}
    assert group.scaling.values.tolist() == rules and group.word.values.tolist() == ["red"]
    known = group.words.sel(branch="cond").isel(layer=1).notnull().all(["word", "y", "x"])
    assert known.values.tolist() == [[True, False]] * 2
    wanted = ds.entropy.sel(layer=group.layer, size="48x48").mean(["step", "head"])
    np.testing.assert_allclose(group.entropy.mean(["y", "x"]), wanted.transpose("scaling", ...), atol=2e-5)
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
    groups = [group for size in rec.maps.children.values() for group in size.children.values()]
    placed = {str(layer) for group in groups for layer in group.layer.values}
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


def test_maps_that_were_not_asked_for(random_pipe):
    with entropylab.record(random_pipe) as rec:
        sample(random_pipe, (32, 32), steps=1)
    with pytest.raises(EntropyLabError, match="maps=True"):
        _ = rec.maps
    with pytest.raises(EntropyLabError, match="text encoder"), entropylab.record(random_pipe.unet, words="red"):
        pass
