"""The embedded image-text model: what it tells apart, and torchmetrics' own numbers."""

import numpy as np
import pytest
import torch

from entropylab import EntropyLabError
from entropylab.quality.clip import clip_of, mean_score
from entropylab.quality.features import features_of
from entropylab.quality.frechet import frechet_distance
from entropylab.quality.image_text import DIMENSION, FOLDER, as_seen
from entropylab.quality.methods import resized
from entropylab.quality.reference import DRAWN, SIZES, embedded_reference


@pytest.fixture(scope="module")
def clip():
    return clip_of(None, embedded=True)


@pytest.fixture(scope="module")
def features():
    return features_of(None, embedded=True)


def blurred(images):
    return resized(resized(images, (12, 12)), tuple(images.shape[-2:]))


def noisy(images, amount=60):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images.float() + amount * noise).clamp(0, 255).byte()


def test_pictures_agree_with_their_own_prompts_more_than_with_others(clip, sampled, prompts):
    own = clip.scores(sampled, prompts)
    other = clip.scores(sampled, prompts[1:] + prompts[:1])
    assert own.mean() > other.mean() + 0.5
    assert (own > other).mean() > 0.9
    texts = torch.stack([clip.text(prompt) for prompt in prompts])
    images = torch.nn.functional.normalize(clip.image(sampled), dim=-1)
    best = (images @ torch.nn.functional.normalize(texts, dim=-1).T).argmax(1)
    assert (best == torch.arange(len(prompts))).float().mean() > 0.7


def test_the_score_is_torchmetrics(clip, sampled, prompts):
    metric = clip.metric()
    metric.update(list(sampled[:8]), prompts[:8])
    assert float(metric.compute()) / 100 == pytest.approx(mean_score(clip.scores(sampled[:8], prompts[:8])), abs=1e-4)
    metric.update(list(sampled[:8]), prompts[8:16])
    assert float(metric.compute()) / 100 != pytest.approx(mean_score(clip.scores(sampled[:8], prompts[:8])), abs=1e-2)
    assert mean_score(np.array([-0.5, 0.2])) == 0


def test_the_distance_is_torchmetrics_with_the_module_itself(features, sampled):
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=features.module)
    metric.update(sampled, real=False)
    metric.update(noisy(sampled), real=True)
    assert frechet_distance(features(sampled), features(noisy(sampled))) == pytest.approx(
        float(metric.compute()), rel=1e-3
    )


def test_the_distance_is_none_to_the_same_pictures_and_rises_with_blur_and_noise(features, sampled):
    base = features(sampled)
    assert frechet_distance(base, base) == pytest.approx(0, abs=1e-6)
    little, much = (frechet_distance(features(noisy(sampled, amount)), base) for amount in (20, 90))
    assert 0 < little < much
    soft = frechet_distance(features(blurred(sampled)), base)
    softer = frechet_distance(features(resized(resized(sampled, (6, 6)), (64, 64))), base)
    assert 0 < soft < softer


def test_sampled_pictures_are_nearer_to_real_ones_than_noise_is(features, sampled):
    real = embedded_reference((64, 64)).features
    assert frechet_distance(features(sampled), real) < frechet_distance(features(noisy(sampled, 90)), real) / 2


def test_the_reference_that_is_shipped():
    for size in SIZES:
        found = embedded_reference(size)
        assert found.size == size
        assert found.features.shape == (172 * DRAWN, DIMENSION)
        assert np.isfinite(found.features).all()
        assert found.measures["clip_score"].mean() > 0.85
        assert found.measures["cut"].mean() < 0.01
    assert embedded_reference((24, 40)).size == (40, 64)
    assert embedded_reference((256, 256)).size == (128, 128)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2e6


@pytest.mark.parametrize(
    ("size", "seen"), [((64, 64), (64, 64)), ((128, 128), (64, 64)), ((64, 128), (44, 92)), ((9, 7), (72, 56))]
)
def test_pictures_of_any_size_are_seen_without_distortion(size, seen):
    found = as_seen(torch.zeros(1, 3, *size, dtype=torch.uint8))
    assert tuple(found.shape[-2:]) == seen
    assert float(found.max()) == -1


@pytest.mark.parametrize("wrong", [3, "resnet", ["inception"]])
def test_features_that_are_none(wrong):
    with pytest.raises(EntropyLabError, match="features must be 'inception' or a torch.nn.Module"):
        features_of(wrong, embedded=True)


def test_a_clip_model_that_cannot_be_had(tmp_path):
    with pytest.raises(EntropyLabError, match="clip model .* can't be had"):
        clip_of(str(tmp_path), embedded=True)
    with pytest.raises(EntropyLabError, match="clip must be a hub id"):
        clip_of(3, embedded=True)
