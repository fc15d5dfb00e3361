"""A part of the sample's digits, for tests that need not use all of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cryobase.stages.sources.table import SOURCES


@contextmanager
def one_digit_in(count: int) -> Iterator[None]:
    """Inside `with`, the source `sample` has one of `count` digits of each class."""
    whole = SOURCES["sample"].examples
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            SOURCES["sample"],
            "examples",
            lambda self: (example for n, example in enumerate(whole(self)) if n % count == 0),
        )
        yield
