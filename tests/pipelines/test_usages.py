"""Ways in which people call a pipeline: images stay as they are, and every step, branch and sample is in its place."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

import entropylab
from tests.conftest import new_random_pipeline
from tests.zoo import BY_NAME
from tests.zoo.joint_packed import codes, glm_image_call
from tests.zoo.joint_parts import photo, two_steps

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


def changed(change: Callable[..., Any], **options: Any) -> Usage:
    """A call in which ``change(pipe, step, tensors)`` is made after every step."""

    def usage(pipe: Any) -> Any:
        def end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            change(pipe, step, tensors)
            return tensors

        return sampled(pipe, callback_on_step_end=end, **options)

    return usage


def unguided(pipe: Any, step: int, tensors: dict[str, Any]) -> None:
    if step == 0:
        pipe._guidance_scale = 0.0
        tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]


def guided_ever_more(pipe: Any, step: int, tensors: dict[str, Any]) -> None:
    pipe._guidance_scale = 1.5 + 3 * step


def other_processors(pipe: Any, step: int, tensors: dict[str, Any]) -> None:
    pipe.unet.set_attn_processor(AttnProcessor() if step == 0 else AttnProcessor2_0())


def within(context: Callable[[], Any]) -> Usage:
    def usage(pipe: Any) -> Any:
        with context():
            return sampled(pipe).clone()

    return usage


def prepared(prepare: Callable[[Any], Any]) -> Usage:
    def usage(pipe: Any) -> Any:
        prepare(pipe)
        return sampled(pipe)

    return usage


unguided_from_the_second_step = changed(unguided, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])

USAGES: dict[str, tuple[Usage, bool]] = {
    "embedded": (embedded, True),
    "unguided from the second step": (unguided_from_the_second_step, False),
    "guided ever more": (changed(guided_ever_more), False),
    "other processors midway": (changed(other_processors), True),
    "in inference mode": (within(torch.inference_mode), True),
    "under autocast": (within(lambda: torch.autocast("cpu", torch.bfloat16)), False),
    "with channels last": (prepared(lambda pipe: pipe.unet.to(memory_format=torch.channels_last)), True),
    "fused": (prepared(lambda pipe: pipe.fuse_qkv_projections()), True),
    "with FreeU": (prepared(lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.1, 1.2)), False),
    "with noise": (lambda pipe: sampled(pipe, eta=0.5), False),
    "with a negative prompt": (lambda pipe: sampled(pipe, negative_prompt="a blue house"), False),
}
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


@pytest.mark.parametrize(("usage", "same"), USAGES.values(), ids=USAGES)
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


def test_references_that_a_model_is_shown_before_the_steps_are_in_none() -> None:
    """GLM-Image is shown one picture after the other, and keeps their keys."""
    family = BY_NAME["GLM-Image, reference image"]
    more = {"image": [[photo(64, 80)] * 2], "prior_token_image_ids": [codes(4, 40)[0]]}
    more["source_image_grid_thw"] = [torch.tensor([[1, 4, 5]] * 2)]
    with entropylab.record(pipe := family.build()) as rec:
        two_steps(pipe, *family.size, **glm_image_call(**more))
    assert rec.dataset.sizes["step"] == 2 and rec.dataset.entropy.notnull().all("step").any()
    assert set(rec.dataset.branch.values) == {"cond", "uncond"}
