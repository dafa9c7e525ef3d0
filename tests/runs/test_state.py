"""Units as Datasets: everything comes back, and sums merge exactly in any division."""

import itertools
from pathlib import Path

import numpy as np
import pytest

import entropylab
from entropylab.measuring.cells import Cells, Counted, LayerLabel
from entropylab.measuring.moments import Moments
from entropylab.runs.merging import absorb, from_dataset, to_dataset

SIZE = (32, 48)
KEY = (SIZE, "original")
KEEP = ("branch", "step", "layer", "head")


def cells(values: np.ndarray, layers: str, branches: tuple[str, ...], keep: tuple[str, ...] | None = KEEP) -> Cells:
    """Cells of (entries, branch, sample, step, layer, head)."""
    found = Cells(("rows", "rows_empty", "tokens", "entropy"), keep, branches=list(branches))
    for path in layers:
        found.layers[path] = LayerLabel(path, "block", "self", "image")
    found.grown[SIZE] = {path: None if path == "b" else 3 for path in layers}
    found.counted[SIZE] = dict.fromkeys(layers, Counted(4.0, 1.0, 24.0, 2.0))
    found.timesteps[KEY] = np.array([999.0, np.nan])
    found.multipliers[KEY] = dict.fromkeys(layers, 1.25)
    found.labels[KEY] = ([], [])
    if found.keeps_samples:
        found.arrays[KEY] = [values]
        found.labels[KEY] = (["a"] * values.shape[2], list(range(values.shape[2])))
    else:
        found.moments[KEY] = Moments.of(values)
    return found


def random(samples: int = 4, layers: int = 2, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(5, 2, (2, 2, samples, 2, layers, 3))
    values[..., 0, 2] = np.nan
    return values


@pytest.mark.parametrize("keep", [None, KEEP, (), ("layer",)])
def test_cells_come_back(keep: tuple[str, ...] | None, tmp_path: Path) -> None:
    before = cells(random(), "ab", ("cond", "uncond"), keep)
    ds = to_dataset(before, ["a"] * 4, [0, 1, 2, 3], ["x: linear"])
    ds.attrs["entropylab_version"] = "0"
    entropylab.save(ds, tmp_path / "unit.nc")
    after = from_dataset(entropylab.open(tmp_path / "unit.nc"), *KEY, keep)
    for name in ("layers", "grown", "counted", "multipliers", "labels", "branches"):
        assert getattr(after, name) == getattr(before, name)
    np.testing.assert_array_equal(after.timesteps[KEY], before.timesteps[KEY])
    if before.keeps_samples:
        np.testing.assert_array_equal(after.arrays[KEY][0], before.arrays[KEY][0])
    else:
        for ours, theirs in zip(after.moments[KEY].parts, before.moments[KEY].parts, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_every_division_of_the_samples_gives_the_same_sums() -> None:
    values = random(samples=6)
    whole = Moments.of(values)
    for cuts in itertools.chain.from_iterable(itertools.combinations(range(1, 6), n) for n in (1, 2, 5)):
        merged = Cells((), KEEP)
        merged.entries = cells(values, "ab", ("cond", "uncond")).entries
        for part in np.split(values, cuts, axis=2):
            absorb(merged, cells(part, "ab", ("cond", "uncond")))
        for ours, theirs in zip(merged.moments[KEY].parts, whole.parts, strict=True):
            np.testing.assert_allclose(ours, np.nan_to_num(theirs), rtol=1e-13, atol=1e-13)
        assert merged.counted[SIZE]["a"] == (4.0, 1.0 * (len(cuts) + 1), 24.0, 2.0 * (len(cuts) + 1))


@pytest.mark.parametrize("keep", [None, KEEP])
def test_layers_and_branches_are_put_by_name_not_by_place(keep: tuple[str, ...] | None) -> None:
    values = random()
    merged = Cells(cells(values, "ab", ("cond", "uncond")).entries, keep)
    absorb(merged, cells(values, "ab", ("cond", "uncond"), keep))
    absorb(merged, cells(values[:, ::-1][..., ::-1, :], "ba", ("uncond", "cond"), keep))
    assert list(merged.layers) == ["a", "b"]
    if keep is None:
        first, second = merged.arrays[KEY]
        np.testing.assert_array_equal(first, second)
    else:
        alone = Moments.of(values)
        np.testing.assert_allclose(merged.moments[KEY].mean, np.nan_to_num(alone.mean))
        np.testing.assert_array_equal(merged.moments[KEY].count, 2 * alone.count)
        wrong = Cells(merged.entries, keep)
        absorb(wrong, cells(values, "ab", ("cond", "uncond"), keep))
        absorb(wrong, cells(values[:, ::-1][..., ::-1, :], "ab", ("cond", "uncond"), keep))
        assert not np.allclose(wrong.moments[KEY].mean, np.nan_to_num(alone.mean))


def test_a_layer_that_only_some_units_have() -> None:
    merged = Cells(cells(random(), "ab", ("cond", "uncond")).entries, KEEP)
    absorb(merged, cells(random(layers=1), "a", ("cond", "uncond")))
    absorb(merged, cells(random(layers=1, seed=1), "c", ("cond", "uncond")))
    assert list(merged.layers) == ["a", "c"]
    np.testing.assert_array_equal(merged.moments[KEY].count[0, 0, 0, :, 0], [4, 4])
    expected = Moments.of(random(layers=1, seed=1)).mean[0, 0, 0, 0]
    np.testing.assert_array_equal(merged.moments[KEY].mean[0, 0, 0, 1], expected)


def test_units_of_another_version_are_refused() -> None:
    merged = Cells(("", "", "tokens", "sigma2"), KEEP)
    with pytest.raises(entropylab.EntropyLabError, match="tokens, sigma2. Got tokens, entropy: another version"):
        absorb(merged, cells(random(), "ab", ("cond", "uncond")))
