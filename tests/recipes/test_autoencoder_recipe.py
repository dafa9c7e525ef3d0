"""The recipe of the autoencoder, for two steps."""

import numpy as np
import pytest
import torch

from recipes import autoencoder
from recipes.emoji import to_tensor, trained


@pytest.fixture
def images(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    monkeypatch.setattr(autoencoder, "training_pictures", lambda folder: (images, images))
    return images


def test_its_latents_are_standard_and_its_decoder_learns_on_without_moving_them(images, tmp_path):
    path = autoencoder.train(tmp_path, steps=2, batch=2)
    pictures = to_tensor(images, torch.device("cpu"))
    before = trained(path, torch.device("cpu"))
    latents = before.encode(pictures).latent_dist.mean
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-3)

    autoencoder.train_decoder(tmp_path, steps=2, batch=2)
    after = trained(path, torch.device("cpu"))
    assert torch.equal(after.encode(pictures).latent_dist.mean, latents)
    assert not torch.equal(after.decode(latents).sample, before.decode(latents).sample)
    assert (tmp_path / "decoder" / "reconstructions.png").exists()
