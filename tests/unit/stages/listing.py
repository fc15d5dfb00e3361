"""A process that plans and schedules a listing of images that are not there; run by test_cluster.

    python listing.py COUNT DIRECTORY

The client's code is the real one, from the pool's question to the last part; workers count rows
instead of computing them. Prints the rows and the peak of this process's resident memory in bytes.
"""

import json
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np

from stages import cluster
from stages.backbones.parts import Part, parts_of
from stages.backbones.passes import Computed
from stages.backbones.plan import Images, Target, plan
from store import Pool
from tests.memory import peak_bytes
from tests.unit.stages.heads.sets import SPEC


class Listing(Images):
    """`count` images of random digests."""

    def __init__(self, count: int) -> None:
        random = np.random.default_rng(0)
        digests = random.integers(0, 256, (count, 32), np.uint8)
        first = np.arange(count, dtype=">u8").view(np.uint8).reshape(-1, 8)
        digests[:, :8] = first  # ascending and distinct without sorting here
        self._sorted = digests.view("V32").ravel()
        self._first = random.permutation(count)


def count_rows(loader: str, part: Part) -> tuple[dict[str, int], dict[bytes, str]]:
    """What a worker answers."""
    return {SPEC.fingerprint: len(part.positions)}, {}


def main() -> None:
    images = Listing(int(sys.argv[1]))
    computed = Computed()
    passes = plan([Target(Pool(Path(sys.argv[2]), SPEC), 0)], images)
    here = cluster.Cluster(workers=2)
    with patch.object(cluster, "run_part", count_rows), cluster.connect(here) as client:
        client.wait_for_workers(2)
        assert not cluster._hand_out(client, "", parts_of(passes), computed)
    print(json.dumps({"rows": computed.rows.total(), "peak": peak_bytes()}))


if __name__ == "__main__":
    main()
