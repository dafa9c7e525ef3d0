"""What is said of drift, and of what rules remove."""

import pytest

from entropylab.reporting.readings import rules

from .said import NAN, said


def test_drift() -> None:
    told = said(rules.drift(["32x32", "128x128"], [-0.9, 1.1], "64x64"))
    assert "training size 64x64 the mean entropy drifts by −0.9 nats at 32x32 and +1.1 nats at 128x128" in told
    assert "3 layers drift up and 2 down" in said(rules.opposite(2, 3, "128x128"))
    assert rules.opposite(0, 3, "128x128") == []


@pytest.mark.parametrize(
    ("fractions", "words"),
    [
        ([0.14, 0.16], "it helps, and most of the drift stays"),
        ([0.3, 0.7], "more at some sizes than others"),
        ([0.9, 1.02], "holds entropy nearly steady"),
        ([0.9, 1.4], "goes too far"),
        ([-0.2, -0.1], "it makes the drift worse"),
        ([-0.2, 0.3], "at some sizes it makes the drift worse"),
    ],
)
def test_what_a_rule_removes(fractions: list[float], words: str) -> None:
    assert words in said(rules.removed("sqrt_log", fractions, fractions))


def test_what_the_law_says_of_the_rule() -> None:
    assert "84% in the median layer" in said(rules.removed("sqrt_log", [0.1], [0.1], 0.84))
    assert "more than all and shows that the law does not describe" in said(
        rules.removed("sqrt_log", [0.1], [0.1], 1.4)
    )
    assert "Under the law" not in said(rules.removed("0.9", [0.1], [0.1], 0.84)), "it says nothing of other rules"
    assert "entropy did not drift" in said(rules.removed("sqrt_log", [NAN], [NAN]))
    assert "calibrated removes most" in said(rules.best({"sqrt_log": 0.1, "calibrated": 0.9, "x": NAN}))
    assert rules.best({"sqrt_log": 0.1}) == []
