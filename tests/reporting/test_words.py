"""Numbers in words, and several tests at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropylab.reporting import words
from entropylab.wording import counted

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.7586, "0.759"), (-0.5, "−0.5"), (223.499, "223"), (1.0, "1.00"), (12345.6, "12346"), (NAN, "–"), (0, "0")],
)
def test_numbers(value: float, text: str) -> None:
    assert words.number(value) == text


def test_other_words() -> None:
    assert words.number(np.inf) == "∞"
    assert words.number(-np.inf) == "−∞"
    assert words.number(3e7, 2) == "3e+07"
    assert words.with_error(0.5, 0.01) == "0.500 ± 0.010"
    assert words.with_error(0.5, NAN) == "0.500"
    assert [words.percent(value) for value in (0.5, 0.004, 0.996, -0.001, NAN, 1)] == [
        *("50%", "0.4%", "99.6%", "0%", "–", "100%")
    ]
    assert (words.probability(0.03), words.probability(1e-9)) == ("p = 0.03", "p < 0.0001")
    assert (words.span(1, 2), words.span(1, 1.0001), words.whole_span(4, 16)) == ("1.00 to 2.00", "1.00", "4 to 16")
    assert (counted(1, "layer"), counted(3, "layer")) == ("1 layer", "3 layers")
    assert words.listed("ab") == "a and b"
    assert words.listed("abcdefgh") == "a, b, c, d, e and 3 more"
    assert words.listed([]) == "none"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_at_least_p_and_at_most_bonferroni(p: list[float]) -> None:
    corrected = words.holm(p)
    assert (corrected >= np.array(p) - 1e-12).all()
    assert (corrected <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all()


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(words.holm([0.01, 0.04, 0.03, NAN]), [0.03, 0.06, 0.06, NAN])
    assert words.holm([0.02, 0.5])[0] == 0.04, "and not 0.02"
