"""Pictures that the tests of quality share: sampled once by the embedded pipeline, few steps, in its training size."""

import pytest
import torch

from entropylab.models.prompts import default_settings
from entropylab.quality.evaluation import captions
from entropylab.quality.methods import as_images

from ..seeds import generators

COUNT = 64


@pytest.fixture(scope="session")
def prompts():
    return captions()[:COUNT]


@pytest.fixture(scope="session")
def sampled(embedded, prompts):
    """64 pictures (64, 3, 64, 64) of uint8, each of another prompt."""
    settings = default_settings(embedded) | {"num_inference_steps": 3, "output_type": "np"}
    seeded = generators(COUNT)
    parts = [
        embedded(prompts[i : i + 16], height=64, width=64, generator=seeded[i : i + 16], **settings).images
        for i in range(0, COUNT, 16)
    ]
    return torch.cat([as_images(part) for part in parts])
