"""What is said of heads, steps and phases."""

import numpy as np

from entropylab.reporting.readings import places

from .said import NAN, said


def test_heads() -> None:
    values = np.array([[0.1, 0.2], [0.97, NAN]])
    told = said(places.heads(["a", "b"], values, "64x64"))
    assert "between 0.1 (a, head 0) and 0.97 (b, head 0) of log N over 3 heads" in told
    assert "mostly layers differ" in told
    assert "1 head is nearly uniform (above 0.95) and 2 heads are concentrated on few keys (below 0.3)" in told
    assert "heads of one layer differ more" in said(places.heads(["a", "b"], np.array([[0.1, 0.9], [0.2, 0.8]]), "x"))
    assert np.isnan(places.within_layers(values[:1]))
    assert places.within_layers(np.array([[0.0, 1.0], [0.0, 1.0]])) == 1


def test_steps() -> None:
    told = said(places.steps(["a", "b"], [3.0, 2.0], [2.0, 2.1], 6, "64x64"))
    assert "mean entropy falls by 0.45 nats; most in a (−1.0)" in told
    assert "rises in 1 of 2 layers and falls in 1" in told
    assert "only with the same steps" in told
    assert len(places.steps(["a"], [3.0], [3.1], 6, "64x64")) == 1


def test_the_phase_picture() -> None:
    told = said(places.phase([0.1, 0.3, 2.0, 3.0, 4.0, NAN], 0.22))
    assert "60% of 5 rows are past the freezing line" in told
    assert "20% more are near it (past 0.22 of it), and 20% are below" in told
    assert "not an approximation of anything" in told
    assert "is not what the law would fail by" in said(places.phase([0.1] * 20, 0.22))
    assert "no row has more than one key" in said(places.phase([NAN], 0.22))
    assert "1 of 2 layers move away" in said(places.warming([1.0, 0.2], [0.5, 0.3]))
