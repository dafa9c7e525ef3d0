"""What is said of runs side by side."""

import numpy as np
import pytest

from entropylab.reporting.readings import compare

from .said import NAN, said


def test_slopes_side_by_side() -> None:
    told = said(compare.slopes({"a": (0.75, 0.003, 3), "b": (0.95, 0.004, 3)}))
    assert "0.75 (a) and 0.95 (b)" in told
    assert "a and b differ by more than their errors" in told
    assert "a and b can't be told apart" in said(compare.slopes({"a": (0.75, 0.2, 3), "b": (0.95, 0.3, 3)}))
    assert "an error is not known" in said(compare.slopes({"a": (0.75, NAN, NAN), "b": (0.95, 0.3, 3)}))


def test_the_difference_of_two_numbers_is_welchs() -> None:
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1, 7), rng.normal(0.5, 2, 5)
    errors = tuple(values.std(ddof=1) / np.sqrt(len(values)) for values in (one, other))
    p = compare.difference((one.mean(), other.mean()), errors, (6, 4))
    assert p == pytest.approx(ttest_ind(one, other, equal_var=False).pvalue)
    assert p != pytest.approx(ttest_ind(one, other).pvalue)


def test_what_is_common() -> None:
    assert said(compare.common({"a": True, "b": True}, "x", "y")) == "In all of these runs x."
    assert said(compare.common({"a": False, "b": False}, "x", "y")) == "In all of these runs y."
    assert said(compare.common({"a": True, "b": False}, "x", "y")) == "In a x; in b y: there they differ."
    assert "76% (a) and 10% (b)" in said(compare.freezing({"a": 0.76, "b": 0.1}))
    assert "no proof" in compare.caution(2)
