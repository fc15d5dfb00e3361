"""Reading a feature set, against numpy.memmap and h5py on the same rows.

All sides hand over batches of 256 rows and their labels, one after the other; the peers in their
plainest fast way. `CRYOBASE_ROWS` sets another number of rows than 60,000.
"""

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import h5py
import numpy as np

from store import Examples, FeatureSet, FeatureSpec, Pool
from tests.benchmarks.measure import speed_ratio

ROWS = int(os.environ.get("CRYOBASE_ROWS", "60000"))
WIDTH = 1280
BATCH = 256
AT_A_TIME = 2000

SPEC = FeatureSpec(
    backbone="efficientnet_lite0",
    weights_sha256="0" * 64,
    image_size=224,
    resize="bilinear",
    aspect="stretch",
    decode="exact",
    preprocessing="lite",
    output="avg",
    dtype="float32",
    augmentation=None,
    extractor_version=1,
)


@cache
def files() -> tuple[FeatureSet, np.ndarray, h5py.Dataset, np.ndarray]:
    """The same rows in the same order: a feature set, a memory map, an HDF5 dataset; and labels."""
    root = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, root)
    raw = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(ROWS))
    digests = np.unique(np.frombuffer(raw, "S32")).view(np.uint8).reshape(-1, 32)
    ids = [b"%09d.jpg" % number for number in range(ROWS)]
    labels = np.arange(ROWS) % 10
    pool, chance = Pool(root, SPEC), np.random.default_rng(0)
    memmap = np.lib.format.open_memmap(root / "rows.npy", "w+", np.float32, (ROWS, WIDTH))
    dataset = h5py.File(root / "rows.h5", "w").create_dataset("rows", (ROWS, WIDTH), "f4")
    with pool.writer() as writer:
        for start in range(0, ROWS, AT_A_TIME):
            part = slice(start, start + AT_A_TIME)
            features = chance.random((len(digests[part]), WIDTH), np.float32)
            writer.append(features, digests[part], np.zeros(len(features)))
            memmap[part] = dataset[part] = features
    classes = [str(number) for number in range(10)]
    pool.publish(root / "set", Examples.create(ids, digests, labels, None, classes))
    dataset.file.flush()
    memmap.flush()
    return FeatureSet.open(root / "set"), memmap, dataset, labels


def drain(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    for features, labels in batches:
        assert len(features) == len(labels)


def ours(**options: object) -> Callable[[], None]:
    feature_set, *_ = files()
    return lambda: drain(feature_set.batches(None, BATCH, **options))


def memmap_random() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    _, memmap, _, labels = files()
    order = np.random.default_rng(0).permutation(ROWS)
    for start in range(0, ROWS, BATCH):
        batch = order[start : start + BATCH]
        yield memmap[batch], labels[batch]


def h5py_random() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """h5py wants ascending positions."""
    _, _, dataset, labels = files()
    order = np.random.default_rng(0).permutation(ROWS)
    for start in range(0, ROWS, BATCH):
        batch = np.sort(order[start : start + BATCH])
        yield dataset[batch], labels[batch]


def h5py_sequential() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    _, _, dataset, labels = files()
    for start in range(0, ROWS, BATCH):
        yield dataset[start : start + BATCH], labels[start : start + BATCH]


def random_vs_memmap() -> float:
    """Fully random batches against fancy indexing of a memory map."""
    return speed_ratio(ours(shuffle=True), lambda: drain(memmap_random()))


def block_vs_memmap() -> float:
    """Batches of shuffled runs of 16 rows against fully random batches of a memory map."""
    return speed_ratio(ours(shuffle=True, block=16), lambda: drain(memmap_random()))


def random_vs_h5py() -> float:
    """Fully random batches against fancy indexing with h5py."""
    return speed_ratio(ours(shuffle=True), lambda: drain(h5py_random()))


def sequential_vs_h5py() -> float:
    """Batches in the order of the files against slices with h5py."""
    return speed_ratio(ours(), lambda: drain(h5py_sequential()))


BENCHMARKS: dict[str, Callable[[], float]] = {
    "read.random_vs_memmap": random_vs_memmap,
    "read.random_vs_h5py": random_vs_h5py,
    "read.block_vs_memmap": block_vs_memmap,
    "read.sequential_vs_h5py": sequential_vs_h5py,
}
