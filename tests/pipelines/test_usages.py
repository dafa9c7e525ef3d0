"""Ways in which people call a pipeline: images stay as they are, and every step, branch and sample is in its place."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

import entropylab
from tests.conftest import new_random_pipeline

SAMPLING = {"height": 64, "width": 64, "num_inference_steps": 3, "output_type": "latent", "guidance_scale": 4.0}
Usage = Callable[[Any], Any]


def sampled(pipe: Any, prompt: Any = "a red car", seed: int = 0, **options: Any) -> Any:
    return pipe(prompt, generator=torch.Generator().manual_seed(seed), **SAMPLING | options).images


def embedded(pipe: Any) -> Any:
    """Prompts that were encoded beforehand."""
    embeds = {
        name: pipe.encode_prompt(text, "cpu", 1, False)[0]
        for name, text in (("prompt_embeds", "a red car"), ("negative_prompt_embeds", ""))
    }
    return sampled(pipe, None, **embeds)


def unguided_from_the_second_step(pipe: Any) -> Any:
    def end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            pipe._guidance_scale = 0.0
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
        return tensors

    names = ["latents", "prompt_embeds"]
    return sampled(pipe, callback_on_step_end=end, callback_on_step_end_tensor_inputs=names)


def guided_ever_more(pipe: Any) -> Any:
    def end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 1.5 + 3 * step
        return tensors

    return sampled(pipe, callback_on_step_end=end)


def other_processors_midway(pipe: Any) -> Any:
    def end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe.unet.set_attn_processor(AttnProcessor() if step == 0 else AttnProcessor2_0())
        return tensors

    return sampled(pipe, callback_on_step_end=end)


def in_inference_mode(pipe: Any) -> Any:
    with torch.inference_mode():
        return sampled(pipe).clone()


def under_autocast(pipe: Any) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return sampled(pipe)


def with_channels_last(pipe: Any) -> Any:
    pipe.unet.to(memory_format=torch.channels_last)
    return sampled(pipe)


def fused(pipe: Any) -> Any:
    pipe.fuse_qkv_projections()
    return sampled(pipe)


def with_freeu(pipe: Any) -> Any:
    pipe.enable_freeu(0.9, 0.2, 1.1, 1.2)
    return sampled(pipe)


USAGES: list[tuple[Usage, bool]] = [
    (embedded, True),
    (unguided_from_the_second_step, False),
    (guided_ever_more, False),
    (other_processors_midway, True),
    (in_inference_mode, True),
    (under_autocast, False),
    (with_channels_last, True),
    (fused, True),
    (with_freeu, False),
    (lambda pipe: sampled(pipe, eta=0.5), False),
    (lambda pipe: sampled(pipe, negative_prompt="a blue house"), False),
]
"""How a pipeline is called, and whether that leaves the numbers of the plain call as they are."""


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    images, ds = recorded(sampled)
    assert not torch.equal(images, sampled(new_random_pipeline(), seed=1)), "other images would be told from these"
    return ds.entropy.values


def recorded(usage: Usage) -> tuple[Any, Any]:
    pipe = new_random_pipeline()
    with entropylab.record(pipe, strict=True) as rec:
        images = usage(pipe)
    return images, rec.dataset


@pytest.mark.parametrize(("usage", "same"), USAGES)
def test_a_usage_is_observed_undisturbed(usage: Usage, same: bool, plain: np.ndarray) -> None:
    images, ds = recorded(usage)
    assert torch.equal(images, usage(new_random_pipeline()))
    assert ds["branch"].values.tolist() == ["uncond", "cond"]
    assert (ds.sizes["sample"], ds.sizes["step"]) == (1, 3)
    gone = usage is unguided_from_the_second_step
    assert ds.entropy.sel(branch="uncond").notnull().any(["layer", "head"]).values.ravel().tolist() == (
        [True, False, False] if gone else [True] * 3
    )
    assert ds.entropy.sel(branch="cond").notnull().any(["layer", "head"]).all()
    close = np.allclose(ds.entropy.values, plain, rtol=0, atol=2e-5, equal_nan=True)
    assert close == same


@pytest.mark.parametrize("options", [{"num_images_per_prompt": 2}, {"prompt": ["a red car", "a blue house"]}])
def test_several_images_are_samples(options: dict[str, Any]) -> None:
    images, ds = recorded(lambda pipe: sampled(pipe, **options))
    assert torch.equal(images, sampled(new_random_pipeline(), **options))
    assert ds.sizes["sample"] == 2
    assert ds["prompt"].values.tolist() == ["a red car", "a red car" if "prompt" not in options else "a blue house"]
    assert float(abs(ds.entropy.isel(sample=0) - ds.entropy.isel(sample=1)).max()) > 1e-4


def test_without_guidance_there_is_one_branch() -> None:
    _, ds = recorded(lambda pipe: sampled(pipe, guidance_scale=1.0))
    assert ds["branch"].values.tolist() == ["cond"]
