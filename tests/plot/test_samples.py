"""Pictures side by side, by what was drawn."""

import numpy as np
import pytest

from entropylab import plot
from entropylab.errors import EntropyLabError


def test_pictures_stand_in_a_grid(ax) -> None:
    rng = np.random.default_rng(0)
    small, tall = rng.random((2, 4, 4, 3)), rng.integers(0, 256, (2, 12, 8, 3), dtype=np.uint8)
    assert plot.samples([small, tall], ax, rows=["small", "tall"], columns=["a cat", "a very long prompt"]) is ax
    shown = ax.images
    np.testing.assert_allclose(shown[1].get_array(), small[1])
    np.testing.assert_array_equal(shown[2].get_array(), tall[0])
    assert {image.get_interpolation() for image in shown} == {"nearest"}
    left, right, bottom, top = np.transpose([image.get_extent() for image in shown])
    np.testing.assert_allclose(right - left, 1)
    np.testing.assert_allclose(bottom - top, [1, 1, 1.5, 1.5])
    assert bool((top[2:] > bottom[:2]).all()), "rows do not overlap"
    assert left[1] > right[0], "columns do not overlap"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["small", "tall"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a cat", "a very long\nprompt"]
    assert ax.get_ylim() == (pytest.approx(bottom[-1]), 0)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([], {}, "rows of equally many pictures"),
        ([[]], {}, "rows of equally many pictures"),
        ([[np.zeros((2, 2))], []], {}, r"equally many pictures. Got \[1, 0\]"),
        ([[np.zeros((2, 2, 5))]], {}, r"Got shape \(2, 2, 5\) of float64"),
        ([[np.zeros((2, 2), int)]], {}, "of int64"),
        ([[np.zeros((2, 2))]], {"rows": ["a", "b"]}, "rows must be a label for each of 1. Got 2"),
        ([[np.zeros((2, 2))]], {"columns": []}, "columns must be a label for each of 1. Got 0"),
    ],
)
def test_what_is_no_grid_of_pictures(ax, images, options: dict, message: str) -> None:
    with pytest.raises(EntropyLabError, match=message):
        plot.samples(images, ax, **options)
    assert not ax.images
