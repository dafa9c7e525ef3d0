"""The recipe of the autoencoder: its latents' form, and two steps."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from entropylab.models.prompts import FOLDER
from recipes import autoencoder
from recipes.autoencoder import new_autoencoder, standardise, to_tensor, trained


@pytest.fixture
def images(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    monkeypatch.setattr(autoencoder, "training_pictures", lambda folder: (images, images))
    return images


def test_standardise_changes_latents_and_not_pictures():
    torch.manual_seed(0)
    model = new_autoencoder().eval()
    images = torch.rand(8, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = model.decode(model.encode(images).latent_dist.mean).sample
        standardise(model, images)
        latents = model.encode(images).latent_dist.mean
        after = model.decode(latents).sample
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)


def test_it_begins_with_the_weights_of_a_pipeline_or_at_random(images, tmp_path):
    """One step at the rate of the warm-up moves weights by little."""
    given = trained(autoencoder.train(tmp_path / "given", 1, 2, begin=FOLDER))
    random = trained(autoencoder.train(tmp_path / "random", 1, 2))
    shipped = load_file(FOLDER / "vae" / "diffusion_pytorch_model.safetensors")
    name = "encoder.conv_in.weight"
    torch.testing.assert_close(given.state_dict()[name], shipped[name].float(), rtol=0, atol=1e-3)
    assert (random.state_dict()[name] - shipped[name].float()).abs().max() > 0.1


def test_its_latents_are_standard_and_its_decoder_learns_on_without_moving_them(images, tmp_path):
    path = autoencoder.train(tmp_path, steps=2, batch=2)
    pictures = to_tensor(images)
    before = trained(path)
    latents = before.encode(pictures).latent_dist.mean
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-3)

    autoencoder.train_decoder(tmp_path, steps=2, batch=2)
    after = trained(path)
    assert torch.equal(after.encode(pictures).latent_dist.mean, latents)
    assert not torch.equal(after.decode(latents).sample, before.decode(latents).sample)
    assert (tmp_path / "decoder" / "reconstructions.png").exists()
