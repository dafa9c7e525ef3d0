"""The measures of incompleteness and repetition, on pictures that were broken on purpose."""

import numpy as np
import pytest
import torch

from defects_checked import separation
from entropylab.quality.clip import clip_of
from entropylab.quality.defects import FAR, NEAR, cut, edges, parts, self_similarity

COUNT = 16


def test_each_defect_raises_its_measures_and_how_far_whole_and_broken_are_told_apart(sampled, prompts):
    found = separation(sampled[:COUNT], prompts[:COUNT], clip_of(None, embedded=True))
    assert len(found) == 24 and set(found.defect) == {"incomplete", "repeated", "neither"}
    assert (found.rose.between(0, 1) & found.separation.between(0, 1)).all()
    table = found.set_index(["measure", "damage"])
    for damage in ("cropped", "shifted"):
        assert min(table.rose["disagreement", damage], table.rose["cut", damage]) > 0.75
    for damage in ("tiled", "twice"):
        assert min(table.rose["excess_agreement", damage], table.rose["self_similarity", damage]) > 0.75
    added = table.broken - table.whole
    assert added["excess_agreement", "shifted"] < 0.05 and added["cut", "twice"] < 0.02, "not the other's defect"
    apart = table.separation
    assert apart["cut", "cropped"] > 0.9 and apart["self_similarity", "tiled"] > 0.95
    assert apart["excess_agreement", "tiled"] > 0.9
    assert apart["cut", "halved"] < 0.6, "a blind spot, which the table must show"


def test_cut_counts_the_edge():
    image = torch.full((3, 20, 20), 255, dtype=torch.uint8)
    assert cut(image) == 0
    image[:, 5:15, 5:15] = 0
    assert cut(image) == 0, "an object within the frame"
    image[:, 5:15, :15] = 0
    assert cut(image) == pytest.approx(10 / 76)


def by_loops(image):
    """Self-similarity, shift by shift."""
    found = edges(image)
    total, best = (found**2).sum(), -1.0
    for down in range(-32, 33):
        for across in range(33):
            if (abs(down) < NEAR * 64 and across < NEAR * 64) or max(abs(down), across) > FAR * 64:
                continue
            one = found[:, max(0, down) : 64 + min(0, down), across:]
            other = found[:, max(0, -down) : 64 + min(0, -down), : 64 - across]
            energy = np.sqrt((one**2).sum() * (other**2).sum())
            if energy > total / 4:
                best = max(best, (one * other).sum() / energy)
    return best


def test_self_similarity_of_known_pictures_and_against_plain_loops():
    random = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, 64, 64), generator=random, dtype=torch.uint8)
    tiled = noise[:, :32, :32].repeat(1, 2, 2)
    assert self_similarity(tiled) == pytest.approx(1, abs=0.05), "but for the outermost pixels, smoothed differently"
    assert self_similarity(noise) < 0.3
    assert self_similarity(torch.full((3, 64, 64), 7, dtype=torch.uint8)) == 0
    noise[:, :, 40:] = noise[:, :, :24]
    assert self_similarity(noise) == pytest.approx(by_loops(noise), abs=1e-6)


def test_parts_are_disjoint_and_whole():
    images = torch.arange(3 * 7 * 10).view(1, 3, 7, 10)
    found = parts(images, 2, 3)
    assert len(found) == 6
    assert sorted(torch.cat([part.flatten() for part in found]).tolist()) == images.flatten().tolist()
