"""Units: every sample of every size and rule in one of them, whole batches, names that differ."""

import pytest

from entropylab.runs.units import PARTS, cut, default_samples


def test_every_sample_is_in_one_unit() -> None:
    units = cut([(32, 32), (32, 48)], ["original", "sqrt_log"], 10, 4)
    assert [(unit.start, unit.stop) for unit in units[:3]] == [(0, 4), (4, 8), (8, 10)]
    assert len(units) == 12
    assert sum(unit.samples for unit in units) == 40
    assert sum(unit.pixels for unit in units) == 10 * 2 * (32 * 32 + 32 * 48)
    assert units[3].name == "32x32_1-sqrt_log_000000-000003"


def test_names_differ_and_can_be_files() -> None:
    units = cut([(32, 48), (48, 32)], ["a b", "a-b", "<lambda>", "1.5", "x/y" * 50], 3, 1)
    names = [unit.name for unit in units]
    assert len(set(names)) == len(units)
    assert all("/" not in name and len(name) < 100 for name in names)


@pytest.mark.parametrize(("samples", "batch"), [(1, 4), (4, 4), (5, 4), (400, 4), (401, 4), (5000, 4), (5000, 7)])
def test_units_are_whole_batches_and_not_too_many(samples: int, batch: int) -> None:
    each = default_samples(samples, batch)
    assert each % batch == 0
    assert len(cut([(8, 8)], ["original"], samples, each)) <= PARTS
    assert each == batch or (each - batch) * PARTS < samples
