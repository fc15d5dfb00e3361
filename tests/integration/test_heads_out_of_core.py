"""Training from the store with less memory than the rows would take."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cryobase.store import Examples, Pool
from tests.scale import RUN_ALL
from tests.unit.stages.heads.sets import SPEC, split

WIDTH, CLASSES, BLOCK = 1280, ("a", "b", "c"), 4096
# `make test-all`: 5.2 GB of float16 under `ulimit -d` of 1.3 GB, TensorFlow's 1.05 GB included.
# In CI 0.5 GB, and a quarter of that beside what TensorFlow takes once it has compiled.
ROWS = 2_040_000 if RUN_ALL else 200_000


SCRIPT = """
import resource, sys
from pathlib import Path
import numpy as np
from cryobase.stages import train
from cryobase.stages.heads.config import HeadConfig, expand
from cryobase.stages.heads.rows import ArrayRows, Task
from cryobase.stages.heads.kinds import train as train_heads

root, limit, whole = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "whole"
heads = {"linear": HeadConfig(learning_rate=(0.001, 0.01), epochs=1, batch_size=64)}


def data_bytes():
    status = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmData"))


if not whole:  # load TensorFlow and compile for this shape
    few, names = np.arange(64), ("a", "b", "c")
    rows = ArrayRows(np.eye(64, 1280, dtype="f4"), labels=few.astype("i4") % 3, classes=names)
    train_heads(Task(rows, few, few[:9]), expand(heads))
allowed = limit + (0 if whole else data_bytes())
resource.setrlimit(resource.RLIMIT_DATA, (allowed, resource.RLIM_INFINITY))
train.run(train.TrainConfig(heads=heads), "set", features=root / "features",
    splits=root / "splits", cache=root / "cache", output=root / "models")
try:
    np.ones(allowed // 8 + 1)
except MemoryError:
    sys.exit(0)
sys.exit("the limit does not limit")
"""


def publish(root: Path) -> int:
    """Classes that differ in a few values, written block by block; the bytes of all rows."""
    random = np.random.default_rng(0)
    labels = (np.arange(ROWS) % len(CLASSES)).astype(np.int32)
    digests = np.zeros((ROWS, 32), np.uint8)
    digests[:, :4] = np.arange(ROWS, dtype=">u4").view(np.uint8).reshape(-1, 4)
    centres = random.normal(size=(len(CLASSES), WIDTH)).astype(np.float16)
    noise = random.normal(size=(BLOCK, WIDTH)).astype(np.float16) * np.float16(3)
    spec = SPEC.from_json({**SPEC.to_json(), "dtype": "float16"})
    pool = Pool(root / "pool", spec)
    with pool.writer() as writer:
        for start in range(0, ROWS, BLOCK):
            part = slice(start, min(start + BLOCK, ROWS))
            features = (
                centres[labels[part]] + np.roll(noise, start // BLOCK, 1)[: part.stop - start]
            )
            writer.append(features, digests[part], np.zeros(len(features), int))
    ids = [f"{k:07}".encode() for k in range(ROWS)]
    pool.publish(root / "features", Examples.create(ids, digests, labels, None, CLASSES))
    return 2 * WIDTH * ROWS


@pytest.mark.timeout(3600)
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_DATA") or sys.platform != "linux", reason="Linux")
def test_a_set_four_times_larger_than_the_memory_is_trained_on(tmp_path):
    from cryobase.store import FeatureSet

    size = publish(tmp_path)
    split(tmp_path, FeatureSet.open(tmp_path / "features"))
    arguments = [str(tmp_path), str(size // 4), "whole" if RUN_ALL else "beside TensorFlow"]
    subprocess.run([sys.executable, "-c", SCRIPT, *arguments], check=True)
    trained = sorted(path.parent.name for path in tmp_path.glob("models/*/head.json"))
    assert trained == ["linear-lr0.001", "linear-lr0.01"]
