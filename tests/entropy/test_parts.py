"""Rows whose keys fall into parts: the chain rule, and every statistic of the whole from those of the parts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import entropylab
from entropylab.entropy import STATISTICS, row_statistics
from entropylab.entropy.parts import joined, needed

from ..joints import PARTS, inputs, lengths, new_joint, wanted
from .kernel import plain


def random_rows(seed: int, keys: int, parts: int, spread: float, kind: str):
    """q, k, a mask that may close whole rows and whole parts, and which part each key is of."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(2, 2, 5, 4, generator=generator, dtype=torch.float64) * spread
    k = torch.randn(2, 2, keys, 4, generator=generator, dtype=torch.float64)
    codes = torch.randint(parts, (keys,), generator=generator)
    left = torch.rand(2, 1, 5, keys, generator=generator) > 0.4
    left[0, 0, 0] = False
    left[1, 0, 1] = codes == codes[0]
    if kind == "none":
        return q, k, None, codes
    if kind == "boolean":
        return q, k, left, codes
    bias = torch.randn(2, 1, 5, keys, generator=generator, dtype=torch.float64) * 30
    return q, k, bias.masked_fill(~left, -10000.0 if kind == "additive" else -torch.inf), codes


def in_parts(q, k, mask, codes, statistics):
    """The rows by the parts of their keys."""
    found = []
    for code in codes.unique().tolist():
        chosen = codes == code
        own = {"mask": None if mask is None else mask[..., chosen], "statistics": needed(statistics)}
        found.append(row_statistics(q, k[..., chosen, :], **own))
    return joined(found)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    keys=st.integers(1, 20),
    parts=st.integers(1, 4),
    spread=st.sampled_from([0.0, 0.3, 3.0, 100.0]),
    kind=st.sampled_from(["none", "boolean", "additive", "infinite"]),
)
def test_the_whole_from_its_parts_and_the_chain_rule(seed, keys, parts, spread, kind):
    q, k, mask, codes = random_rows(seed, keys, parts, spread, kind)
    found, exact = in_parts(q, k, mask, codes, STATISTICS), plain(q, k, mask=mask)
    for name in (*STATISTICS, "keys"):
        size = float(exact[name].nan_to_num(0).abs().max())
        np.testing.assert_allclose(found.whole[name], exact[name], rtol=1e-7, atol=1e-10 * max(size, 1), err_msg=name)
    total = found.between + found.within.sum(0)
    np.testing.assert_allclose(total, exact["entropy"].nan_to_num(0), atol=1e-9)
    np.testing.assert_allclose(found.mass.sum(0), (found.whole.keys > 0).double(), atol=1e-12)
    assert bool((found.between >= 0).all())
    assert bool((found.between <= np.log(len(found.rows)) + 1e-12).all())


def test_the_chain_rule_without_what_is_between_the_parts_fails():
    q, k, mask, codes = random_rows(3, 12, 3, 0.3, "boolean")
    found = in_parts(q, k, mask, codes, ("entropy",))
    expected = plain(q, k, mask=mask)["entropy"].nan_to_num(0)
    assert float((found.within.sum(0) - expected).abs().max()) > 0.1


def test_a_part_without_keys_changes_nothing():
    q, k, mask, codes = random_rows(5, 10, 1, 1.0, "none")
    alone = in_parts(q, k, mask, codes, STATISTICS)
    closed = torch.zeros(2, 1, 5, 10, dtype=torch.bool)
    nothing = row_statistics(q, k, mask=closed, statistics=needed(STATISTICS))
    both = joined([*alone.rows, nothing])
    for name in STATISTICS:
        np.testing.assert_allclose(both.whole[name], alone.whole[name], rtol=1e-12)
    assert float(both.between.abs().max()) == 0
    none = joined([nothing, nothing]).whole
    assert all(bool(none[name].isnan().all()) for name in STATISTICS)
    assert int(none.keys.max()) == 0


def test_parts_far_apart_in_their_logits():
    """Text may have logits thousands above those of the image: its weight is then 1, and nothing overflows."""
    q, k, _, codes = random_rows(6, 12, 2, 1.0, "none")
    mask = torch.zeros(1, 1, 1, 12, dtype=torch.float64).masked_fill(codes == 1, 5000.0)
    found = in_parts(q, k, mask, codes, STATISTICS)
    np.testing.assert_allclose(found.mass[1], 1.0)
    np.testing.assert_allclose(found.whole.entropy, plain(q, k, mask=mask)["entropy"], rtol=1e-9)


