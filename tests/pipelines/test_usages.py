"""Ways in which people call a pipeline: images stay as they are, and every step, branch and sample is in its place."""

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

import entropylab
from entropylab import EntropyLabError, EntropyLabWarning
from entropylab.measuring.checks import call_settings

from ..conftest import new_random_pipeline
from ..sampling import sample
from ..seeds import generator, normal
from ..zoo import BY_NAME
from ..zoo.joint_packed import codes, glm_image_call
from ..zoo.joint_parts import flux_call, image_vae, photo, texts, two_steps


def sampled(pipe, prompt="a red car", seed=0, **options):
    return pipe(
        prompt, height=32, width=32, num_inference_steps=3, output_type="latent", guidance_scale=4.0,
        generator=generator(seed), **options,
    ).images.clone()  # fmt: skip


def embedded(pipe):
    """Prompts that were encoded beforehand."""
    given, avoided = (pipe.encode_prompt(text, "cpu", 1, False)[0] for text in ("a red car", ""))
    return sampled(pipe, None, prompt_embeds=given, negative_prompt_embeds=avoided)


def changed(change):
    """A call in which ``change(pipe, step, tensors)`` is made after every step."""

    def end(pipe, step, timestep, tensors):
        change(pipe, step, tensors)
        return tensors

    inputs = ["latents", "prompt_embeds"]
    return lambda pipe: sampled(pipe, callback_on_step_end=end, callback_on_step_end_tensor_inputs=inputs)


def unguided(pipe, step, tensors):
    if step == 0:
        pipe._guidance_scale = 0.0
        tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]


def other_processors(pipe, step, tensors):
    pipe.unet.set_attn_processor(AttnProcessor() if step == 0 else AttnProcessor2_0())


def within(context):
    def usage(pipe):
        with context():
            return sampled(pipe)

    return usage


def prepared(prepare):
    def usage(pipe):
        prepare(pipe)
        return sampled(pipe)

    return usage


USAGES = {
    "embedded": (embedded, True),
    "unguided from the second step": (changed(unguided), False),
    "other processors midway": (changed(other_processors), True),
    "in inference mode": (within(torch.inference_mode), True),
    "under autocast": (within(lambda: torch.autocast("cpu", torch.bfloat16)), False),
    "with channels last": (prepared(lambda pipe: pipe.unet.to(memory_format=torch.channels_last)), True),
    "fused": (prepared(lambda pipe: pipe.fuse_qkv_projections()), True),
    "with FreeU": (prepared(lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.1, 1.2)), False),
}
"""How a pipeline is called, and whether that leaves the numbers of the plain call as they are."""


def recorded(usage):
    pipe = new_random_pipeline()
    with entropylab.record(pipe, strict=True) as rec:
        images = usage(pipe)
    assert torch.equal(images, usage(new_random_pipeline()))
    return images, rec.dataset


@pytest.fixture(scope="module")
def plain():
    images, ds = recorded(sampled)
    assert not torch.equal(images, sampled(new_random_pipeline(), seed=1)), "other images would be told from these"
    return ds.entropy.values


@pytest.mark.parametrize("name", USAGES)
def test_a_usage_is_observed_undisturbed(name, plain):
    usage, same = USAGES[name]
    _, ds = recorded(usage)
    assert ds["branch"].values.tolist() == ["uncond", "cond"]
    assert (ds.sizes["sample"], ds.sizes["step"]) == (1, 3)
    known = ds.entropy.notnull().any(["layer", "head"]).transpose("branch", "step", ...).values.reshape(2, 3)
    gone = name == "unguided from the second step"
    assert known.tolist() == [[True, not gone, not gone], [True] * 3]
    assert np.allclose(ds.entropy.values, plain, rtol=0, atol=2e-5, equal_nan=True) == same


