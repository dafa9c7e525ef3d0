"""What goes wrong inside of attention: NaN and infinity in q or k are counted and named; too little memory is met."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import entropylab
from entropylab import EntropyLabError
from entropylab.capture import AttentionCall
from entropylab.entropy import native, row_statistics, sums
from entropylab.entropy.rows import Rows
from entropylab.entropy.sums import head_sums, summed, sums_and_rows
from entropylab.errors import EntropyLabWarning
from entropylab.measuring.reduce import Reduction

from ..runs.stub import Stub, measure
from ..sampling import sample

STATISTICS = ("entropy", "sigma2", "third")


def attention(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None = None) -> AttentionCall:
    return AttentionCall("layer", torch.nn.Identity(), query, key, mask, 0.5, False)


def tensors(heads: int = 2, key_heads: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(3, heads, 7, 8), torch.randn(3, key_heads, 5, 8)


def reduced(call: AttentionCall, **options: object) -> dict[str, torch.Tensor]:
    """Entries by name, each (batch, heads)."""
    reduction = Reduction(STATISTICS, **options)
    (found,) = reduction(call).values()
    entries = reduction.entries(found.sums.flatten(0, 1), found.parts, found.fraction)
    values = entries.unflatten(1, call.query.shape[:2]).float()
    return dict(zip(reduction.names, values, strict=False))


@pytest.mark.parametrize(
    ("bad", "masked", "rows"),
    [(torch.nan, False, None), (torch.nan, True, 6), (torch.inf, True, None), (-torch.inf, False, 6)],
)
def test_a_bad_query_spoils_its_row_alone(bad: float, masked: bool, rows: int | None) -> None:
    query, key = tensors()
    mask = torch.ones(7, 5, dtype=torch.bool).tril(3) if masked else None
    plain = reduced(attention(query, key, mask), rows=rows)
    spoiled = query.clone()
    spoiled[1, 0, 2, 3] = bad
    found = reduced(attention(spoiled, key, mask), rows=rows)
    counted = 6 if rows else 7
    assert plain["rows_bad"].sum() == 0
    assert found["rows_bad"].sum() == found["rows_bad"][1, 0] == 1
    assert found["rows"][1, 0] == counted - 1
    assert plain["rows"].eq(counted).all()
    for name in STATISTICS:
        assert found[name].isfinite().all()
        others = torch.ones(3, 2, dtype=torch.bool)
        others[1, 0] = False
        torch.testing.assert_close(found[name][others], plain[name][others], rtol=1e-5, atol=1e-5)
        assert (found[name] - plain[name])[1, 0].abs() > 1e-4
    if rows is None:
        left = [0, 1, 3, 4, 5, 6]
        part = mask[left] if mask is not None else None
        expected = reduced(attention(query[:, :, left], key, part))["entropy"][1, 0]
        torch.testing.assert_close(found["entropy"][1, 0], expected, rtol=1e-5, atol=1e-5)


def test_bad_rows_are_counted_by_layer_and_named_in_the_result() -> None:
    pipe = Stub()

    def spoil(hidden: torch.Tensor) -> torch.Tensor:
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
        online = measure(None, pipe, sizes=[32], scaling="original", keep=("layer",))
    assert np.isfinite(online.entropy).all()


def test_a_layer_that_is_bad_throughout_is_named_all_the_same(tmp_path: object) -> None:
    pipe = Stub()
    pipe.unet.spoil = lambda hidden: hidden * torch.nan
    with pytest.warns(EntropyLabWarning, match=r"unet.attn1 \(256 rows\)"):
        ds = measure(tmp_path / "run", pipe, sizes=[32], scaling="original")
    assert list(ds.layer.values) == ["unet.attn1"]
    assert int(ds.rows_bad.sum()) == 8 * 2 * 16
    assert int(ds.rows_bad.sum()) == int(entropylab.open(tmp_path / "run").rows_bad.sum())
    assert ds.entropy.isnull().all()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device that has room for 3 rows at once; how many rows it was asked for each time."""
    sizes: list[int] = []
    at_once = sums.at_once

    def small(rows: Rows, *rest: object) -> object:
        sizes.append(rows.q.shape[-2])
        if rows.q.shape[-2] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return at_once(rows, *rest)

    monkeypatch.setattr(native, "why_not_tensors", lambda q, k: "a device")
    monkeypatch.setattr(sums, "at_once", small)
    return sizes


