"""What ``record`` can be asked for, and what it refuses."""

import pytest
import torch

import entropylab
from entropylab.errors import EntropyLabError

from ..sampling import sample
from .layers import Denoiser, run

BAD = [
    ({"statistics": ["entropyy"]}, "statistics must be some of"),
    ({"statistics": []}, "statistics must be some of"),
    ({"rows": 2.5}, "rows must be an int >= 1"),
    ({"layers": "*attn7"}, "matches none of the"),
    ({"layers": []}, "layers must name at least one"),
    ({"keep": ["sample", "pixel"]}, "keep must be some of"),
]


def test_bad_options(random_pipe):
    for options, message in BAD:
        with pytest.raises(EntropyLabError, match=message), entropylab.record(random_pipe, **options):
            pytest.fail("nothing may run")


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        ("pipe", "must be a diffusers pipeline or a torch.nn.Module. Got str"),
        (torch.nn.Linear(2, 2), "Linear has no attention layer"),
    ],
)
def test_what_is_no_pipeline(thing, message):
    with pytest.raises(EntropyLabError, match=message), entropylab.record(thing):
        pytest.fail("nothing may run")


def test_nothing_was_chosen(random_pipe):
    with entropylab.record(random_pipe, layers="joint") as rec:
        sample(random_pipe, steps=1)
    with pytest.raises(EntropyLabError, match=r"14 attention layers ran, and none is chosen by layers=.'joint'."):
        _ = rec.dataset
    options = {"prompts": ["a red car"], "samples": 1, "steps": 1, "progress": False}
    with pytest.raises(EntropyLabError, match=r"none is chosen by layers=.'joint'.; the first is unet.*of kind 'self'"):
        entropylab.measure(random_pipe, [64], layers="joint", **options)


def test_nothing_could_be_measured():
    model = Denoiser(layers=1)
    model.layers[0].hidden = True
    with pytest.warns(UserWarning, match="could not be measured"), entropylab.record(model) as rec:
        run(model)
    with pytest.raises(EntropyLabError, match=r"1 attention layer ran, and none could be measured: model.layers.0"):
        _ = rec.dataset


def test_dataset_before_anything_ran(random_pipe):
    with entropylab.record(random_pipe) as rec, pytest.raises(EntropyLabError, match="nothing was measured yet"):
        _ = rec.dataset
