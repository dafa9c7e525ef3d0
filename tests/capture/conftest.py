"""What the tests of watching share."""

import pytest
from torch.nn.attention import flex_attention as flex

from ..state import state


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    before = state()
    yield
    assert state() == before


@pytest.fixture
def quick_flex(monkeypatch):
    """Flex attention as it is written: outside of tests it is compiled, if only to be run as it is written."""
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
