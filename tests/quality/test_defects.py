"""The measures of incompleteness and repetition on pictures that were made incomplete or repeated on purpose."""

import numpy as np
import pytest
import torch

from defects_checked import cropped, separation, shifted, tiled, twice
from entropylab.quality.clip import clip_of
from entropylab.quality.defects import cut, defects, parts, self_similarity

COUNT = 24


@pytest.fixture(scope="module")
def judge(prompts):
    clip = clip_of(None, embedded=True)
    return lambda images: defects(images, lambda part: clip.scores(part, prompts[:COUNT]))


@pytest.fixture(scope="module")
def whole(judge, sampled):
    return judge(sampled[:COUNT])


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (cropped, ("disagreement", "cut")),
        (shifted, ("disagreement", "cut")),
        (tiled, ("excess_agreement", "self_similarity")),
        (twice, ("excess_agreement", "self_similarity")),
    ],
)
def test_each_defect_raises_its_measures(judge, whole, sampled, damage, names):
    broken = judge(damage(sampled[:COUNT]))
    for name in names:
        assert np.mean(broken[name] > whole[name]) > 0.75
    if damage is shifted:
        assert broken["excess_agreement"].mean() < whole["excess_agreement"].mean() + 0.05
    if damage is twice:
        assert broken["cut"].mean() < whole["cut"].mean() + 0.02


def test_how_far_whole_and_broken_are_told_apart(sampled, prompts):
    found = separation(sampled[:COUNT], prompts[:COUNT], clip_of(None, embedded=True))
    table = found.set_index(["measure", "damage"]).separation
    assert table["cut", "cropped"] > 0.9 and table["self_similarity", "tiled"] > 0.95
    assert table["excess_agreement", "tiled"] > 0.9
    assert table["cut", "halved"] < 0.6, "a blind spot, which the table must show"
    assert len(found) == 24 and set(found.defect) == {"incomplete", "repeated", "neither"}
    assert (found.rose.between(0, 1) & found.separation.between(0, 1)).all()


def test_cut_counts_the_edge():
    image = torch.full((3, 20, 20), 255, dtype=torch.uint8)
    assert cut(image) == 0
    image[:, 5:15, 5:15] = 0
    assert cut(image) == 0, "an object within the frame"
    image[:, 5:15, :15] = 0
    assert cut(image) == pytest.approx(10 / 76)


def test_self_similarity_of_known_pictures():
    generator = torch.Generator().manual_seed(0)
    tile = torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8)
    assert self_similarity(tile.repeat(1, 2, 2)) == pytest.approx(1, abs=0.05), (
        "but for the outermost pixels, which are smoothed differently"
    )
    noise = torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8)
    assert self_similarity(noise) < 0.3
    assert self_similarity(torch.full((3, 64, 64), 7, dtype=torch.uint8)) == 0


def test_self_similarity_against_plain_loops():
    from entropylab.quality.defects import FAR, NEAR, edges

    image = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    image[:, :, 40:] = image[:, :, :24]
    found = edges(image)
    total, best = (found**2).sum(), -1.0
    for down in range(-32, 33, 1):
        for across in range(33):
            if (abs(down) < NEAR * 64 and across < NEAR * 64) or max(abs(down), across) > FAR * 64:
                continue
            one = found[:, max(0, down) : 64 + min(0, down), across:]
            other = found[:, max(0, -down) : 64 + min(0, -down), : 64 - across]
            energy = np.sqrt((one**2).sum() * (other**2).sum())
            if energy > total / 4:
                best = max(best, (one * other).sum() / energy)
    assert self_similarity(image) == pytest.approx(best, abs=1e-6)


def test_parts_are_disjoint_and_whole():
    images = torch.arange(3 * 7 * 10).view(1, 3, 7, 10)
    found = parts(images, 2, 3)
    assert len(found) == 6
    assert sorted(torch.cat([part.flatten() for part in found]).tolist()) == images.flatten().tolist()
