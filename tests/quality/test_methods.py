"""Baselines: what they sample, at which size, and that they leave the pipeline as it was."""

import numpy as np
import pytest
import torch
from PIL import Image

import entropylab
from entropylab import EntropyLabError
from entropylab.quality.evaluation import own_call
from entropylab.quality.methods import MultiDiffusion, Resized, as_images, check_methods, resized

from ..seeds import generators

PROMPTS = ["a red car", "a blue house"]
DRAW = own_call({"num_inference_steps": 2, "guidance_scale": 2.0})


def sampled(pipe, name, size, draw=DRAW):
    (method,) = check_methods(pipe, [name], None)
    return method.sample(pipe, size, PROMPTS, generators(len(PROMPTS)), draw)


def test_every_method_gives_the_size_and_leaves_the_pipeline_as_it_was(random_pipe):
    before = sampled(random_pipe, "original", (32, 32))
    for name in ("original", "sqrt_log", 1.2, "resize", "multidiffusion"):
        assert tuple(sampled(random_pipe, name, (64, 96)).shape) == (2, 3, 64, 96)
    assert torch.equal(sampled(random_pipe, "original", (32, 32)), before)


def test_resize_and_multidiffusion_are_the_pipeline_itself_at_the_training_size(random_pipe):
    home = sampled(random_pipe, "original", (64, 64))
    assert torch.equal(sampled(random_pipe, "resize", (64, 64)), home)
    assert torch.equal(sampled(random_pipe, "resize", (32, 32)), resized(home, (32, 32)))
    assert not torch.equal(sampled(random_pipe, "original", (32, 32)), resized(home, (32, 32)))
    assert (sampled(random_pipe, "multidiffusion", (64, 64)).int() - home.int()).abs().max() <= 1
    wide = sampled(random_pipe, "multidiffusion", (64, 96)).int()
    assert (wide - sampled(random_pipe, "original", (64, 96)).int()).abs().max() > 1


def test_a_training_size_that_is_named_is_that_of_methods_that_do_not_name_one(random_pipe):
    def draw(pipe, size, prompts, generators):
        asked.append(size)
        return torch.zeros(1, 3, *size, dtype=torch.uint8)

    asked = []
    for method in check_methods(random_pipe, ["resize", Resized(name="mine"), Resized(None, 48, "own")], 32):
        method.sample(random_pipe, (64, 64), PROMPTS, [], draw)
    assert asked == [(32, 32), (32, 32), (48, 48)]


def test_multidiffusion_needs_the_training_size_and_the_parts_of_stable_diffusion(random_pipe):
    method = MultiDiffusion()
    assert method.applies(random_pipe, (64, 96), None)
    assert not method.applies(random_pipe, (96, 56), None)
    with pytest.raises(EntropyLabError, match="needs the parts of a StableDiffusionPipeline.*no unet"):
        check_methods(entropylab.load("emoji-joint", device="cpu"), ["multidiffusion"], None)


def test_resizing_keeps_shapes_and_cuts_the_middle():
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    image[..., 24:40, 24:40] = 200
    found = resized(image, (32, 64))
    assert tuple(found.shape) == (1, 3, 32, 64)
    bright = found[0, 0] > 100
    assert int(bright.any(1).sum()) == int(bright.any(0).sum()) == 16
    assert torch.equal(resized(image, (64, 64)), image)
    assert abs(resized(image, (32, 32)).float().mean() - image.float().mean()) < 1


def test_pictures_in_every_form():
    array = np.random.default_rng(0).random((2, 8, 6, 3))
    expected = torch.from_numpy((array * 255).round().astype(np.uint8)).permute(0, 3, 1, 2)
    bytes_ = expected.permute(0, 2, 3, 1).numpy()
    tensor, images = torch.from_numpy(array).permute(0, 3, 1, 2), [Image.fromarray(one) for one in bytes_]
    for form in (array, bytes_, images, tensor, list(array)):
        assert torch.equal(as_images(form), expected)
    with pytest.raises(EntropyLabError, match=r"call must give pictures.*Got shape \(2, 4, 4, 4\)"):
        as_images(np.zeros((2, 4, 4, 4)))


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ([], "scaling must name at least one rule or method"),
        (["resize", "resize"], "each once"),
        (["upscale"], "scaling must be one of original, sqrt_log.*Baselines are resize, multidiffusion"),
        (["calibrated"], "needs a calibration"),
        ([-1.0], "finite multiplier > 0"),
    ],
)
def test_methods_that_are_none(random_pipe, scaling, message):
    with pytest.raises(EntropyLabError, match=message):
        check_methods(random_pipe, scaling, None)
