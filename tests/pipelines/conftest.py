"""A pipeline with few layers of attention, for loops of one's own."""

import pytest

from ..conftest import new_random_pipeline


@pytest.fixture(scope="module")
def pipe():
    return new_random_pipeline(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D")
    )
