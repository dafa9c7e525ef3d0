"""The recipe of the joint transformer, on tiny data."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

import entropylab
from entropylab.models.joint import JointPipeline
from entropylab.models.prompts import FOLDER
from recipes.joint import assemble, begin, flow_loss, new_transformer
from recipes.unet import save_pipeline


class Parts:
    """What the recipe's batches hand on to a pipeline."""

    tokenizer = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")


@pytest.fixture(scope="module")
def pipe() -> JointPipeline:
    torch.manual_seed(0)
    model = new_transformer()
    begin(model)
    encoder = CLIPTextModel.from_pretrained(FOLDER / "text_encoder", dtype=torch.float32).eval()
    return assemble(model.eval(), AutoencoderKL.from_pretrained(FOLDER / "vae"), encoder, Parts())


def test_it_begins_with_no_prediction_and_logits_of_the_target_variance(pipe):
    torch.manual_seed(0)
    latents = torch.randn(4, 4, 16, 16)
    loss = flow_loss(pipe.transformer, latents, torch.randn(4, 24, 128), torch.randn(4, 128))
    assert loss.item() == pytest.approx(2, rel=0.1)  # variance of noise - latents
    layer = pipe.transformer.single_transformer_blocks[0].attn
    query, key = (
        norm(torch.randn(500, 32)) for norm in (layer.norm_q, layer.norm_k)
    )  # fmt: skip
    assert (query @ key.T / 32**0.5).var().item() == pytest.approx(5.5, rel=0.05)


def test_the_velocity_is_the_one_that_the_pipeline_samples_with(pipe, monkeypatch):
    """A model that knows its latents is led to them by the pipeline, and has no loss."""
    wanted = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    packed = pipe._pack_latents(wanted, 1, 4, 16, 16)

    class Answer:
        def __init__(self, sample):
            self.sample = sample

        def __getitem__(self, _):
            return self.sample

    def oracle(hidden_states, timestep, **_):
        return Answer((hidden_states - packed) / timestep.view(-1, 1, 1))

    assert flow_loss(oracle, wanted, None, None).item() == pytest.approx(0, abs=1e-6)
    monkeypatch.setattr(pipe.transformer, "forward", oracle)
    found = pipe("a red heart", num_inference_steps=5, output_type="latent").images
    torch.testing.assert_close(found, packed, rtol=0, atol=1e-4)


def test_it_saves_loads_and_is_measured_as_joint_attention(pipe, tmp_path):
    image = pipe("a fox", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np").images
    assert image.shape == (1, 64, 64, 3)
    save_pipeline(pipe, tmp_path)
    loaded = entropylab.load(tmp_path)
    assert type(loaded) is JointPipeline
    loaded.set_progress_bar_config(disable=True)
    again = loaded("a fox", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np").images
    assert np.abs(image - again).max() < 0.05
    dataset = entropylab.measure(loaded, [32, 64], prompts=["a fox"], steps=2, progress=False)
    assert set(dataset.kind.values.tolist()) == {"joint"}
    assert len(set(dataset.module.values.tolist())) == 7
    assert bool(dataset.entropy.notnull().all())
