"""Against other people's code: diffusers' own implementation of the paper's factor, in Lumina."""

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, LuminaNextDiT2DModel, LuminaPipeline

import entropylab


@pytest.fixture(scope="module")
def lumina():
    """A random Lumina pipeline with T = 64 tokens at its training size of 128 pixels, sharpened."""
    torch.manual_seed(0)
    transformer = LuminaNextDiT2DModel(
        sample_size=16, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_attention_heads=3,
        num_kv_heads=1, multiple_of=16, ffn_dim_multiplier=None, cross_attention_dim=32, learn_sigma=True,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.normal_(0, 0.3)
    pipe = LuminaPipeline(
        transformer=transformer,
        vae=AutoencoderKL(norm_num_groups=4, block_out_channels=(4,)),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=None,
        tokenizer=None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe, side, proportional):
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randn(1, 5, 32, generator=generator)
    mask = torch.ones(1, 5, dtype=torch.bool)
    return pipe(
        prompt=None, negative_prompt=None, prompt_embeds=prompt, prompt_attention_mask=mask,
        negative_prompt_embeds=torch.zeros_like(prompt), negative_prompt_attention_mask=mask, height=side, width=side,
        num_inference_steps=2, generator=generator, output_type="latent", proportional_attn=proportional,
    ).images  # fmt: skip


@pytest.mark.parametrize("side", [64, 128, 256])
def test_proportional_attention_is_our_rule(lumina, side):
    theirs = sample(lumina, side, proportional=True)
    with entropylab.rescale(lumina) as handle:
        ours = sample(lumina, side, proportional=False)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert len(handle.multipliers) == 2
    plain = sample(lumina, side, proportional=False)
    if side == 128:
        assert torch.equal(plain, ours), "at the training size both do nothing"
    else:
        assert (plain - theirs).abs().max() > 1e-2
