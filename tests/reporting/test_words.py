"""Numbers in words."""

import numpy as np
import pytest

from entropylab.reporting import words

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.7586, "0.759"), (-0.5, "−0.5"), (223.499, "223"), (1.0, "1.00"), (12345.6, "12346"), (0, "0")),
        *((NAN, "–"), (np.inf, "∞"), (-np.inf, "−∞"), (3e7, "3e+07")),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert words.number(value) == text


def test_columns() -> None:
    assert [words.fixed(value) for value in (0.5, -0.5, 1234.5, NAN)] == ["0.500", "−0.500", "1234", "–"]
    assert [words.whole(value) for value in (12, 1234, 2e6, np.inf, NAN)] == ["12", "1 234", "2e06", "∞", "–"]
    assert [words.percent(value) for value in (0.5, 0.004, 0.996, -0.001, NAN, 1, 300)] == [
        *("50%", "0.4%", "99.6%", "0%", "–", "100%", "30000%")
    ]
    assert (words.with_error(0.5, 0.01), words.with_error(0.5, NAN)) == ("0.500 ± 0.010", "0.500")
    assert [words.probability(p) for p in (0.03, 1e-9, NAN)] == ["p = 0.03", "p < 0.0001", "not known"]


def test_ranges_and_lists() -> None:
    assert [words.span(ends) for ends in ((2, NAN, 1), (1, 1.0001), (NAN,))] == ["1.00 to 2.00", "1.00", "–"]
    assert (words.span((4, 16), "whole"), words.span((0.1, 0.2), "percent")) == ("4 to 16", "10% to 20%")
    assert [words.listed(names) for names in ("ab", "abcdefgh", "")] == ["a and b", "a, b, c, d, e and 3 more", "none"]
