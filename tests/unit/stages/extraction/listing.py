"""A process that plans and schedules a listing of images that are not there; run by test_cluster.

    python listing.py RAW POOL

All of it is the client's real code, from the index of `data/raw` and the pool's question to the
last part; workers count rows instead of computing them. Prints the rows and the peak of this
process's resident memory in bytes.
"""

import json
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np

from cryobase.stages.data import index
from cryobase.stages.extraction import cluster
from cryobase.stages.extraction.cluster import Part, parts_of
from cryobase.stages.extraction.passes import Computed
from cryobase.stages.extraction.plan import Images, Target, plan
from cryobase.stages.progress import Progress
from cryobase.store import Pool
from tests.memory import peak_bytes
from tests.unit.stages.heads.sets import SPEC

SPECIAL = 1000  # in so many images, one is in quarantine and one is there twice


def write_listing(directory: Path, count: int) -> int:
    """The index of `count` examples; how many images have rows."""
    random = np.random.default_rng(0)
    columns = {name: np.zeros(count, dtype) for name, dtype in index.IMAGE_COLUMNS.items()}
    columns["digest"] = random.integers(0, 256, (count, 32), np.uint8)
    columns["pack"] -= 1
    columns["reason"][::SPECIAL] = 1
    images = random.permutation(count)
    same = images % SPECIAL == 1
    images[same] += 1  # and nothing is left of the image that stood there
    directory.mkdir(parents=True)
    index.write(
        directory,
        index.Index(
            ids=np.char.add(b"images/", (np.arange(count) + 10**17).astype("S18")),
            labels=np.zeros(count, np.int32),
            parts=np.zeros(count, np.int8),
            images=images,
            **columns,
            classes=("a",),
            reasons=("", "text, not an image"),
        ),
    )
    return int(np.isin(np.arange(count) % SPECIAL, (0, 1), invert=True).sum())


def count_rows(loader: str, part: Part) -> tuple[dict[str, int], dict[bytes, str]]:
    """What a worker answers."""
    return {SPEC.fingerprint: len(part.positions)}, {}


def main() -> None:
    raw, pool = map(Path, sys.argv[1:])
    computed = Computed()
    passes = plan([Target(Pool(pool, SPEC), 0)], Images(raw))
    here = cluster.Cluster(workers=2)
    with patch.object(cluster, "run_part", count_rows), cluster.connect(here) as client:
        client.wait_for_workers(2)
        with Progress("extract", "rows", None) as progress:
            assert not cluster._hand_out(client, "", parts_of(passes), computed, progress)
    print(json.dumps({"rows": computed.rows.total(), "peak": peak_bytes()}))


if __name__ == "__main__":
    main()
