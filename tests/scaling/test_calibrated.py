"""A calibration knows which weights it is of."""

import warnings

import numpy as np
import pytest
import torch

from entropylab import pipelines
from entropylab.calibration import ByLayer
from entropylab.checkpoints import magnitudes
from entropylab.errors import EntropyLabWarning

from ..conftest import new_random_pipeline


@pytest.fixture(scope="module")
def rule():
    pipe = new_random_pipeline()
    layers = pipelines.layers(pipe)
    tokens = {layer.path: np.zeros(1) for layer in layers}
    return ByLayer(tokens, {layer.path: np.zeros((1, layer.heads)) for layer in layers}, weights=magnitudes(pipe))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_same_weights_in_any_precision(rule, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rule.check(new_random_pipeline().to(dtype=dtype))


def test_another_checkpoint_of_the_same_architecture_is_warned_of(rule):
    other = new_random_pipeline()
    with torch.no_grad():
        for weight in other.unet.mid_block.parameters():
            weight.copy_(torch.randn_like(weight))
    with pytest.warns(EntropyLabWarning, match="of other weights: 2 of .* layers differ, as unet.mid_block"):
        rule.check(other)
