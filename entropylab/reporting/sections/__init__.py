"""The sections of a report: what is read, tabled and drawn of every run, from its views."""

from collections.abc import Sequence

from ..blocks import Section
from ..views import Run
from .checks import checks_section
from .compare import compare_section, summary
from .joint import joint_section
from .law import deficit_section, fit_section, phase_section
from .measured import measured_section
from .places import heads_section, steps_section
from .rules import drift_section

__all__ = ["sections_of", "summary"]


def sections_of(runs: Sequence[Run], tolerance: float) -> list[Section]:
    """Every section that these runs have anything for.

    Args:
        runs: at least one.
        tolerance: what the law may be off by [nats].
    """
    own = {run.label: run.own for run in runs if run.own is not None}
    found: list[Section | None] = [measured_section(runs)]
    if own:
        found += [
            fit_section(own),
            deficit_section(own),
            checks_section(own, tolerance),
            drift_section(own),
            heads_section(own),
            steps_section(own),
            phase_section(own),
        ]
    found += [joint_section(runs, tolerance), compare_section(own, tolerance) if len(own) > 1 else None]
    return [section for section in found if section is not None]
