"""Families of the zoo on pretended GPUs: on the second one, while the first is current, and spread over both."""

import numpy as np
import pytest

from entropylab.measuring import steps
from entropylab.measuring.reduce import Reduction

from ..zoo import BY_NAME
from .examining import Finding, examine
from .families import LAUNCHES, WAITING

SLOW = {("AnimateDiff", "both")}
CASES = [(name, place) for name in LAUNCHES for place in ("cuda:1", "both") if (name, place) not in SLOW]


@pytest.fixture(scope="module", params=CASES, ids=" on ".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str, Finding]:
    name, place = request.param
    return name, place, examine(BY_NAME[name], place)


def test_images_are_bit_identical(case) -> None:
    *_, finding = case
    assert finding.identical


def test_results_are_those_of_the_cpu(case) -> None:
    *_, finding = case
    for name in ("layer", "part", "kind", "branch", "size", "timestep"):
        assert (finding.dataset[name].values == finding.wanted[name].values).all(), name
    assert finding.error < 2e-5


def test_the_host_does_not_wait_while_sampling(case) -> None:
    name, _, finding = case
    if name in WAITING:
        assert finding.waits, f"{name} no longer waits: take it out of WAITING"
        pytest.xfail(f"{name} is known to wait")
    assert not finding.waits


def test_launches_for_an_attention_call(case) -> None:
    name, place, finding = case
    if place != "both":
        assert finding.launches_per_call <= LAUNCHES[name], finding.launched.most_common(10)


def test_on_the_current_gpu() -> None:
    finding = examine(BY_NAME["FLUX.1"], "cuda:0")
    assert finding.identical
    assert finding.error < 2e-5
    assert not finding.waits


@pytest.mark.parametrize("name", ["PixArt-Sigma", "FLUX.1"])
def test_by_attention_where_our_kernel_does_not_run(name) -> None:
    finding = examine(BY_NAME[name], "cuda:1", kernel=False)
    assert "row_kernel" not in finding.recorded.launches
    assert finding.identical
    assert finding.error < 2e-5
    assert not finding.waits


@pytest.mark.parametrize("name", ["FLUX.1", "PixArt-Sigma"])
def test_statistics_that_no_pass_sums(name) -> None:
    values = ("gaussian", "slope", "rarefied_half")
    finding = examine(BY_NAME[name], "cuda:1", statistics=("entropy", "gaussian", "slope", "rarefied"))
    assert finding.identical
    assert not finding.waits
    for value in values:
        assert np.isfinite(finding.dataset[value]).any()
        assert finding.error_of(value) < 1e-4, value


@pytest.mark.parametrize(("name", "place"), [("FLUX.1", "both"), ("Stable Diffusion 1", "cuda:1")])
def test_with_entropy_maps(name, place) -> None:
    finding = examine(BY_NAME[name], place, maps=True)
    assert finding.identical
    assert finding.error < 2e-5
    assert not finding.waits


@pytest.mark.parametrize("place", ["cuda:1", "both"])
def test_a_wait_and_launches_of_ours_are_found(monkeypatch, place) -> None:
    name, reduce = "FLUX.1", Reduction.over_several

    def careless(self, call, places):
        found = reduce(self, call, places)
        for _ in range(8):
            found[0].sums.sum().add(0).item()
        return found

    monkeypatch.setattr(Reduction, "over_several", careless)
    finding = examine(BY_NAME[name], place)
    assert all(each.startswith("aten::_local_scalar_dense in measuring/reduce.py:") for each in finding.waits)
    assert finding.waits
    assert finding.launches_per_call > LAUNCHES[name]


def test_layers_on_two_gpus_put_together_are_found(monkeypatch) -> None:
    grouped = steps.grouped

    def careless(calls):
        return grouped(tuple(call._replace(device=None) for call in calls))

    packed, refused = steps.DenoiserCall.packed, []

    def noted(self, members):
        try:
            return packed(self, members)
        except RuntimeError as problem:
            refused.append(str(problem))
            raise

    monkeypatch.setattr(steps, "grouped", careless)
    monkeypatch.setattr(steps.DenoiserCall, "packed", noted)
    assert examine(BY_NAME["FLUX.1"], "cuda:1").error < 2e-5 and not refused
    assert examine(BY_NAME["FLUX.1"], "both").error < 2e-5, "one by one they need no common device"
    assert refused and all("on the same device" in problem for problem in refused)
