"""What runs beside a denoiser in every step, ControlNets, is measured with it, and is no guidance branch."""

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

import entropylab
from entropylab import EntropyLabError, pipelines

from ..conftest import new_random_pipeline
from ..sampling import sample
from ..seeds import normal


def new_control(unet, seed=0):
    """A ControlNet as large as the first half of a U-Net, sharpened."""
    torch.manual_seed(seed)
    names = ("down_block_types", "block_out_channels", "layers_per_block", "cross_attention_dim", "attention_head_dim")
    settings = {name: unet.config[name] for name in names}
    model = ControlNetModel(**settings, norm_num_groups=8, conditioning_embedding_out_channels=(4, 8, 8))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "to_q" in name or "to_k" in name:
                weight *= 3
    return model.eval()


def new_pipe(nets=1):
    plain = new_random_pipeline()
    control = [new_control(plain.unet, seed) for seed in range(nets)]
    pipe = StableDiffusionControlNetPipeline(
        **plain.components | {"controlnet": control[0] if nets == 1 else control}, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe, nets=1, size=(64, 64), **more):
    picture = normal(2, 3, *size).sigmoid()
    return sample(pipe, size, steps=2, image=picture if nets == 1 else [picture] * nets, **more)


@pytest.mark.parametrize(("nets", "each", "guidance"), [(1, "", 2.0), (2, "nets.0.", 1.0)])
def test_its_layers_are_measured_in_the_branches_of_the_denoiser(nets, each, guidance):
    pipe = new_pipe(nets)
    plain = run(pipe, nets, guidance=guidance)
    with entropylab.record(pipe, strict=True) as rec:
        assert torch.equal(run(pipe, nets, guidance=guidance), plain)
    ds = rec.dataset
    assert ds.branch.values.tolist() == (["cond"] if guidance == 1 else ["uncond", "cond"])
    assert (ds.sizes["sample"], ds.sizes["step"]) == (2, 2)
    first = f"controlnet.{each}down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    one = ds.sel(layer=first)
    assert (one.kind.item(), one.tokens.item(), one.train_tokens.item()) == ("self", 256, 256)
    assert one.block.item() == ("controlnet.down_blocks.0" if nets == 1 else "controlnet.nets.0")
    assert bool(ds.entropy.isel(head=0).notnull().all())
    assert len([layer for layer in ds.layer.values if layer.startswith("unet")]) == 14
    with entropylab.record(pipe.controlnet) as alone:
        run(pipe, nets, guidance=guidance)
    found = ds.entropy.sel(layer=first).values.reshape(-1, 2, ds.sizes["step"], ds.sizes["head"])
    by_itself = alone.dataset.entropy.sel(layer=first.replace("controlnet", "model", 1)).squeeze().values
    np.testing.assert_allclose(np.concatenate(found), by_itself, rtol=1e-6)


def test_the_denoisers_numbers_are_what_they_are_without_it():
    pipe = new_pipe()
    with entropylab.record(pipe) as rec, entropylab.record(pipe, layers="unet*") as only:
        with entropylab.record(pipe, layers="controlnet*attn1") as beside:
            run(pipe)
    assert beside.dataset.sizes["layer"] == 3
    assert all(layer.startswith("unet") for layer in only.dataset.layer.values)
    both = rec.dataset.sel(layer=only.dataset.layer)
    np.testing.assert_array_equal(both.entropy, only.dataset.entropy)
    assert rec.dataset.sizes["layer"] == only.dataset.sizes["layer"] + 6


def test_where_it_sees_a_part_of_the_batch_it_is_named():
    pipe = new_pipe()
    with pytest.raises(EntropyLabError, match="controlnet.*batch of 2 where its denoiser has 4 images"):
        with entropylab.record(pipe, strict=True) as rec:
            run(pipe, guess_mode=True)
    assert len(rec.unmeasured) == 6
    assert all(layer.startswith("unet") for layer in rec.dataset.layer.values)
    assert rec.dataset.branch.values.tolist() == ["uncond", "cond"]


def test_it_is_not_rescaled_and_not_calibrated():
    pipe = new_pipe()
    with entropylab.rescale(pipe, 1.5) as handle, entropylab.record(pipe, layers="self") as rec:
        run(pipe)
    assert all(layer.startswith("unet") for layer in handle.multipliers)
    factors = rec.dataset.multiplier.squeeze()
    beside = rec.dataset.layer.str.startswith("controlnet")
    assert set(factors[beside].values) == {1.0}
    assert set(factors[~beside].values) == {1.5}


def test_what_is_beside_and_what_denoises(random_pipe):
    pipe = new_pipe()
    assert (list(pipelines.denoisers(pipe)), list(pipelines.conditioners(pipe))) == (["unet"], ["controlnet"])
    assert (list(pipelines.denoisers(random_pipe)), pipelines.conditioners(random_pipe)) == (["unet"], {})
    assert pipelines.conditioners(pipe.controlnet) == {}
