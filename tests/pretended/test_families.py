"""Families of the zoo on pretended GPUs: on the second one, while the first is current, and spread over both."""

from typing import Any

import numpy as np
import pytest

import entropylab
from entropylab.measuring import steps
from entropylab.measuring.reduce import Reduction

from ..zoo import BY_NAME
from .__main__ import main
from .examining import examine, followed
from .placing import on_gpus, pretended

LAUNCHES = {
    "Stable Diffusion 2": 3.1,
    "PixArt-Sigma": 8,
    "Sana": 11,
    "FLUX.1": 5,
    "Qwen-Image": 11,
    "HiDream-I1": 8,
    "Wan 2.1": 4,
}
"""Family -> at most so many launches of ours for an attention call, where all is on one GPU.

They are a U-Net; transformers with masked text and with linear attention; joint attention of two streams, with padding,
and of several texts; video in turn with text. `python -m tests.pretended` tries all families. Whatever saves launches
should lower its number here.
"""

ROUTED = {"HiDream-I1"}
"""Families whose tokens can't be followed without waiting, in the first sampling: each chooses its experts."""

MAPS = {"maps": True, "received": True}
UNSUMMED = ("gaussian", "slope", "rarefied_half")
"""Statistics that no pass sums."""

CASES = [(name, "cuda:1", {}) for name in LAUNCHES]
CASES += [("Stable Diffusion 2", "both", {}), ("FLUX.1", "both", MAPS), ("Stable Diffusion 1", "cuda:1", MAPS)]
CASES += [("PixArt-Sigma", "cuda:1", {"kernel": False}), ("FLUX.1", "cuda:0", {"kernel": False})]
CASES += [("PixArt-Sigma", "cuda:1", {"statistics": ("entropy", "gaussian", "slope", "rarefied")})]
CASES += [("Latent Diffusion", "cuda:1", {"words": ["red", "house"]})]


@pytest.mark.parametrize(("name", "place", "options"), CASES, ids=str)
def test_a_family(name: str, place: str, options: dict[str, Any]) -> None:
    """Images are the same, results are the CPU's, the host does not wait, and launches are few.

    Words are read while the prompt is encoded; where their tokens are among the keys is found on the GPU.
    """
    finding = examine(BY_NAME[name], place, **options)
    assert finding.identical
    for coordinate in ("layer", "part", "kind", "branch", "size", "timestep"):
        assert (finding.dataset[coordinate].values == finding.wanted[coordinate].values).all(), coordinate
    assert finding.error < 2e-5
    for value in UNSUMMED if "statistics" in options else ():
        assert np.isfinite(finding.dataset[value]).any()
        assert finding.error_of(value) < 1e-4, value
    assert not finding.waits
    assert not finding.waits_in(finding.first) or name in ROUTED
    assert finding.launches_to_follow <= 4 or "statistics" in options
    if "kernel" in options:
        assert "row_kernel" not in finding.recorded.launches
    elif place != "both" and not options:
        assert finding.launches_per_call <= LAUNCHES[name], finding.launched.most_common(10)


@pytest.mark.parametrize("name", ["FLUX.1", "PixArt-Sigma"])
def test_a_second_recording_follows_nothing(name) -> None:
    family, logs = BY_NAME[name], []
    pipe = family.build()
    with pretended() as gpus, on_gpus(pipe, "cuda:1"):
        for _ in range(2):
            with entropylab.record(pipe):
                logs += [followed(gpus, family, pipe)[1] for _ in range(2)]
    assert len({(log.launches.total(), log.waits.total()) for log in logs[1:]}) == 1


def test_a_wait_and_launches_of_ours_are_found(monkeypatch) -> None:
    name, reduce = "FLUX.1", Reduction.over_several

    def careless(self, call, places):
        found = reduce(self, call, places)
        for _ in range(8):
            found[0].sums.sum().add(0).item()
        return found

    monkeypatch.setattr(Reduction, "over_several", careless)
    finding = examine(BY_NAME[name], "cuda:1")
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
    assert examine(BY_NAME["FLUX.1"], "both").error < 2e-5, "one by one they need no common device"
    assert refused and all("on the same device" in problem for problem in refused)


def test_the_command_says_what_it_takes(capsys):
    for arguments, code in ((["--help"], 0), (["Nobody's"], 2)):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == code
    said = capsys.readouterr()
    assert "FAMILY" in said.out and "there is no family Nobody's" in said.err