@pytest.mark.parametrize("options", [{"num_images_per_prompt": 2}, {"prompt": ["a red car", "a blue house"]}])
def test_several_images_are_samples(options):
    _, ds = recorded(lambda pipe: sampled(pipe, **options))
    assert ds.sizes["sample"] == 2
    assert ds["prompt"].values.tolist() == ["a red car", "a red car" if "prompt" not in options else "a blue house"]
    assert float(abs(ds.entropy.isel(sample=0) - ds.entropy.isel(sample=1)).max()) > 1e-4


def test_references_that_a_model_is_shown_before_the_steps_are_in_none():
    """GLM-Image is shown one picture after the other, and keeps their keys."""
    family = BY_NAME["GLM-Image, reference image"]
    more = {"image": [[photo(64, 80)] * 2], "prior_token_image_ids": [codes(4, 40)[0]]}
    more["source_image_grid_thw"] = [torch.tensor([[1, 4, 5]] * 2)]
    with entropylab.record(pipe := family.build()) as rec:
        two_steps(pipe, *family.size, **glm_image_call(**more))
    assert rec.dataset.sizes["step"] == 2 and rec.dataset.entropy.notnull().all("step").any()
    assert set(rec.dataset.branch.values) == {"cond", "uncond"}


SIDES = {
    "of numpy": ((np.int64(64), np.int64(96)), "64x96"),
    "floats": ((64.0, 96.0), "64x96"),
    "tensors": ((torch.tensor(64), torch.tensor(96)), "64x96"),
    "height alone": ((64, None), "64x128"),
    "width alone": ((None, 64), "128x64"),
    "none": ((None, None), "128x128"),
}


