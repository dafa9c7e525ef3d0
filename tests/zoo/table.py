"""The documentation's page of supported pipelines, made from what the tests found."""

from collections.abc import Sequence
from pathlib import Path

from .check import Finding

PAGE = Path(__file__).parents[2] / "docs" / "pipelines.md"

HEAD = """# Supported pipelines

entropylab has no code for single models: it watches the attention call. Each family below is built small, with random
weights, by the tests; its images with and without `record` are bit-identical, and the entropies of every head agree
with float64 maps within 1e-4 nats, in all layers whose rows the maps can be sorted by. (What belongs to no step, or to
several views of one, can't be compared: MultiDiffusion Panorama, AnyFlow FAR, GLM-Image with a reference image.) This
page is written by `python -m tests.zoo`, and a test holds it to what the tests find.

- **measured**: how many attention layers of the denoisers gave entropies, by kind. Of `joint` layers image rows and
  text rows are reported apart.
- **named**: layers that have no softmax, or leave it out in some branches, and are named in the result.
- **branches**: the guidance branches of the test's run, as they are told apart. "branch 0" and so on: they are kept
  apart, but which is which can't be told from how the pipeline combines them.

| family | pipeline | measured | named | branches |
|---|---|---|---|---|
"""


def page(findings: Sequence[Finding]) -> str:
    """The whole page."""
    return HEAD + "".join(f"{line(finding)}\n" for finding in findings)


def line(finding: Finding) -> str:
    """The table's line for one family."""
    family, dataset = finding.family, finding.dataset
    layers = {(str(m), str(k)) for m, k in zip(dataset.module.values, dataset.kind.values, strict=True)}
    kinds = [kind for _, kind in layers]
    measured = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    named = ", ".join(sorted({reason.partition(": ")[2] for reason in finding.unmeasured.values()}))
    named = f"{len(finding.unmeasured)}: {named}" if named else ""
    branches = ", ".join(sorted(map(str, dataset.branch.values)))
    return f"| {family.name} | `{family.pipeline}` | {measured} | {named} | {branches} |"
