"""The recipes of the embedded models: how they begin, what they learn from, and that the shipped ones are theirs."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

import entropylab
from entropylab.models.joint import JointPipeline
from entropylab.models.prompts import FOLDER, captions
from recipes import autoencoder, unet
from recipes.autoencoder import new_autoencoder, standardise, to_tensor, trained
from recipes.joint import assemble, begin, flow_loss, new_transformer
from recipes.text import new_tokenizer, rename_for_older_readers, spoken


def test_the_tokenizer_spells_anything_and_the_shipped_one_is_learned_again():
    tokenizer = new_tokenizer(["a red car", "a blue car"])
    assert tokenizer.tokenize("A red car") == ["a</w>", "red</w>", "car</w>"]
    assert len(tokenizer.tokenize("zebra")) == 5
    assert tokenizer.unk_token_id not in tokenizer("quartz é 7", add_special_tokens=False).input_ids
    assert len(tokenizer("a red car", padding="max_length").input_ids) == tokenizer.model_max_length
    learned = new_tokenizer([text for caption in captions().values() for text in spoken(caption)])
    shipped = json.loads((FOLDER / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    assert learned.get_vocab() == shipped


def test_the_text_encoder_has_the_names_that_every_transformers_knows(tmp_path):
    shipped = load_file(FOLDER / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in shipped)
    new_names = {name.removeprefix("text_model."): value for name, value in shipped.items()}
    save_file(new_names, tmp_path / "model.safetensors")
    rename_for_older_readers(tmp_path / "model.safetensors")
    assert load_file(tmp_path / "model.safetensors").keys() == shipped.keys()


def assert_standard(latents: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=atol, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=atol, rtol=0)


def test_standardise_changes_latents_and_not_pictures():
    torch.manual_seed(0)
    model = new_autoencoder().eval()
    images = torch.rand(8, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = model.decode(model.encode(images).latent_dist.mean).sample
        standardise(model, images)
        latents = model.encode(images).latent_dist.mean
        torch.testing.assert_close(model.decode(latents).sample, before, atol=1e-4, rtol=1e-3)
    assert_standard(latents, 1e-4)


def test_the_autoencoder_begins_as_told_and_its_decoder_learns_on_without_moving_latents(monkeypatch, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    monkeypatch.setattr(autoencoder, "training_pictures", lambda folder: (images, images))
    given = trained(autoencoder.train(tmp_path / "given", 1, 2, begin=FOLDER))
    path = autoencoder.train(tmp_path, steps=2, batch=2)
    before, name = trained(path), "encoder.conv_in.weight"
    shipped = load_file(FOLDER / "vae" / "diffusion_pytorch_model.safetensors")[name].float()
    # One step at the rate of the warm-up moves weights by little.
    torch.testing.assert_close(given.state_dict()[name], shipped, rtol=0, atol=1e-3)
    assert (before.state_dict()[name] - shipped).abs().max() > 0.1
    pictures = to_tensor(images)
    latents = before.encode(pictures).latent_dist.mean
    assert_standard(latents, 1e-3)
    autoencoder.train(tmp_path, steps=2, batch=2, decoder_only=True)
    after = trained(path)
    assert torch.equal(after.encode(pictures).latent_dist.mean, latents)
    assert not torch.equal(after.decode(latents).sample, before.decode(latents).sample)


def test_the_unet_is_the_shipped_one_and_starts_from_its_weights():
    model = unet.new_model(CLIPTokenizer.from_pretrained(FOLDER / "tokenizer"), begin=FOLDER)["unet"]
    shipped = UNet2DConditionModel.from_pretrained(FOLDER / "unet")
    configs = (json.loads(each.to_json_string()) for each in (shipped, model))
    known, own = ({name: value for name, value in one.items() if not name.startswith("_")} for one in configs)
    assert own == known
    assert all(torch.equal(value, shipped.state_dict()[name].float()) for name, value in model.state_dict().items())


def test_batches_pair_latents_with_wordings_of_their_own_caption(tmp_path, monkeypatch):
    """Latents that tell which emoji they are of, so that the pairs can be checked."""
    numbers = torch.arange(172.0).view(172, 1, 1, 1, 1).expand(172, 2, 4, 16, 16).numpy()
    for name, stand_in in {"trained": None, "latents_of": numbers}.items():
        monkeypatch.setattr(unet, name, lambda *_, stand_in=stand_in: stand_in)
    batches = unet.Batches(tmp_path, 2)
    torch.manual_seed(0)
    latents, text = batches.draw(400)
    words = batches.tokenizer.batch_decode(batches.tokens[text], skip_special_tokens=True)
    empty = [not text.strip() for text in words]
    assert 20 < sum(empty) < 60
    for number, text, left_out in zip(latents[:, 0, 0, 0].tolist(), words, empty, strict=True):
        caption = batches.captions[int(number)]
        assert left_out or caption.split(" ", 1)[-1] in text
    assert (tmp_path / "latents-2.npy").exists()  # a run that goes on has the same


# The joint transformer.


@pytest.fixture(scope="module")
def pipe() -> JointPipeline:
    torch.manual_seed(0)
    model = new_transformer()
    begin(model)
    encoder = CLIPTextModel.from_pretrained(FOLDER / "text_encoder", dtype=torch.float32).eval()
    batches = SimpleNamespace(tokenizer=CLIPTokenizer.from_pretrained(FOLDER / "tokenizer"))
    return assemble(model.eval(), AutoencoderKL.from_pretrained(FOLDER / "vae"), encoder, batches)


def test_it_begins_with_no_prediction_and_logits_of_the_target_variance(pipe):
    torch.manual_seed(0)
    latents = torch.randn(4, 4, 16, 16)
    loss = flow_loss(pipe.transformer, latents, torch.randn(4, 24, 128), torch.randn(4, 128))
    assert loss.item() == pytest.approx(2, rel=0.1)  # variance of noise - latents
    layer = pipe.transformer.single_transformer_blocks[0].attn
    query, key = (norm(torch.randn(500, 32)) for norm in (layer.norm_q, layer.norm_k))
    assert (query @ key.T / 32**0.5).var().item() == pytest.approx(5.5, rel=0.05)


def test_the_velocity_is_the_one_that_the_pipeline_samples_with(pipe, monkeypatch):
    """A model that knows its latents is led to them by the pipeline, and has no loss."""
    wanted = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    packed = pipe._pack_latents(wanted, 1, 4, 16, 16)

    class Answer(tuple):
        sample = property(lambda self: self[0])

    def oracle(hidden_states, timestep, **_):
        return Answer([(hidden_states - packed) / timestep.view(-1, 1, 1)])

    assert flow_loss(oracle, wanted, None, None).item() == pytest.approx(0, abs=1e-6)
    monkeypatch.setattr(pipe.transformer, "forward", oracle)
    found = pipe("a red heart", num_inference_steps=5, output_type="latent").images
    torch.testing.assert_close(found, packed, rtol=0, atol=1e-4)


def test_it_saves_and_loads(pipe, tmp_path):
    def sample(pipe):
        generator = torch.Generator().manual_seed(0)
        return pipe("a fox", num_inference_steps=2, generator=generator, output_type="np").images

    image = sample(pipe)
    unet.save_pipeline(pipe, tmp_path)
    loaded = entropylab.load(tmp_path)
    assert type(loaded) is JointPipeline
    loaded.set_progress_bar_config(disable=True)
    assert np.abs(image - sample(loaded)).max() < 0.05