@pytest.mark.parametrize("kind", ["none", "boolean", "additive", "one row", "causal", "causal and boolean"])
def test_where_memory_is_short_rows_are_asked_for_in_pieces(kind: str, asked: list[int]) -> None:
    query, key = tensors()
    mask = {
        "boolean": torch.ones(7, 5, dtype=torch.bool).tril(2),
        "additive": torch.randn(3, 1, 7, 5),
        "one row": torch.tensor([[True, True, False, True, True]]),
        "causal and boolean": torch.tensor([[True, True, True, False, True]]),
    }.get(kind)
    counted = torch.tensor([True, True, False, True, True, True, True])
    rows = Rows(query, key, 0.5, mask, kind.startswith("causal"), ("entropy", "third"))
    whole = row_statistics(
        query, key, scale=0.5, mask=mask, is_causal=rows.is_causal, statistics=("entropy", "mean", "third")
    )
    expected = summed(whole, rows.statistics, counted)
    found = head_sums(rows, counted)
    assert asked == [7, 3, 4, 2, 2]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(found, head_sums(replace(rows, scale=0.6), counted), atol=1e-3)


@pytest.mark.parametrize("is_causal", [False, True])
def test_where_memory_is_short_rows_of_maps_stay_in_their_order(is_causal: bool, asked: list[int]) -> None:
    query, key = tensors()
    counted = torch.tensor([True, True, False, True, True, True, True])
    whole = row_statistics(query, key, scale=0.5, is_causal=is_causal, statistics=("entropy", "mean"))
    found, of_rows = sums_and_rows(Rows(query, key, 0.5, None, is_causal, ("entropy",)), ("entropy",), counted)
    entropy = of_rows["entropy"]
    assert asked == [7, 3, 4, 2, 2]
    torch.testing.assert_close(found, summed(whole, ("entropy",), counted), rtol=1e-5, atol=1e-4)
    assert entropy[..., 2].isnan().all() and entropy[..., counted].isfinite().all()
    torch.testing.assert_close(entropy[..., counted], whole["entropy"][..., counted], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(entropy.roll(1, -1)[..., counted], whole["entropy"][..., counted], atol=1e-3)


def test_maps_are_made_where_memory_is_short(random_pipe: object, asked: list[int]) -> None:
    with entropylab.record(random_pipe, maps=True, layers="*mid_block*attn1") as rec:
        sample(random_pipe, (32, 32), steps=1)
    assert rec.unmeasured == {} and max(asked) > 3 >= min(asked)
    (size,) = rec.maps.children.values()
    (group,) = size.children.values()
    wanted = rec.dataset.entropy.isel(size=0).mean(["head", "step"]).transpose(*group.entropy.dims[:-2])
    np.testing.assert_allclose(group.entropy.mean(["y", "x"]), wanted, atol=2e-5)


def test_measuring_goes_on_where_memory_is_short(asked: list[int]) -> None:
    ds = measure(sizes=[32], scaling="original")
    assert min(asked) <= 3 < max(asked)
    assert np.isfinite(ds.entropy).all()


def test_no_room_for_a_single_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*arguments: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(native, "why_not_tensors", lambda q, k: "a device")
    monkeypatch.setattr(sums, "at_once", nothing)
    with pytest.raises(torch.OutOfMemoryError):
        head_sums(Rows(*tensors(), 0.5, None, False, ("entropy",)))


@pytest.mark.parametrize("long", [True, False])
def test_sampling_without_room_says_which_size(long: bool, tmp_path: object) -> None:
    pipe = Stub()

    def full(pipe: Stub) -> None:
        if pipe.calls == 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    pipe.on_call = full
    with pytest.raises(EntropyLabError, match="size 32x48 has no room on the GPU with 2 images.*lower batch_size") as e:
        measure(tmp_path / "run" if long else None, pipe, scaling="original")
    if long:
        with pytest.warns(EntropyLabWarning, match="32x48 original 2 of 8 samples"):
            assert entropylab.open(tmp_path / "run").sizes["size"] == 2
    else:
        assert e.value.dataset.sizes["size"] in (1, 2)
