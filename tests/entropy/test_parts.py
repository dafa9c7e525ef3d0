"""Rows whose keys fall into parts: the chain rule, and every statistic of the whole from those of the parts."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entropylab.entropy import STATISTICS, row_statistics
from entropylab.entropy.sums import joined, needed

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
    assert (found.within.sum(0) - plain(q, k, mask=mask)["entropy"].nan_to_num(0)).abs().max() > 0.1


def test_parts_far_apart_in_their_logits():
    """Text may have logits thousands above those of the image: its weight is then 1, and nothing overflows."""
    q, k, _, codes = random_rows(6, 12, 2, 1.0, "none")
    mask = torch.zeros(1, 1, 1, 12, dtype=torch.float64).masked_fill(codes == 1, 5000.0)
    found = in_parts(q, k, mask, codes, STATISTICS)
    np.testing.assert_allclose(found.mass[1], 1.0)
    np.testing.assert_allclose(found.whole.entropy, plain(q, k, mask=mask)["entropy"], rtol=1e-9)
