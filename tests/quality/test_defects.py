"""The measures of incompleteness and repetition on pictures that were made incomplete or repeated on purpose."""

import numpy as np
import pytest
import torch

from entropylab.quality.clip import clip_of
from entropylab.quality.defects import cut, defects, parts, self_similarity
from entropylab.quality.methods import resized

COUNT = 24


@pytest.fixture(scope="module")
def judge(prompts):
    clip = clip_of(None, embedded=True)
    return lambda images: defects(images, lambda part: clip.scores(part, prompts[:COUNT]))


@pytest.fixture(scope="module")
def whole(judge, sampled):
    return judge(sampled[:COUNT])


def cropped(images):
    return resized(images[..., :40, :40].contiguous(), (64, 64))


def shifted(images):
    moved = torch.full_like(images, 255)
    moved[..., 26:] = images[..., :-26]
    return moved


def tiled(images):
    return resized(images, (32, 32)).repeat(1, 1, 2, 2)


def twice(images):
    small, both = resized(images, (40, 40)), torch.full_like(images, 255)
    both[..., :40, :40] = small
    both[..., 24:, 24:] = torch.minimum(both[..., 24:, 24:], small)
    return both


def share_that_rose(before, after):
    return float(np.mean(after > before))


@pytest.mark.parametrize("damage", [cropped, shifted])
@pytest.mark.parametrize("name", ["disagreement", "cut"])
def test_incompleteness_rises_where_parts_are_missing(judge, whole, sampled, damage, name):
    assert share_that_rose(whole[name], judge(damage(sampled[:COUNT]))[name]) > 0.85


@pytest.mark.parametrize(
    ("damage", "name", "share"),
    [
        (tiled, "repeated_agreement", 0.85),
        (tiled, "self_similarity", 0.85),
        (
            twice,
            "repeated_agreement",
            0.65,
        ),  # 0.97 of real pictures; these, of three steps, are not all of what was asked
        (twice, "self_similarity", 0.85),
    ],
)
def test_repetition_rises_where_the_object_is_there_again(judge, whole, sampled, damage, name, share):
    assert share_that_rose(whole[name], judge(damage(sampled[:COUNT]))[name]) > share


@pytest.mark.parametrize("damage", [cropped, shifted])
def test_repetition_does_not_rise_where_parts_are_missing(judge, whole, sampled, damage):
    assert share_that_rose(whole["repeated_agreement"], judge(damage(sampled[:COUNT]))["repeated_agreement"]) < 0.5


def test_the_cut_does_not_rise_where_the_object_is_there_again(judge, whole, sampled):
    assert judge(twice(sampled[:COUNT]))["cut"].mean() < whole["cut"].mean() + 0.02


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
