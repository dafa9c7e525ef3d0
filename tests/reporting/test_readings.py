"""What reports say: sentences from numbers, each with numbers of which it says something else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropylab.reporting import words
from entropylab.reporting.readings import checks, compare, deficit, fit, joint, measured, places, rules
from entropylab.wording import counted

NAN = float("nan")


def said(sentences: list[str]) -> str:
    assert all(sentence.endswith(".") and "nan" not in sentence.lower() for sentence in sentences), sentences
    return " ".join(sentences)


# Words.


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


# What was measured.


def test_what_so_many_samples_and_sizes_can_answer() -> None:
    assert "10 layers with 40 heads in all at 3 sizes, in 4 samples" in said(
        measured.amount(4, ["a", "b", "c"], 10, 40)
    )
    assert len(measured.amount(4, ["a", "b", "c"], 10, 40)) == 1, "nothing to warn of"
    assert "One sample says nothing" in said(measured.amount(1, ["a", "b", "c"], 1, 0))
    assert "only 1 degree of freedom" in said(measured.amount(2, ["a", "b", "c"], 1, 0))
    assert "nothing can be said about how entropy changes with size" in said(measured.amount(4, ["64x64"], 1, 0))
    assert "Two sizes always lie on a straight line" in said(measured.amount(4, ["a", "b"], 1, 0))


def test_what_is_missing() -> None:
    assert measured.missing([], False) == []
    assert "2 layers ran and were not measured" in said(measured.missing(["a: sliced", "b: linear"], False))
    assert "random subset" in said(measured.missing([], True))


def test_in_what_runs_differ() -> None:
    same = {"one": {"steps": "6"}, "other": {"steps": "6"}}
    assert "agree in steps" in said(measured.differences(same))
    told = said(measured.differences({"one": {"steps": "6", "seed": "0"}, "other": {"steps": "4", "seed": "0"}}))
    assert "differ in steps (6, 4): what differs below may be due to that" in told
    assert "seed" not in told


# The fit.


def test_a_slope_that_is_not_one() -> None:
    told = said(fit.slope(0.75, (0.74, 0.76), 1e-6))
    assert "which is not the law's 1 (p < 0.0001)" in told
    assert "deficit log N − H grows by 0.25 nats for every nat of log N (0.17 each time that N doubles)" in told
    assert "shrinks by 0.2 nats" in said(fit.slope(1.2, (1.1, 1.3), 0.01))


def test_a_slope_that_may_be_one() -> None:
    assert said(fit.slope(0.99, (0.97, 1.01), 0.3)).endswith("can't be told from the law's 1 (p = 0.3).")
    assert "so wide an interval decides little" in said(fit.slope(0.8, (0.3, 1.3), 0.3))
    assert "can't be told from this run, because the slope's error is not known" in said(
        fit.slope(0.8, (NAN, NAN), NAN)
    )


def test_errors_are_explained_where_they_are_not_of_samples() -> None:
    assert fit.errors("cluster-robust, samples as clusters", 4) == []
    assert "they do not know how pictures differ" in said(fit.errors("ordinary least squares", 1))
    assert "largest that they can be" in said(fit.errors("at most, from the samples' spreads at each size", 4))


def test_a_straight_line_proves_little() -> None:
    assert "proves little" in said(fit.straightness(0.9994, 6))
    assert "do not lie on a straight line" in said(fit.straightness(0.9, 6))
    assert fit.straightness(1.0, 2) == []
    assert "R² > 0.9999" in said(fit.straightness(0.99999, 6))


def test_how_far_from_uniform() -> None:
    assert "evenly over 50% of its keys" in said(fit.uniformity(np.log(2), 5))
    told = said(fit.uniformity(0.01, 5))
    assert "all but uniform, and slope 1 is no evidence for the law" in told


def test_slopes_of_layers() -> None:
    names = ["a", "b", "c"]
    told = said(fit.layer_slopes(names, [0.3, 1.0, 0.99], [1e-4, 0.9, 0.04]))
    assert "from 0.3 (a) to 1.00 (b)" in told
    assert "differs from 1 in 1 of 3 layers (5% level, corrected for 3 tests): a; in the other 2" in told
    assert "describes no layer" in told
    assert "In no layer can the slope be told from 1" in said(fit.layer_slopes(names, [1.0, 1.01, 0.99], [0.9] * 3))
    assert "can't be told from this run" in said(fit.layer_slopes(names, [0.3, 1, 1], [NAN] * 3))


# The deficit.


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


# The checks.


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


# Rules, places, joint attention.


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


def test_joint_attention() -> None:
    assert "82% to 92% of their weight" in said(joint.mass([0.82, 0.92, NAN]))
    assert "91% comes from within the image and 6%" in said(joint.chain(4.66, 0.28, 4.24))
    assert "so it holds both ways" in said(joint.law(0.05, 0.06, 0.1))
    assert "text among the keys, and not the image" in said(joint.law(0.05, 0.6, 0.1))
    assert "does not hold there either" in said(joint.law(0.5, 0.6, 0.1))
    assert "coincidence" in said(joint.law(0.5, 0.06, 0.1))
    assert "82.8 to 97.5% of all keys" in said(joint.fixed_text([0.828, 0.975]))


# Side by side.


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
