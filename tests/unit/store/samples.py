"""Small pools and feature sets for tests of the store."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryobase.store import Examples, FeatureSpec, Pool

CLASSES = ("cat", "dog", "emu")


def spec(**changes) -> FeatureSpec:
    fields = {
        "backbone": "vgg16",
        "weights_sha256": "ab" * 32,
        "image_size": 160,
        "resize": "bilinear",
        "aspect": "stretch",
        "decode": "exact",
        "preprocessing": "caffe",
        "output": "avg",
        "dtype": "float32",
        "augmentation": None,
        "extractor_version": 1,
    }
    return FeatureSpec(**(fields | changes))


def digests(numbers) -> np.ndarray:
    """(n, 32) the digests of images that are called by numbers."""
    raw = b"".join(hashlib.sha256(b"image %d" % number).digest() for number in numbers)
    return np.frombuffer(raw, np.uint8).reshape(-1, 32)


def features(numbers, shape=(5,), view=0) -> np.ndarray:
    """(n, …) features that tell image and view, exact in float16."""
    flat = np.arange(int(np.prod(shape)), dtype=np.float32)
    numbers = np.asarray(list(numbers), np.float32)
    return (numbers[:, None] % 1024 + flat / 64 + view / 2).reshape(-1, *shape)


def examples(numbers, quarantined=()) -> Examples:
    numbers = list(numbers)
    return Examples.create(
        ids=[b"%05d.jpg" % number for number in numbers],
        digests=digests(numbers),
        labels=[number % 3 for number in numbers],
        quarantined=[number in quarantined for number in numbers],
        classes=CLASSES,
    )


def fill(pool: Pool, numbers, shape=(5,), views=0) -> Pool:
    """Append the rows of `numbers`, one commit."""
    numbers = list(numbers)
    with pool.writer() as writer:
        for view in range(views + 1):
            rows = features(numbers, shape, view).astype(pool.spec.dtype)
            writer.append(rows, digests(numbers), np.full(len(numbers), view))
    return pool


def bytes_read(work: Callable[[], object]) -> int:
    """How many bytes this process read while doing `work`, from files or the page cache."""
    facts = Path("/proc/self/io")
    if not facts.exists():
        pytest.skip("needs /proc/self/io")
    before = facts.read_text()
    work()
    after = facts.read_text()
    counts = [int(text.partition("rchar:")[2].split()[0]) for text in (before, after)]
    return counts[1] - counts[0]


def published(root: Path, numbers=range(20), **changes) -> Path:
    """A feature set of `numbers` at root/set, of two shards."""
    numbers = list(numbers)
    pool = Pool(root / "pool", spec(**changes))
    fill(pool, numbers[: len(numbers) // 2])
    fill(pool, numbers)
    pool.publish(root / "set", examples(numbers))
    return root / "set"
