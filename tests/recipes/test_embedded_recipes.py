"""The recipes of the embedded pipelines: their parts that can be tried in a second."""

from collections import Counter

import numpy as np
import pytest
import torch

from entropylab.models.transformer import AnySizeTransformer
from recipes.emoji import new_autoencoder, new_unet, sharpen, standardise
from recipes.emoji_dit import begin, new_transformer
from recipes.loop import trapezoid
from recipes.text import learn_merges, new_tokenizer

from ..attention import in_heads


def test_tokenizer_spells_anything_and_knows_its_words():
    tokenizer = new_tokenizer(["a red car", "a blue car"])
    assert tokenizer.tokenize("A red car") == ["a</w>", "red</w>", "car</w>"]
    assert len(tokenizer.tokenize("zebra")) == 5
    assert tokenizer.unk_token_id not in tokenizer("quartz é 7", add_special_tokens=False).input_ids
    assert len(tokenizer("a red car", padding="max_length").input_ids) == tokenizer.model_max_length


def test_merges_come_by_frequency_then_spelling():
    assert learn_merges(Counter({"ab": 3, "cd": 3, "ef": 5}), 2) == [("e", "f</w>"), ("a", "b</w>")]


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


def test_sharpen_gives_logits_their_variance():
    torch.manual_seed(0)
    unet = new_unet()
    sharpen(unet)
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    tokens = torch.nn.functional.layer_norm(torch.randn(64, 512, 128), [128])
    query, key = (in_heads(layer, tokens, 4) for layer in (attention.to_q, attention.to_k))
    variance = (query @ key.transpose(-1, -2) / 32**0.5).var().item()
    assert variance == pytest.approx(2.25, rel=0.15)


def test_a_new_transformer_hands_its_tokens_on_and_looks_neither_everywhere_nor_at_one():
    torch.manual_seed(0)
    model = new_transformer(3)
    begin(model)
    assert isinstance(model, AnySizeTransformer)
    noise = torch.randn(8, 4, 16, 16)
    with torch.no_grad():
        assert not model(noise, torch.full((8,), 500), torch.zeros(8, dtype=torch.long)).sample.any()
        tokens = torch.nn.functional.layer_norm(model.pos_embed(noise), [128])
        attention = model.transformer_blocks[0].attn1
        query, key = (in_heads(layer, tokens, 4) for layer in (attention.to_q, attention.to_k))
    variance = (query @ key.transpose(-1, -2) / 32**0.5).var(-1).mean().item()
    assert variance == pytest.approx(1.0, rel=0.3)


def test_learning_rate_warms_up_stays_and_ends_near_zero():
    rates = [trapezoid(step, 1000, 1.0) for step in range(1, 1001)]
    assert rates[0] < rates[100] < rates[200] == 1.0 == rates[699]
    assert np.all(np.diff(rates[701:]) < 0)
    assert rates[-1] == pytest.approx(1 / 300)
