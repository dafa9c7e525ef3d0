"""What goes wrong inside of attention: NaN and infinity in q or k are counted and named; too little memory is met."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr

import entropylab
from entropylab import EntropyLabError, EntropyLabWarning, row_statistics
from entropylab.entropy import native, sums

from ..joints import inputs, new_joint
from ..runs.stub import Stub, measure
from ..sampling import sample
from ..seeds import normal

STATISTICS = ("entropy", "sigma2", "third")


class Plain(torch.nn.Module):
    """Nothing but an attention call."""

    def forward(self, query, key, mask=None, is_causal=False):
        return F.scaled_dot_product_attention(query, key, key, attn_mask=mask, is_causal=is_causal)


def recorded(*given, **options):
    with entropylab.record(layer := Plain(), statistics=STATISTICS, **options) as rec:
        layer(*given)
    return rec.dataset.squeeze(("size", "scaling", "branch", "step", "layer"))


@pytest.mark.parametrize(
    ("bad", "masked", "rows"),
    [(torch.nan, False, None), (torch.nan, True, 6), (torch.inf, True, None), (-torch.inf, False, 6)],
)
def test_a_bad_query_spoils_its_row_alone(bad, masked, rows):
    query, key = normal(3, 2, 7, 8), normal(3, 2, 5, 8, seed=1)
    mask = torch.ones(7, 5, dtype=torch.bool).tril(3) if masked else None
    plain = recorded(query, key, mask, rows=rows)
    spoiled = query.clone()
    spoiled[1, 0, 2, 3] = bad
    with pytest.warns(EntropyLabWarning, match=r"NaN or infinity .* rows_bad"):
        found = recorded(spoiled, key, mask, rows=rows)
    assert (int(plain.rows_bad), int(found.rows_bad)) == (0, 1)
    others = np.ones((3, 2), bool)
    others[1, 0] = False
    for name in STATISTICS:
        ours, theirs = (ds[name].transpose("sample", "head").values for ds in (found, plain))
        np.testing.assert_allclose(ours[others], theirs[others], rtol=1e-5, atol=1e-5)
        assert np.isfinite(ours).all() and abs(ours - theirs)[1, 0] > 1e-4
    if rows is None:
        left = [0, 1, 3, 4, 5, 6]
        wanted = row_statistics(query[1:2, :1, left], key[1:2, :1], mask=None if mask is None else mask[left])
        np.testing.assert_allclose(found.entropy.isel(sample=1, head=0), wanted.entropy.mean(), rtol=1e-5)


def test_bad_rows_are_counted_by_layer_and_named_in_the_result(tmp_path):
    pipe = Stub()

    def spoil(hidden):
        if pipe.calls == 2:
            hidden = hidden.clone()
            hidden[0] = torch.nan
        return hidden

    pipe.unet.spoil = spoil
    with pytest.warns(EntropyLabWarning, match=r"NaN or infinity .* rows_bad: unet.attn1 \(32 rows\)"):
        ds = measure(None, pipe, sizes=[32], scaling="original")
    assert ds.rows_bad.dims == ("size", "layer")
    assert int(ds.rows_bad.sel(layer="unet.attn1").sum()) == 2 * 16
    assert ds.rows_bad.attrs["units"] == "rows"
    finite = np.isfinite(ds.entropy).all(["branch", "step", "layer", "head", "size", "scaling"])
    assert finite.values.tolist() == [sample != 2 for sample in range(8)]
    pipe.calls = 0
    with pytest.warns(EntropyLabWarning, match="rows_bad"):
        assert np.isfinite(measure(None, pipe, sizes=[32], scaling="original", keep=("layer",)).entropy).all()
    pipe.unet.spoil = lambda hidden: hidden * torch.nan
    with pytest.warns(EntropyLabWarning, match=r"unet.attn1 \(256 rows\)"):
        ds = measure(tmp_path / "run", pipe, sizes=[32], scaling="original")
    assert list(ds.layer.values) == ["unet.attn1"]
    assert int(ds.rows_bad.sum()) == int(entropylab.open(tmp_path / "run").rows_bad.sum()) == 8 * 2 * 16
    assert ds.entropy.isnull().all()


@pytest.fixture
def room(monkeypatch):
    """A device that has room for 3 rows at once, or for ``room[0]``; and how many rows it was asked for each time."""
    sizes, at_once = [3], sums.at_once

    def small(rows, *rest):
        sizes.append(rows.q.shape[-2])
        if rows.q.shape[-2] > sizes[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return at_once(rows, *rest)

    monkeypatch.setattr(native, "why_not_tensors", lambda q, k: "a device")
    monkeypatch.setattr(sums, "at_once", small)
    return sizes


MASKS = {
    "none": None,
    "boolean": torch.ones(7, 5, dtype=torch.bool).tril(2),
    "additive": normal(3, 1, 7, 5, seed=2),
    "one row": torch.tensor([[True, True, False, True, True]]),
}


@pytest.mark.parametrize(("kind", "is_causal"), [*((kind, False) for kind in MASKS), ("none", True)])
def test_where_memory_is_short_rows_are_asked_for_in_pieces(kind, is_causal, room):
    query, key = normal(3, 2, 7, 8), normal(3, 2, 5, 8, seed=1)
    given = {"mask": MASKS[kind], "is_causal": is_causal}
    ds = recorded(query, key, *given.values())
    assert room[1:] == [7, 3, 4, 2, 2]
    wanted = row_statistics(query.double(), key.double(), **given, statistics=("entropy", "variance", "third"))
    for name, of_rows in zip(STATISTICS, ("entropy", "variance", "third"), strict=True):
        np.testing.assert_allclose(ds[name].transpose("sample", "head"), wanted[of_rows].mean(-1), rtol=1e-5, atol=1e-4)
    other = row_statistics(query.double(), key.double(), **given, scale=0.4)
    assert abs(ds.entropy.transpose("sample", "head").values - other.entropy.mean(-1).numpy()).max() > 1e-2


def test_maps_are_made_where_memory_is_short_and_rows_stay_in_their_order(random_pipe, room):
    options, maps = {"size": (32, 32), "steps": 1}, []
    for room[0] in (3, 1000):
        with entropylab.record(random_pipe, maps=True, layers="*mid_block*attn1") as rec:
            sample(random_pipe, **options)
        assert rec.unmeasured == {}
        maps.append(rec.maps["32x32/4x4"].entropy)
    assert min(room[1:]) <= 3 < max(room)
    np.testing.assert_allclose(maps[0], maps[1], atol=2e-5)
    assert abs(maps[0].roll(x=1) - maps[1]).max() > 1e-3


def test_rows_that_count_are_the_same_ones_where_memory_is_short(room):
    """Rows of the image and of the text, which stand elsewhere in every sample."""
    found = []
    for room[0] in (3, 1000):
        with entropylab.record(model := new_joint("shuffled")) as rec, torch.no_grad():
            model(**inputs())
        found.append(rec.dataset.drop_attrs())
    assert min(room[1:]) <= 3 and set(found[0].part.values) == {"image", "text"}
    xr.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)


def test_no_room_for_a_single_row(room):
    room[0] = 0
    with pytest.warns(EntropyLabWarning, match="out of memory"), entropylab.record(layer := Plain()) as rec:
        layer(normal(1, 2, 7, 8), normal(1, 2, 5, 8))
    assert set(rec.unmeasured) == {"model"}


def on_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")


def on_the_host():
    torch.empty(2**60)


@pytest.mark.parametrize(("long", "fill"), [(True, on_a_gpu), (False, on_a_gpu), (False, on_the_host)])
def test_sampling_without_room_says_which_size(long, fill, tmp_path):
    pipe = Stub()

    def full(pipe):
        if pipe.calls == 6:
            fill()

    pipe.on_call = full
    with pytest.raises(EntropyLabError, match="size 32x48 has no room in memory with 2 images.*lower batch_size") as e:
        measure(tmp_path / "run" if long else None, pipe, scaling="original")
    if long:
        with pytest.warns(EntropyLabWarning, match="32x48 original 2 of 8 samples"):
            assert entropylab.open(tmp_path / "run").sizes["size"] == 2
    else:
        assert e.value.dataset.sizes["size"] in (1, 2)
