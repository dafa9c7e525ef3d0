"""Joint attention in a Dataset: every variable against maps in float64, and a part of the rows."""

import numpy as np
import pytest
import torch

import entropylab

from ..joints import PARTS, inputs, lengths, new_joint, wanted

STATISTICS = ["entropy", "sigma2", "lse", "mean", "third", "fourth", "sensitivity"]


def recorded(model, given, **options):
    with entropylab.record(model, **options) as rec, torch.no_grad():
        model(**given)
    assert rec.unmeasured == {}
    return rec.dataset


@pytest.mark.parametrize("registers", [3, 0])
def test_every_variable_of_every_part(registers):
    model = new_joint(("other", "text", "reference", "image") if registers else "shuffled", registers)
    given, parts = inputs(encoder_attention_mask=lengths(7, 7, 4)), ["image", "text"]
    if registers:
        given["ref_hidden_states"] = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(9))
        parts = [*PARTS]
    ds = recorded(model, given, statistics=STATISTICS)
    assert sorted(ds.layer.values) == sorted(f"model.blocks.{index}:{part}" for index in range(2) for part in parts)
    for index, (call,) in enumerate(model.calls()):
        for part in parts:
            one = ds.sel(layer=f"model.blocks.{index}:{part}").squeeze(("size", "scaling", "branch", "step"))
            assert (one.part, one.kind) == (part, "joint")
            assert int(one.rows) == int(max((call.codes == PARTS.index(part)).sum(1)))
            for name, numbers in wanted(call, part).items():
                measured = one[name].transpose("sample", "head")
                np.testing.assert_allclose(measured, numbers, rtol=3e-4, atol=1e-4, err_msg=name)
    assert not np.allclose(measured, wanted(call, "image")[name], atol=1e-3), "another part must not pass"
    every = recorded(model, given, rows=1000)
    np.testing.assert_array_equal(every.entropy, ds.entropy, "as many rows as there are are all of them")
    assert float(every.entropy_se.max()) == 0


def test_half_of_the_rows_give_nearly_the_same():
    given = inputs(300, 60, encoder_attention_mask=lengths(60, 60, 35))
    usual, half = (recorded(new_joint("shuffled"), given, **options) for options in ({}, {"rows": 180}))
    for part, few in (("image", 150), ("text", 30)):
        one, other = (ds.isel(layer=ds.part.values == part) for ds in (usual, half))
        assert float(abs(other.rows - few).max()) < 12 and float(other.entropy_se.max()) > 0
        assert float((abs(one.entropy - other.entropy) - 5 * other.entropy_se).max()) < 1e-5
        total = other.entropy_between + other.entropy_from_image + other.entropy_from_text + other.entropy_from_other
        np.testing.assert_allclose(total, other.entropy, atol=1e-5)
        np.testing.assert_allclose(other.mass_image + other.mass_text, 1, atol=1e-5)
        np.testing.assert_array_equal(one.keys_image, other.keys_image)
