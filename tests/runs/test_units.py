"""Units: every sample in one of them, names that differ; and numbers of units that add up by name, not by place."""

import numpy as np
import pytest

import entropylab
from entropylab.measuring.cells import Cells, Counted, LayerLabel
from entropylab.measuring.moments import Moments
from entropylab.runs.merging import absorb
from entropylab.runs.units import PARTS, cut, default_samples

SIZE = (32, 48)
KEY = (SIZE, "original")
KEEP = ("branch", "step", "layer", "head")


def test_every_sample_is_in_one_unit_whose_name_can_be_a_files() -> None:
    units = cut([(32, 48), (48, 32)], ["a b", "a-b", "<lambda>", "1.5", "x/y" * 50], 10, 4)
    assert [(unit.start, unit.stop) for unit in units[:3]] == [(0, 4), (4, 8), (8, 10)]
    assert sum(unit.pixels for unit in units) == 2 * 5 * 10 * 32 * 48
    assert units[9].name == "32x48_3-1.5_000000-000003"
    names = {unit.name for unit in units}
    assert len(names) == len(units) == 30
    assert all("/" not in name and len(name) < 100 for name in names)


@pytest.mark.parametrize(("samples", "batch"), [(1, 4), (4, 4), (5, 4), (400, 4), (401, 4), (5000, 4), (5000, 7)])
def test_units_are_whole_batches_and_not_too_many(samples: int, batch: int) -> None:
    each = default_samples(samples, batch)
    assert each % batch == 0
    assert len(cut([(8, 8)], ["original"], samples, each)) <= PARTS
    assert each == batch or (each - batch) * PARTS < samples


def cells(values: np.ndarray, layers: str, branches: str = "cu", keep: tuple[str, ...] | None = KEEP) -> Cells:
    """Cells of (entries, branch, sample, step, layer, head)."""
    found = Cells(("rows", "rows_empty", "tokens", "entropy"), keep, branches=list(branches))
    for path in layers:
        found.layers[path] = LayerLabel(path, "block", "self", "image")
    found.counted[SIZE] = dict.fromkeys(layers, Counted(4.0, 1.0, 24.0, 2.0))
    found.timesteps[KEY] = np.array([999.0, np.nan])
    found.labels[KEY] = ([], [])
    if found.keeps_samples:
        found.arrays[KEY] = [values]
    else:
        found.moments[KEY] = Moments.of(values)
    return found


def summed(*parts: Cells) -> Cells:
    whole = Cells(parts[0].entries, parts[0].keep)
    for part in parts:
        absorb(whole, part)
    return whole


def random(layers: int = 2, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(5, 2, (2, 2, 4, 2, layers, 3))
    values[..., 0, 2] = np.nan
    return values


@pytest.mark.parametrize("keep", [None, KEEP])
def test_layers_and_branches_are_put_by_name_not_by_place(keep: tuple[str, ...] | None) -> None:
    values = random()
    turned = values[:, ::-1][..., ::-1, :]
    found = summed(cells(values, "ab", keep=keep), cells(turned, "ba", "uc", keep))
    assert list(found.layers) == ["a", "b"]
    assert found.counted[SIZE]["a"] == (4.0, 2.0, 24.0, 4.0, 2.0)
    if keep is None:
        np.testing.assert_array_equal(*found.arrays[KEY])
    else:
        alone = Moments.of(values)
        np.testing.assert_allclose(found.moments[KEY].mean, np.nan_to_num(alone.mean))
        np.testing.assert_array_equal(found.moments[KEY].count, 2 * alone.count)
        wrong = summed(cells(values, "ab"), cells(turned, "ab"))
        assert not np.allclose(wrong.moments[KEY].mean, np.nan_to_num(alone.mean))


def test_a_layer_that_only_some_units_have() -> None:
    found = summed(cells(random(), "ab"), cells(random(1), "a"), cells(random(1, seed=1), "c"))
    assert list(found.layers) == ["a", "b", "c"]
    np.testing.assert_array_equal(found.moments[KEY].count[0, 0, 0, :, 0], [8, 4, 4])
    expected = Moments.of(random(1, seed=1)).mean[0, 0, 0, 0]
    np.testing.assert_array_equal(found.moments[KEY].mean[0, 0, 0, 2], expected)


def test_units_of_another_version_are_refused() -> None:
    with pytest.raises(entropylab.EntropyLabError, match="tokens, sigma2. Got tokens, entropy: another version"):
        absorb(Cells(("", "", "tokens", "sigma2"), KEEP), cells(random(), "ab"))
