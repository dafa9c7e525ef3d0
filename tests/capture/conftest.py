"""What the tests of watching share."""

from pathlib import Path

import pytest
from torch.nn.attention import flex_attention as flex

from ..state import state


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"))


@pytest.fixture(autouse=True)
def quick_flex(monkeypatch):
    """Flex attention as it is written: outside of tests it is compiled, if only to be run as it is written."""
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    before = state()
    yield
    assert state() == before