STATISTICS_OF_DATASET = ["entropy", "sigma2", "lse", "mean", "third", "fourth", "sensitivity"]
LAYOUTS = {
    "text first": {"order": ("text", "image")},
    "text last": {"order": ("image", "text")},
    "registers and references": {"order": ("other", "text", "reference", "image"), "registers": 3},
    "shuffled": {"order": "shuffled"},
    "text around the image": {"order": "middle"},
}


def recorded(model, given, **options):
    with entropylab.record(model, **options) as rec, torch.no_grad():
        model(**given)
    assert rec.unmeasured == {}
    return rec.dataset, model.calls()


def given_for(layout, masked):
    more = {"encoder_attention_mask": lengths(7, 7, 4)} if masked else {}
    if "reference" in layout["order"]:
        more["ref_hidden_states"] = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(9))
    return inputs(**more)


@pytest.mark.parametrize(("layout", "masked"), [(layout, layout != "text last") for layout in LAYOUTS])
def test_every_variable_of_joint_layers_against_float64_maps(layout, masked):
    model = new_joint(**LAYOUTS[layout])
    ds, calls = recorded(model, given_for(LAYOUTS[layout], masked), statistics=STATISTICS_OF_DATASET)
    parts = ["image", "text", *(["reference", "other"] if "reference" in LAYOUTS[layout]["order"] else [])]
    assert sorted(ds.layer.values) == sorted(f"model.blocks.{i}:{part}" for i in range(2) for part in parts)
    for index, (call,) in enumerate(calls):
        for part in parts:
            one = ds.sel(layer=f"model.blocks.{index}:{part}").squeeze(("size", "scaling", "branch", "step"))
            assert str(one.part.item()) == part
            assert str(one.kind.item()) == "joint"
            agree(one, wanted(call, part))
            assert int(one.rows) == int(max((call.codes == PARTS.index(part)).sum(1)))


def agree(one, expected):
    for name, numbers in expected.items():
        measured = one[name].transpose("sample", "head")
        np.testing.assert_allclose(measured, numbers, rtol=3e-4, atol=1e-4, err_msg=name)


def test_agreement_would_notice_parts_that_are_mixed_up():
    model = new_joint()
    ds, calls = recorded(model, inputs(), statistics=STATISTICS_OF_DATASET)
    one = ds.sel(layer="model.blocks.0:image").squeeze(("size", "scaling", "branch", "step"))
    with pytest.raises(AssertionError):
        agree(one, wanted(calls[0][0], "text"))


@pytest.mark.parametrize("layout", ["registers and references", "shuffled"])
def test_as_many_rows_as_there_are_give_the_same(layout):
    """``rows`` of all of them, or of more, are all of them."""
    given = given_for(LAYOUTS[layout], masked=True)
    usual, _ = recorded(new_joint(**LAYOUTS[layout]), given)
    many, _ = recorded(new_joint(**LAYOUTS[layout]), given, rows=1000)
    for name in usual.data_vars:
        np.testing.assert_array_equal(usual[name], many[name], err_msg=name)
    assert float(many.entropy_se.max()) == 0


def test_half_of_the_rows_give_nearly_the_same():
    """Every variable, by half of the rows, is as near to that by all as its standard error says."""
    model = new_joint("shuffled")
    given = inputs(300, 60, encoder_attention_mask=lengths(60, 60, 35))
    usual, _ = recorded(model, given)
    half, _ = recorded(model, given, rows=180)
    for part in ("image", "text"):
        one, other = (ds.isel(layer=ds.part.values == part) for ds in (usual, half))
        error = other.entropy_se
        few = 30 if part == "text" else 150
        assert float(abs(other.rows - few).max()) < 12
        assert float(error.max()) > 0
        assert float((abs(one.entropy - other.entropy) - 5 * error).max()) < 1e-5
        total = other.entropy_between + other.entropy_from_image + other.entropy_from_text + other.entropy_from_other
        np.testing.assert_allclose(total, other.entropy, atol=1e-5)
        np.testing.assert_allclose(other.mass_image + other.mass_text, 1, atol=1e-5)
        np.testing.assert_array_equal(one.keys_image, other.keys_image)
        np.testing.assert_array_equal(one.tokens, other.tokens)
