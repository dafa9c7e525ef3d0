"""What runs beside a denoiser in every step, ControlNets, is measured with it, and is no guidance branch."""

import copy

import numpy as np
import pytest
import torch

import entropylab
from entropylab import EntropyLabError, pipelines

from ..zoo import BY_NAME
from ..zoo.unet_parts import picture
from ..zoo.unets import sample_stable


@pytest.fixture
def pipe():
    pipe = BY_NAME["ControlNet"].build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe, **more):
    image = [picture()] * 2 if hasattr(pipe.controlnet, "nets") else picture()
    return sample_stable(pipe, 2, image=image, **more)


def beside_of(paths):
    return {path for path in paths if path.startswith("controlnet.")}


def test_layers_of_several_at_once_are_measured_without_guidance(pipe):
    nets = [pipe.controlnet, copy.deepcopy(pipe.controlnet)]
    pipe = type(pipe)(**pipe.components | {"controlnet": nets}, requires_safety_checker=False)
    plain = run(pipe, guidance_scale=1.0)
    with entropylab.record(pipe, strict=True) as rec, entropylab.record(pipe.controlnet) as alone:
        assert torch.equal(run(pipe, guidance_scale=1.0), plain)
    ds = rec.dataset
    assert (ds.branch.values.tolist(), ds.sizes["sample"], ds.sizes["step"]) == (["cond"], 2, 2)
    place = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    one, denoisers = ds.sel(layer=f"controlnet.nets.0.{place}"), ds.sel(layer=f"unet.{place}")
    for name in ("kind", "tokens", "train_tokens"):
        assert one[name].item() == denoisers[name].item()
    assert one.block.item() == "controlnet.nets.0"
    assert bool(ds.entropy.isel(head=0).notnull().all())
    by_itself = alone.dataset.entropy.sel(layer=f"model.nets.0.{place}")
    np.testing.assert_allclose(one.entropy.values.ravel(), by_itself.values.ravel(), rtol=1e-6)


def test_the_denoisers_numbers_are_what_they_are_without_it(pipe):
    """It is not rescaled either."""
    with entropylab.rescale(pipe, 1.5) as handle, entropylab.record(pipe) as rec:
        with entropylab.record(pipe, layers="unet*") as only, entropylab.record(pipe, layers="controlnet*attn1") as few:
            run(pipe)
    every, wanted = (set(each.dataset.layer.values) for each in (rec, only))
    assert wanted and wanted == every - beside_of(every)
    assert set(few.dataset.layer.values) == {layer for layer in beside_of(every) if layer.endswith("attn1")}
    np.testing.assert_array_equal(rec.dataset.sel(layer=only.dataset.layer).entropy, only.dataset.entropy)
    assert handle.multipliers and not beside_of(handle.multipliers)
    among = rec.dataset.isel(layer=rec.dataset.kind == "self")
    for layer, factor in zip(among.layer.values, among.multiplier.squeeze().values, strict=True):
        assert factor == (1.0 if beside_of([layer]) else 1.5)


def test_where_it_sees_a_part_of_the_batch_it_is_named(pipe):
    with pytest.raises(EntropyLabError, match="controlnet.*batch of 2 where its denoiser has 4 images"):
        with entropylab.record(pipe, strict=True) as rec:
            run(pipe, guess_mode=True)
    assert beside_of(rec.unmeasured) == set(rec.unmeasured) and not beside_of(rec.dataset.layer.values)
    assert rec.dataset.branch.values.tolist() == ["uncond", "cond"]


def test_what_is_beside_and_what_denoises(pipe, random_pipe):
    assert (list(pipelines.denoisers(pipe)), list(pipelines.conditioners(pipe))) == (["unet"], ["controlnet"])
    assert (list(pipelines.denoisers(random_pipe)), pipelines.conditioners(random_pipe)) == (["unet"], {})
    assert pipelines.conditioners(pipe.controlnet) == {}


class Wrapper(torch.nn.Module):
    """Hands on whatever it is handed, as DistributedDataParallel and models of PEFT do, twice."""

    def __init__(self, inner):
        super().__init__()
        self.module = inner

    def __getattr__(self, name):
        found = self._modules.get(name)
        return getattr(self._modules["module"], name) if found is None else found

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def test_a_denoiser_in_a_wrapper_is_the_denoiser(pipe):
    with entropylab.record(pipe) as bare:
        run(pipe)
    unet = pipe.unet
    pipe.unet = Wrapper(Wrapper(unet))
    assert (list(pipelines.denoisers(pipe)), list(pipelines.conditioners(pipe))) == (["unet"], ["controlnet"])
    with entropylab.record(pipe, strict=True) as rec:
        run(pipe)
    layers = [path.replace("unet.module.module", "unet") for path in rec.dataset.layer.values]
    assert layers == bare.dataset.layer.values.tolist()
    for name in ("entropy", "timestep", "train_tokens", "kind", "part", "branch"):
        np.testing.assert_array_equal(rec.dataset[name], bare.dataset[name])