@pytest.mark.parametrize("case", SIDES)
def test_a_size_is_what_diffusers_makes_of_it(case):
    """FLUX packs its latents, so that only the call says the size."""
    (height, width), wanted = SIDES[case]
    pipe = BY_NAME["FLUX.1"].build()
    pipe.default_sample_size = 16
    with entropylab.record(pipe) as rec:
        two_steps(pipe, **flux_call(10, height=height, width=width))
    high, wide = (int(side) // 16 for side in wanted.split("x"))
    assert rec.dataset["size"].values.tolist() == [wanted]
    assert set(rec.dataset.tokens.values.ravel()) == {10 + high * wide}


def test_a_size_that_the_pipeline_changes_is_what_it_samples(random_pipe):
    """FLUX.1 Kontext keeps to a number of pixels, Qwen-Image-Edit to the shape of its picture."""
    kontext, pictured = BY_NAME["FLUX.1 Kontext"].build(), BY_NAME["Qwen-Image-Edit"]
    with entropylab.record(kontext) as rec:
        two_steps(kontext, **flux_call(10, image=normal(1, 16, 8, 8), height=64, width=64, max_area=96 * 96))
    assert rec.dataset["size"].values.tolist() == ["96x96"]
    with entropylab.record(pipe := pictured.build()) as rec:
        call = texts(14, (14,), (5,), mask="prompt_embeds_mask") | {"image": photo(64, 96)}
        latents = two_steps(pipe, None, None, **call)
    (size,) = rec.dataset["size"].values
    height, width = (int(side) // pipe.vae_scale_factor // 2 for side in size.split("x"))
    assert height < width and height * width == latents.shape[1]
    ds = entropylab.measure(random_pipe, np.array([32, 64]), prompts=["a red car"], steps=np.int64(1))
    assert ds["size"].values.tolist() == ["32x32", "64x64"]


def test_a_pipeline_that_shares_the_denoiser_and_is_not_followed_samples_an_unknown_size():
    pipe = BY_NAME["FLUX.1"].build()
    other = type(pipe)(**pipe.components)
    with entropylab.record(pipe) as rec:
        two_steps(pipe, **flux_call(10, height=64, width=96))
        two_steps(other, **flux_call(10, height=64, width=64))
    assert rec.dataset["size"].values.tolist() == ["64x96", "unknown"]
    with pytest.raises(EntropyLabError, match="latent size None"), entropylab.rescale(pipe, train_size=96):
        two_steps(other, **flux_call(10, height=64, width=64))
    pipe.register_modules(**image_vae())  # says how many numbers an image of the pipeline's own size has
    for size, known in ((64, "unknown"), (128, "128x128")):
        other.default_sample_size = pipe.default_sample_size = 16
        with entropylab.record(pipe) as rec:
            two_steps(other, **flux_call(10, height=size, width=size))
        assert rec.dataset["size"].values.tolist() == [known]


def test_measuring_another_size_than_asked_is_refused(random_pipe):
    def larger(pipe, size, prompts, generators):
        pipe(prompts, height=64, width=64, num_inference_steps=1, output_type="latent")

    assert call_settings(BY_NAME["Sana"].build(), 1, None)["use_resolution_binning"] is False
    with pytest.raises(EntropyLabError, match="would sample 64x64 where sizes= asks for 32x32"):
        entropylab.measure(random_pipe, [32], prompts=["a red car"], call=larger, progress=False)
    assert entropylab.measure(random_pipe, [64], prompts=["a red car"], call=larger, progress=False).tokens.max() == 256


def test_latents_that_are_given_say_the_size(random_pipe):
    """Stable Diffusion ignores what height and width say beside them."""
    with entropylab.record(random_pipe) as rec:
        for sides in ({}, {"height": 32, "width": 32}):
            options = {"latents": normal(1, 4, 16, 12), "num_inference_steps": 1, "output_type": "latent"}
            random_pipe("a red car", **options, **sides)
    assert rec.dataset["size"].values.tolist() == ["64x48"] and rec.dataset.tokens.max() == 16 * 12


def test_a_batch_that_shrinks_has_no_prompts(random_pipe):
    """Which image a callback has left can't be told: the second one stands where the first was."""

    def second(pipe, step, timestep, tensors):
        if step == 0:
            tensors["latents"] = tensors["latents"][1:]
            tensors["prompt_embeds"] = tensors["prompt_embeds"][1::2]
        return tensors

    more = {"callback_on_step_end": second, "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
    for options, known in (({}, True), (more, False)):
        with entropylab.record(random_pipe, maps=True) as rec:
            sample(random_pipe, (32, 32), **options)
        (group, *_) = rec.maps["32x32"].children.values()
        assert ("prompt" in rec.dataset.coords) == known and ("prompt" in group.coords) == known


def test_a_callback_that_changes_the_pictures_size_begins_another_size(random_pipe):
    """Steps are of as many keys as they have; ``measure`` asks for one size, and names what else attends."""

    def larger(pipe, step, timestep, tensors):
        return {"latents": tensors["latents"].repeat(1, 1, 2, 1)} if step == 0 else tensors

    def call(pipe, *ignored):
        options = {"height": 32, "width": 48, "num_inference_steps": 3, "output_type": "latent"}
        return pipe("a red car", callback_on_step_end=larger, **options)

    with entropylab.record(random_pipe, maps=True) as rec:
        call(random_pipe)
    ds = rec.dataset
    assert ds["size"].values.tolist() == list(rec.maps) == ["32x48", "64x48"] and ds.prompt.item() == "a red car"
    known = ds.entropy.notnull().any("head").all(["layer", "branch"])
    assert known.values.squeeze().tolist() == [[True, False], [True] * 2]
    assert ds.tokens.max("layer").values.tolist() == [8 * 12, 16 * 12]
    assert (ds["keys"].isel(step=0, branch=0, head=0).squeeze() == ds.tokens).all()
    with pytest.warns(EntropyLabWarning, match="another size than"):
        ds = entropylab.measure(random_pipe, [(32, 48)], prompts=["a red car"], call=call, progress=False)
    assert ds.sizes["step"] == 1 and ds.tokens.max() == 8 * 12
