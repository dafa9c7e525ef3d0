"""What is said of the deficit."""

import pytest

from entropylab.reporting.readings import deficit

from .said import NAN, said


def test_the_deficit_against_sizes() -> None:
    assert "rises with N, from 0.5 nats" in said(deficit.against_sizes(0.5, 1.5, 0.3, 0.001))
    assert "falls with N" in said(deficit.against_sizes(1.5, 0.5, -0.3, 0.001))
    assert "can't be told from level (p = 0.4)" in said(deficit.against_sizes(0.5, 0.51, 0.01, 0.4))
    assert "without an error" in said(deficit.against_sizes(0.5, 0.51, 0.01, NAN))


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (1.02, "in which nothing is fitted, holds"),
        (0.8, "roughly right, somewhat too far from uniform"),
        (1.2, "roughly right, somewhat too near uniform"),
        (0.3, "σ²/2 overstates how far from uniform"),
        (3.0, "σ²/2 understates how far from uniform"),
    ],
)
def test_the_deficit_against_sigma2(ratio: float, words: str) -> None:
    told = said(deficit.predicted([ratio, ratio, ratio, NAN]))
    assert words in told
    assert "of 3 rows" in told
    others = ["holds.", "roughly right", "overstates", "understates"]
    assert sum(other in told for other in others) == 1, "one judgement, and no other"


def test_the_deficit_where_nothing_is_flagged() -> None:
    assert "σ² is 0 or unknown" in said(deficit.predicted([NAN]))
    assert "In the 2 rows without a flag, where the law should hold, the ratio is 0.95" in said(
        deficit.unflagged([0.9, 1.0, 9.0], [True, True, False], True)
    )
    assert "unless they are skewed, which was not measured" in said(deficit.unflagged([0.9], [True], False))
    assert "No row is without a flag" in said(deficit.unflagged([0.9], [False], True))


def test_the_order_of_layers() -> None:
    assert "does say which layers" in said(deficit.order(0.9, 10))
    assert "only roughly" in said(deficit.order(0.5, 10))
    assert "does not even say" in said(deficit.order(0.1, 10))
    assert "over only 5 layers" in said(deficit.order(0.9, 5))
    assert deficit.order(0.9, 4) == []
    assert deficit.order(NAN, 9) == []
