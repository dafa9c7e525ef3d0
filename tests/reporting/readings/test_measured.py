"""What is said of what was measured."""

from entropylab.reporting.readings import measured

from .said import said


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
