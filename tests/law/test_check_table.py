"""The table of a check: grouped by layers, heads, sizes."""

import numpy as np
import pytest

from entropylab import EntropyLabError, check
from entropylab.law.check_table import grouped

from ..datasets import NOISY, synthetic


def test_groups_of_layers_are_the_layers_of_the_check() -> None:
    found = check(synthetic(cumulants=True, **NOISY))
    layers, own = found.layers(), grouped(found)
    for name in set(own) & set(layers) - {"layer", "tokens"}:
        np.testing.assert_allclose(own[name].astype(float), layers[name].astype(float), err_msg=name)
    heads = grouped(found, ["layer", "head"])
    assert len(heads) == 32
    assert heads["law_off"].nunique() > len(own)
    assert grouped(found, ("layer", "head", "size"))["rows"].eq(1).all()
    with pytest.raises(EntropyLabError, match="by must be some of layer, size, each once. Got 'head'"):
        grouped(check(synthetic().mean("head", keep_attrs=True)), "head")
