"""Every family of pipelines, tiny and random: all attention is measured or named, rightly, and images are the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import entropylab

from . import BY_NAME, FAMILIES
from .check import compared, examine
from .family import Family, last
from .reference import sight
from .table import PAGE, line


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family(family: Family) -> None:
    finding = examine(family)
    ds = finding.dataset
    assert finding.identical
    assert finding.unlisted == []
    assert finding.errors, "the reference can't tell the rows of any layer apart: nothing is compared"
    assert (finding.worst < 1e-4) is family.comparable
    assert set(ds.branch.values) == set(family.branches)
    assert not family.asked or list(ds["size"].values) == ["{}x{}".format(*family.size)]
    check_chain_rule(ds.isel(layer=ds.kind.values == "joint"))
    assert line(finding) in PAGE.read_text(encoding="utf-8").splitlines()


def check_chain_rule(joint: xr.Dataset) -> None:
    """What is between the parts of the keys and what is within them make the whole; the latter is no more than it."""
    if set(joint.part.values) <= {"unknown"}:
        assert "entropy_between" not in joint
        return
    names = ("entropy_from_image", "entropy_from_text", "entropy_from_other")
    within = sum(joint[name].fillna(0) for name in names if name in joint)
    assert float(np.abs(within + joint.entropy_between.fillna(0) - joint.entropy).max()) < 1e-4
    assert float((within - joint.entropy).max()) < 1e-3


@pytest.mark.parametrize("name", ["Stable Diffusion 1", "FLUX.1", "Wan 2.1", "Self-Attention Guidance"])
def test_the_reference_notices_another_scale(name: str) -> None:
    family = BY_NAME[name]
    pipe = family.build()
    plain = family.sample(pipe)
    with sight(entropylab.pipelines.denoisers(pipe)) as seen:
        assert torch.equal(family.sample(pipe), plain), "the reference disturbs nothing either"
    with entropylab.rescale(pipe, 1.1, kinds=("self", "cross", "joint")), entropylab.record(pipe) as recorder:
        family.sample(pipe)
    errors, _ = compared(family, recorder.dataset, seen)
    assert min(errors.values()) > 1e-4


def test_the_reference_notices_parts_that_stand_elsewhere() -> None:
    family = BY_NAME["FLUX.1"]
    assert examine(replace(family, parts=last(10))).worst > 1e-2 > 1e-4 > examine(family).worst


def test_at_least_forty_five_families() -> None:
    assert len(BY_NAME) == len(FAMILIES) >= 45
