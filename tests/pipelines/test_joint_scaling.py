"""Rescaling with what tokens stand for: how many there are, and how many there were in training."""

import math

import numpy as np
import pytest
import torch

import entropylab
from entropylab.errors import EntropyLabError

from ..joints import inputs, new_joint
from ..zoo import BY_NAME
from ..zoo.joint_parts import flux_call, two_steps


def test_tokens_follow_the_text_and_the_size_of_every_call():
    """FLUX packs its latents, so that only the call says the size: the image's tokens grow, the text's do not."""
    pipe = BY_NAME["FLUX.1"].build()
    asked, plain = [], two_steps(pipe, **flux_call(10))

    def rule(tokens, trained):
        asked.append((tokens, trained))
        return 1.0

    with entropylab.rescale(pipe, rule, train_size=(64, 64)):
        asked.clear()  # a rule is tried before any sampling
        assert torch.equal(two_steps(pipe, **flux_call(10)), plain)
        for given in (flux_call(13), flux_call(10, height=64, width=64), flux_call(26, height=64, width=64)):
            two_steps(pipe, **given)
    assert set(asked) == {(58, 26), (61, 29), (26, 26), (42, 42)}


@pytest.mark.parametrize("name", ["FLUX.1", "CogVideoX"])
def test_images_at_the_training_size_are_bit_identical(name):
    family = BY_NAME[name]
    pipe = family.build()
    plain = family.sample(pipe)
    with entropylab.rescale(pipe, train_size=family.size) as handle:
        assert torch.equal(plain, family.sample(pipe))
    assert set(handle.multipliers.values()) == {1.0}
    with entropylab.rescale(pipe, train_size=(family.size[0] // 2, family.size[1] // 2)) as handle:
        assert not torch.equal(plain, family.sample(pipe))
    if name == "FLUX.1":
        np.testing.assert_allclose(list(handle.multipliers.values()), math.sqrt(math.log(58) / math.log(22)))
    assert min(handle.multipliers.values()) > 1.0


@pytest.mark.parametrize(
    "name", ["Kandinsky 2.2", "Stable Cascade prior", "Würstchen prior", "DreamLite", "Helios", "Wan 2.1"]
)
def test_keys_at_the_training_size_are_those_of_a_run_there(name):
    """Latents of Kandinsky's and Würstchen's autoencoders, a picture beside a reference, a video and its past."""
    family, asked = BY_NAME[name], set()
    pipe, trained = family.build(), (2 * family.size[0], family.size[1])

    def rule(tokens, train_tokens):
        asked.add((tokens, train_tokens))
        return 1.0

    with entropylab.rescale(pipe, rule, train_size=trained), entropylab.record(pipe, layers=["self", "joint"]) as here:
        asked.clear()
        family.sample(pipe)
    with entropylab.record(pipe, layers=["self", "joint"]) as there:
        family.sample(pipe, *trained)
    ran = (each.dataset.tokens.values.ravel().tolist() for each in (here, there))
    assert asked == set(zip(*ran, strict=True)) and all(tokens < then for tokens, then in asked)


def test_a_training_size_is_no_guess_where_the_autoencoder_is_elsewhere():
    family = BY_NAME["Kandinsky 3"]
    pipe = family.build()
    assert pipe.movq is None
    with pytest.raises(EntropyLabError, match="can't be told"), entropylab.rescale(pipe, train_size=512):
        family.sample(pipe)


def test_a_size_that_kandinsky_rounds_is_what_it_samples():
    family = BY_NAME["Kandinsky 2.2"]
    with entropylab.record(pipe := family.build()) as rec:
        family.sample(pipe, 60, 96)
    assert rec.dataset["size"].values.tolist() == ["64x96"]


def test_text_among_itself_is_left_alone():
    """Refining layers attend among the text, or among the image, before both join."""
    family = BY_NAME["Lumina Image 2.0"]
    pipe = family.build()
    with entropylab.record(pipe) as rec:
        family.sample(pipe)
    ds = rec.dataset
    layers = {part: set(ds.module.values[(ds.part.values == part) & (ds.kind.values == "self")])
              for part in ("text", "image")}  # fmt: skip
    assert layers["text"] and layers["image"]
    with entropylab.rescale(pipe, 1.5, train_size=64) as handle:
        family.sample(pipe)
    assert not layers["text"] & set(handle.multipliers)
    assert layers["image"] <= set(handle.multipliers)


def test_unknown_training_tokens_are_an_error_and_no_guess():
    """A bare model of packed tokens, called without anybody saying at which size."""
    model = new_joint()
    with torch.no_grad(), entropylab.rescale(model, train_size=64):
        with pytest.raises(EntropyLabError, match="can't be told"):
            model(**inputs())
