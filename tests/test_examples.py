"""The example of every public name runs and gives what it says."""

import doctest
import io

import matplotlib
import matplotlib.pyplot as plt
import pytest

import entropylab
import entropylab.plot

FIGURES = [f"plot.{name}" for name in entropylab.plot.__all__]
NAMES = ["", *entropylab.__all__, *(name for name in FIGURES if name != "plot.PAPER")]


@pytest.fixture(scope="module")
def measured(embedded):
    """What `ds` is in the examples: three sizes, two rules, the cumulants of the series."""
    return entropylab.measure(
        embedded, sizes=[32, 64, 96], samples=2, steps=2, scaling=("original", "sqrt_log"),
        statistics=("entropy", "sigma2", "third", "fourth"), progress=False,
    )  # fmt: skip


def run(docstring: str, **names: object) -> tuple[int, str]:
    """How many examples there are, and what is wrong with them."""
    wrong = io.StringIO()
    test = doctest.DocTestParser().get_doctest(docstring, {"entropylab": entropylab, **names}, "example", None, 0)
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=wrong.write)
    return len(test.examples), wrong.getvalue()


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name or "entropylab")
def test_example(name, embedded, measured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "explore":
        pytest.importorskip("ipywidgets")
    thing = entropylab
    for part in filter(None, name.split(".")):
        thing = getattr(thing, part)
    with matplotlib.rc_context({"backend": "agg"}):
        count, wrong = run(thing.__doc__, pipe=embedded, ds=measured.copy())
    plt.close("all")
    assert count, f"entropylab.{name} has no example"
    assert not wrong


def test_the_style_is_in_the_example_of_its_module():
    assert "entropylab.plot.PAPER" in entropylab.plot.__doc__


def test_a_wrong_example_is_found():
    assert run("No example.") == (0, "")
    count, wrong = run(">>> 1 + 1\n3\n")
    assert count == 1 and "Expected" in wrong
