"""Two single-threaded Dask workers beside one, on VGG16 at 150 pixels, where arithmetic is all.

From the moment that the workers are up and have their engine loaded until all rows are committed.
"""

from statistics import median

from cryobase.stages.backbones.weights import locate_weights
from cryobase.stages.extract import SetConfig, spec_of
from cryobase.stages.extraction import cluster
from cryobase.stages.extraction.cluster import Part, parts_of
from cryobase.stages.extraction.passes import Computed
from cryobase.stages.extraction.plan import Images, Target, plan
from cryobase.stages.progress import Progress
from cryobase.store import Pool
from tests.benchmarks import extract

IMAGES, IMAGES_PER_PART = 384, 32
ROUNDS = 3


def _seconds(workers: int) -> float:
    """For all images, in parts so small that workers end together."""
    images = Images(extract._raw(IMAGES))
    config = SetConfig(backbone="vgg16", weights="none", image_size=150)
    passes = plan([Target(Pool(extract._fresh(), spec_of(config)), 0)], images)
    (whole,) = parts_of(passes)
    parts = [
        Part(0, whole.positions[start:][:IMAGES_PER_PART], whole.views[start:][:IMAGES_PER_PART])
        for start in range(0, IMAGES, IMAGES_PER_PART)
    ]
    weights, computed = locate_weights("vgg16", "none"), Computed()
    with cluster.connect(cluster.Cluster(workers=workers)) as client:
        client.wait_for_workers(workers)
        with (
            cluster._loaded(
                client, passes, images, weights, engine="auto", batch_size=extract.BATCH
            ) as loader,
            Progress("extract", "rows", IMAGES) as progress,
        ):
            seconds = extract._seconds(
                lambda: cluster._hand_out(client, loader, iter(parts), computed, progress)
            )
    if computed.rows.total() != IMAGES:
        raise RuntimeError(f"{computed.rows.total()} rows of {IMAGES}")
    return seconds


def two_vs_one() -> float:
    """How many times faster two workers are."""
    _seconds(1)  # converts the model and keeps it
    return median(_seconds(1) / _seconds(2) for _ in range(ROUNDS))


BENCHMARKS = {"dask.two_vs_one": two_vs_one}
