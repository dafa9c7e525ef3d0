"""The recipe of the U-Net, before its first step."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTokenizer

import entropylab
from entropylab.models.prompts import FOLDER
from recipes.unet import Batches, assemble, new_model


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")


@pytest.fixture(scope="module")
def model(tokenizer):
    return new_model(tokenizer, begin=FOLDER)


def test_it_starts_from_the_weights_of_a_pipeline(model):
    embedded = UNet2DConditionModel.from_pretrained(FOLDER / "unet").state_dict()
    assert all(torch.equal(value, embedded[name].float()) for name, value in model["unet"].state_dict().items())


def test_self_attention_has_256_or_64_tokens_at_the_training_size(model, tokenizer):
    pipe = assemble(model.eval(), AutoencoderKL.from_pretrained(FOLDER / "vae"), tokenizer)
    dataset = entropylab.measure(pipe, [64], prompts=["a fox"], steps=1, layers="self", progress=False)
    assert sorted(dataset.train_tokens.values.tolist()) == [64.0] * 3 + [256.0] * 3


def test_batches_pair_latents_with_wordings_of_their_own_caption(tmp_path, monkeypatch):
    """Latents that tell which emoji they are of, so that the pairs can be checked."""
    monkeypatch.setattr("recipes.unet.trained", lambda path: None)
    monkeypatch.setattr("recipes.unet.pictures", lambda folder, count: None)
    numbers = torch.arange(172.0).view(172, 1, 1, 1, 1).expand(172, 2, 4, 16, 16).numpy()
    monkeypatch.setattr("recipes.unet.latents_of", lambda images, autoencoder: numbers)
    batches = Batches(tmp_path, 2)
    torch.manual_seed(0)
    latents, tokens = batches.draw(400)
    words = batches.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    empty = [not text.strip() for text in words]
    assert 20 < sum(empty) < 60
    for number, text, left_out in zip(latents[:, 0, 0, 0].tolist(), words, empty, strict=True):
        caption = batches.captions[int(number)]
        assert left_out or caption.split(" ", 1)[-1] in text
    assert (tmp_path / "latents-2.npy").exists()  # a run that goes on has the same
