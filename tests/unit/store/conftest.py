"""Fixtures of the store's unit tests."""

import pytest


@pytest.fixture
def tmp_path(quick_path):
    """All of them sync often."""
    return quick_path
