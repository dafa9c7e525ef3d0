"""Every family of pipelines, tiny and random: all attention is measured or named, rightly, and images are the same."""

from dataclasses import replace

import numpy as np
import pytest

import entropylab

from . import BY_NAME, FAMILIES
from .check import Finding, compared, examine
from .reference import sight
from .table import PAGE, line


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def finding(request: pytest.FixtureRequest) -> Finding:
    return examine(request.param)


def test_images_are_bit_identical(finding: Finding) -> None:
    assert finding.identical


def test_every_attention_call_is_measured_or_named(finding: Finding) -> None:
    assert finding.unlisted == []


def test_entropies_against_float64_maps(finding: Finding) -> None:
    assert finding.errors, "the reference can't tell the rows of any layer apart: nothing is compared"
    assert (finding.worst < 1e-4) is finding.family.comparable


def test_branches_and_sizes(finding: Finding) -> None:
    assert set(finding.dataset.branch.values) == set(finding.family.branches)
    if finding.family.asked:
        assert list(finding.dataset["size"].values) == ["{}x{}".format(*finding.family.size)]


def test_joint_layers_keep_image_and_text_apart_and_obey_the_chain_rule(finding: Finding) -> None:
    ds = finding.dataset
    parts = ds.isel(layer=ds.kind.values == "joint")
    if set(parts.part.values) <= {"unknown"}:
        assert "entropy_between" not in ds
        return
    pieces = [parts[name].fillna(0) for name in ("entropy_between", "entropy_from_image", "entropy_from_other")]
    pieces += [parts.entropy_from_text.fillna(0)] if "entropy_from_text" in parts else []
    total = sum(pieces[1:], pieces[0])
    assert float(np.abs(total - parts.entropy).max()) < 1e-4
    assert float((total - pieces[0] - parts.entropy).max()) < 1e-3


def test_the_table_in_the_documentation(finding: Finding) -> None:
    assert line(finding) in PAGE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", ["Stable Diffusion 1", "FLUX.1", "Wan 2.1", "Self-Attention Guidance"])
def test_the_reference_notices_another_scale(name: str) -> None:
    family = BY_NAME[name]
    pipe = family.build()
    with sight(entropylab.pipelines.denoisers(pipe)) as seen:
        family.sample(pipe)
    with entropylab.rescale(pipe, 1.1, kinds=("self", "cross", "joint")), entropylab.record(pipe) as recorder:
        family.sample(pipe)
    errors, _ = compared(family, recorder.dataset, seen)
    assert min(errors.values()) > 1e-4


def test_the_reference_notices_parts_that_stand_elsewhere() -> None:
    family = BY_NAME["FLUX.1"]
    assert examine(replace(family, text=(10, "last"))).worst > 1e-2 > 1e-4 > examine(family).worst


def test_at_least_forty_five_families() -> None:
    assert len(BY_NAME) == len(FAMILIES) >= 45
