"""What is said of the checks of the law."""

from entropylab.reporting.readings import checks

from .said import NAN, said


def test_in_how_many_layers_the_law_holds() -> None:
    told = said(checks.law(["a", "b", "c"], [0.05, 0.5, 3.0], 0.1))
    assert "within 0.1 nats of the measured entropy in 1 of 3 layers (a)" in told
    assert "off by 0.5 nats in the median layer and by 3.0 in the worst, c" in told
    assert "in 2 of 3 layers (a and b)" in said(checks.law(["a", "b", "c"], [0.05, 0.5, 3.0], 1.0))


def test_flags() -> None:
    assert "None of 8 rows" in said(checks.flags({"small N": 0}, 8, 8))
    told = said(checks.flags({"small N": 4, "skewed": 0}, 8, 4))
    assert "50% are flagged (small N in 50%): there the law can be off" in told
    told = said(checks.flags({"near freezing": 8}, 8, 0))
    assert "is off does not refute it, but it does not describe this model" in told


def test_rows_without_a_flag() -> None:
    assert "where it should hold, it does" in said(checks.free_rows([0.01, 0.05], 0.1, True))
    assert "exceptions that no flag foresees" in said(checks.free_rows([0.01, 0.05, 0.5], 0.1, True))
    assert "more than simulation allows" in said(checks.free_rows([0.3, 0.5], 0.1, True))
    assert "may be skewed, which was not measured" in said(checks.free_rows([0.3, 0.5], 0.1, False))
    assert "the exceptions may be skewed" in said(checks.free_rows([0.01, 0.05, 0.5], 0.1, False))
    assert checks.free_rows([], 0.1, True) == []


def test_skewness_and_kurtosis() -> None:
    assert "that is most of the reason" in said(checks.series(0.8, 0.7, 0.9))
    assert "part of the reason, and not most" in said(checks.series(0.3, 0.2, 0.9))
    assert "because in cold rows the terms of the series grow" in said(checks.series(0.8, -3, 0.9))
    assert "nearer to the entropy in 73% of these rows, but where its terms are large" in said(
        checks.series(-1, -9, 0.73)
    )
    assert "in 20% of these rows only" in said(checks.series(-1, -9, 0.2))
    assert "is of no use" in said(checks.series(NAN, -9, NAN))
    assert "--statistics entropy,sigma2,third,fourth" in checks.no_series()


def test_finite_n() -> None:
    assert "from 0.3 to 0.1 nats in the 4 of 9 rows where that can be computed: it helps" in said(
        checks.finite(0.1, 0.3, 4, 9)
    )
    assert "it does not help" in said(checks.finite(0.3, 0.3, 4, 9))
    assert "can't be computed anywhere" in said(checks.finite(NAN, NAN, 0, 9))


def test_the_smallest_n() -> None:
    told = said(checks.smallest(["a", "b"], [64, NAN], [64, 256], [1024, 1024], 0.1, 3))
    assert "holds within 0.1 nats in 1 of 2 layers: a from N = 64" in told
    assert "In the other 1 it is off at the largest N too" in told
    assert "in 2 of 2 layers (from N = 64 to 256 on, by layer)" in told
    told = said(checks.smallest(["a", "b"], [NAN, NAN], [NAN, NAN], [256, 1024], 0.1, 3))
    assert "In none of 2 layers is the law within 0.1 nats at the largest N measured (256 to 1024)" in told
    assert "in 0 of 2 layers." in told
    assert "because only one size was measured" in said(checks.smallest(["a"], [64], [NAN], [64], 0.1, 1))
