"""Reading a feature set, against numpy.memmap and h5py on the same rows.

All sides hand over batches of 256 rows and their labels, one after the other; the peers in their
plainest fast way. `CRYOBASE_ROWS` sets another number of rows than 60,000. Memory is measured with
60,000 and a million of them, which take 6 GB on disk for a while.
"""

import atexit
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import h5py
import numpy as np

from cryobase.store import Examples, FeatureSet, FeatureSpec, Pool
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


PEAK = f"""
import sys
from pathlib import Path
from cryobase.store import FeatureSet
from tests.memory import peak_bytes
for _ in FeatureSet.open(Path(sys.argv[1])).batches(None, {BATCH}, shuffle=True):
    pass
print(peak_bytes())
"""


@cache
def stored(rows: int) -> Path:
    """A feature set of `rows` random rows, in the same order by id as by digest."""
    root = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, root)
    raw = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(rows))
    digests = np.unique(np.frombuffer(raw, "S32")).view(np.uint8).reshape(-1, 32)
    ids = [b"%09d.jpg" % number for number in range(rows)]
    pool, chance = Pool(root, SPEC), np.random.default_rng(0)
    with pool.writer() as writer:
        for start in range(0, rows, AT_A_TIME):
            some = digests[start : start + AT_A_TIME]
            features = chance.random((len(some), WIDTH), np.float32)
            writer.append(features, some, np.zeros(len(some)))
    classes = [str(number) for number in range(10)]
    labels = np.arange(rows) % 10
    pool.publish(root / "set", Examples.create(ids, digests, labels, None, classes))
    return root / "set"


@cache
def files() -> tuple[FeatureSet, np.ndarray, h5py.Dataset, np.ndarray]:
    """The same rows in the same order: a feature set, a memory map, an HDF5 dataset; and labels."""
    feature_set = FeatureSet.open(stored(ROWS))
    root, shape = stored(ROWS).parent, (ROWS, WIDTH)
    memmap = np.lib.format.open_memmap(root / "rows.npy", "w+", np.float32, shape)
    dataset = h5py.File(root / "rows.h5", "w").create_dataset("rows", shape, "f4")
    starts = range(0, ROWS, AT_A_TIME)
    for start, (features, _) in zip(starts, feature_set.batches(None, AT_A_TIME), strict=True):
        memmap[start : start + AT_A_TIME] = dataset[start : start + AT_A_TIME] = features
    dataset.file.flush()
    memmap.flush()
    return feature_set, memmap, dataset, feature_set.labels()


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


def memory_million_vs_60k() -> float:
    """Peak memory of a process that opens a set and reads it once in random batches."""
    return _peak(1_000_000) / _peak(60_000)


def _peak(rows: int) -> int:
    command = [sys.executable, "-c", PEAK, str(stored(rows))]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


BENCHMARKS: dict[str, Callable[[], float]] = {
    "read.random_vs_memmap": random_vs_memmap,
    "read.random_vs_h5py": random_vs_h5py,
    "read.block_vs_memmap": block_vs_memmap,
    "read.sequential_vs_h5py": sequential_vs_h5py,
    "read.memory_million_vs_60k": memory_million_vs_60k,
}
