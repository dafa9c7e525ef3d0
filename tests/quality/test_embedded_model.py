"""The embedded image-text model: what it tells apart, torchmetrics' own numbers, and the reference that is shipped."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

from entropylab import EntropyLabError
from entropylab.quality.clip import clip_of
from entropylab.quality.distances import Moments
from entropylab.quality.features import DRAWN, FILE, embedded_reference, features_of
from entropylab.quality.image_text import DIMENSION, FOLDER, as_seen
from entropylab.quality.methods import resized


@pytest.fixture(scope="module")
def clip():
    return clip_of(None, embedded=True)


@pytest.fixture(scope="module")
def features():
    return features_of(None, embedded=True)


def blurred(images, side):
    return resized(resized(images, (side, side)), tuple(images.shape[-2:]))


def noisy(images, amount=60):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images.float() + amount * noise).clamp(0, 255).byte()


def test_the_scores_tell_prompts_apart_and_are_cosines_in_float64(clip, sampled, prompts):
    scores, others = clip.scores(sampled, prompts), clip.scores(sampled, prompts[1:] + prompts[:1])
    assert (scores > others).mean() > 0.9 and scores.mean() > others.mean() + 0.5
    images, texts = (
        found.double().numpy() for found in (clip.image(sampled), torch.stack(list(map(clip.text, prompts))))
    )
    cosines = (images * texts).sum(1) / np.linalg.norm(images, axis=1) / np.linalg.norm(texts, axis=1)
    np.testing.assert_allclose(scores, cosines, atol=1e-6)


def test_the_distance_is_torchmetrics_with_the_module_itself_and_rises_with_blur_and_noise(features, sampled):
    fid = pytest.importorskip("torchmetrics.image.fid").FrechetInceptionDistance
    metric = fid(feature=features.module)
    metric.update(sampled, real=True)
    metric.update(noisy(sampled), real=False)
    base, real = features(sampled), Moments(embedded_reference((64, 64)).features)
    own = Moments(base)
    little, some, much = (own.distance(features(noisy(sampled, amount))) for amount in (20, 60, 90))
    assert some == pytest.approx(float(metric.compute()), rel=1e-3)
    soft, softer = (own.distance(features(blurred(sampled, side))) for side in (12, 6))
    assert 0 < little < some < much and 0 < soft < softer
    assert real.distance(base) < 0.7 * real.distance(features(noisy(sampled, 90)))


def test_the_reference_that_is_shipped():
    with safe_open(FOLDER / FILE, framework="numpy") as file:
        sizes = {tuple(map(int, name.split(".")[0].split("x"))) for name in file.keys()}  # noqa: SIM118
    assert {(32, 32), (64, 64), (128, 128), (64, 96)} <= sizes
    for size in sizes:
        found = embedded_reference(size)
        assert found.size == size
        assert found.features.shape == (172 * DRAWN, DIMENSION)
        assert np.isfinite(found.features).all()
        assert found.measures["clip_score"].mean() > 0.85
        assert found.measures["cut"].mean() < 0.05, "textures go on beyond the edge"
    assert embedded_reference((24, 40)).size == (40, 64), "the nearest in shape"
    assert embedded_reference((256, 256)).size == (128, 128)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2e6


@pytest.mark.parametrize(
    ("size", "seen"), [((64, 64), (64, 64)), ((128, 128), (64, 64)), ((64, 128), (44, 92)), ((9, 7), (72, 56))]
)
def test_pictures_of_any_size_are_seen_without_distortion(size, seen):
    found = as_seen(torch.zeros(1, 3, *size, dtype=torch.uint8))
    assert tuple(found.shape[-2:]) == seen
    assert float(found.max()) == -1


def test_models_that_are_none(tmp_path):
    with pytest.raises(EntropyLabError, match="clip model .* can't be had"):
        clip_of(str(tmp_path), embedded=True)
    with pytest.raises(EntropyLabError, match="clip must be a hub id"):
        clip_of(3, embedded=True)
