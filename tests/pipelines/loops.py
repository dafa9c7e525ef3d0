"""Denoising loops of one's own with guidance, and what their branches should give, by float64 maps."""

import numpy as np
import torch
from diffusers import DDIMScheduler

import entropylab

from ..maps import materialised

TEXTS = {
    name: torch.randn(2, 24, 128, generator=torch.Generator().manual_seed(seed)) * 2 for seed, name in enumerate("cut")
}
"""Embeddings of two prompts, of none, and of a third kind."""


def start(samples=2):
    return torch.randn(samples, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def sampled(pipe, predict, latents=None, scheduler=None, steps=3, look=True):
    """A loop of one's own with the pipeline's scheduler: the Dataset, the latents, and those of every step."""
    pipe.scheduler = scheduler or DDIMScheduler(steps_offset=1, clip_sample=False)
    latents, before = start() if latents is None else latents, []
    if not look:
        return looped(pipe, predict, latents, before, steps)
    with entropylab.record(pipe) as rec:
        latents = looped(pipe, predict, latents, before, steps)
    assert rec.unmeasured == {}
    return rec.dataset, latents, before


@torch.no_grad()
def looped(pipe, predict, latents, before, steps=3):
    torch.manual_seed(1)  # for schedulers that draw noise
    pipe.scheduler.set_timesteps(steps)
    for index, timestep in enumerate(pipe.scheduler.timesteps):
        scaled = pipe.scheduler.scale_model_input(latents, timestep)
        before.append((scaled, timestep))
        latents = pipe.scheduler.step(predict(pipe, index, scaled, timestep), timestep, latents).prev_sample
    return latents


def net(pipe, latents, timestep, text):
    return pipe.unet(latents, timestep, encoder_hidden_states=text).sample


def doubled(order, combine):
    """All branches in one batch."""

    def predict(pipe, index, latents, timestep):
        text = torch.cat([TEXTS[name] for name in order])
        outputs = net(pipe, torch.cat([latents] * len(order)), timestep, text).chunk(len(order))
        return combine(dict(zip(order, outputs, strict=True)), index)

    return predict


def separate(order, combine):
    """Every branch in a call of its own."""

    def predict(pipe, index, latents, timestep):
        return combine({name: net(pipe, latents, timestep, TEXTS[name]) for name in order}, index)

    return predict


def guidance(scale):
    return lambda out, index: out["u"] + scale * (out["c"] - out["u"])


def alone(pipe, before, text):
    """Entropies by running the denoiser with one text alone on the latents of every step, by whole maps in float64."""
    with materialised(pipe.unet) as maps, torch.no_grad():
        for latents, timestep in before:
            net(pipe, latents, timestep, text)
    heads = max(calls[0][0].shape[1] for calls in maps.values())
    found = np.full((len(text), len(before), len(maps), heads), np.nan)
    for index, calls in enumerate(maps.values()):
        for step, (entropy, _) in enumerate(calls):
            found[:, step, index, : entropy.shape[1]] = entropy.mean(-1)
    return found


def of_branch(ds, branch):
    return ds.entropy.sel(branch=branch).squeeze(("size", "scaling")).transpose("sample", "step", "layer", "head")


def agree(ds, pipe, before, **texts):
    """Every branch has the numbers of a run of the denoiser with that branch's text alone."""
    for branch, text in texts.items():
        np.testing.assert_allclose(of_branch(ds, branch), alone(pipe, before, TEXTS[text]), atol=2e-5)
