"""Extraction on a Dask cluster. Workers read images and write rows; no array is sent.

The client divides passes into parts and submits a few at a time. A worker loads each engine once,
computes a part, appends its rows to the pools under their locks, and returns counts. If a worker
dies, its part is tried again. A part that kills workers again and again is halved until the image
is known; that image is quarantined.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from distributed import (
    Client,
    KilledWorker,
    LocalCluster,
    WorkerPlugin,
    as_completed,
    get_worker,
)
from numpy.typing import NDArray

from cryobase.stages.backbones.table import EXTRACTOR_VERSION
from cryobase.stages.backbones.weights import WeightsFile
from cryobase.stages.errors import ConfigError, StageError
from cryobase.stages.extraction.passes import (
    Computed,
    check_size,
    checked_engine,
    failures_of,
    flow_of,
    rows_of,
)
from cryobase.stages.extraction.plan import Images, Pass, Target, plan
from cryobase.stages.extraction.trunk import Engine
from cryobase.stages.progress import Progress
from cryobase.store import StoreError
from cryobase.store.pool import Pool
from cryobase.store.shard import Views
from cryobase.store.spec import FeatureSpec
from cryobase.store.text import read_json

ROWS_PER_PART = 2048
OURS = "cryobase."
ALIKE = (
    "cryobase", "numpy", "openvino", "tensorflow", "keras", "simplejpeg", "opencv-python-headless",
    "pillow",
)  # fmt: skip
PARTS_PER_WORKER = 3  # submitted at once; the client keeps two numbers for each other row
REGISTRATIONS = 5  # tries: registering fails if a worker dies meanwhile
LOOKS, SECONDS_BETWEEN_LOOKS = 5, 1.0  # a nanny without a process for so long has given up
LOOPBACK = ("127.0.0.1", "localhost", "::1")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Part:
    """At most `ROWS_PER_PART` rows of one pass."""

    number: int  # of the pass
    positions: NDArray[np.int64]
    views: Views

    def halves(self) -> "list[Part]":
        """Divide the part into two."""
        pairs = zip(np.array_split(self.positions, 2), np.array_split(self.views, 2), strict=True)
        return [replace(self, positions=positions, views=views) for positions, views in pairs]


def parts_of(passes: Sequence[Pass]) -> Iterator[Part]:
    """All rows of the passes, in parts."""
    for number, each in enumerate(passes):
        for start in range(0, len(each.positions), ROWS_PER_PART):
            rows = slice(start, start + ROWS_PER_PART)
            yield Part(number, each.positions[rows], each.views[rows])


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a worker needs for every part of a run. Paths are the same on all machines.

    Attributes:
        raw: the directory of the images.
        dataset: SHA-256 of the index's columns. If it is equal, a position means the same image.
        pool: the directory of all pools.
        nonce: a new file in that directory. A worker that does not see it has another directory.
        specs: the targets of each pass.
        weights: the file of the base's weights.
        engine: a key of `ENGINES`, or "auto".
        batch_size: images per forward pass.
        versions: see `versions`.
    """

    raw: str
    dataset: str
    pool: str
    nonce: str
    specs: tuple[tuple[FeatureSpec, ...], ...]
    weights: WeightsFile
    engine: str
    batch_size: int
    versions: dict[str, str]


class Computer:
    """A worker's state during a run: the images, and one engine for each pass."""

    def __init__(self, settings: Settings) -> None:
        """Open the images and load the first pass's engine.

        Raises:
            ConfigError: this worker has other versions, another dataset or another pool.
            DriftError: the engine does not reproduce a pool's canary rows.
        """
        self._settings = settings
        self._check_surroundings()
        self._images = Images(Path(settings.raw))
        if self._images.raw.index.sha256 != settings.dataset:
            raise ConfigError(
                f"{settings.raw}: the worker sees another dataset than the client; give both"
                " the same"
            )
        self._lock = Lock()
        self._engines: dict[int, Engine] = {}
        self._engine(0)

    def compute(self, part: Part) -> tuple[dict[str, int], dict[bytes, str]]:
        """Compute a part and write its rows.

        Returns:
            The number of rows by fingerprint, and for images without rows the reason by digest.
        """
        targets = self._targets(part.number)
        each = Pass(targets, part.positions, part.views)
        kept: dict[Target, list[Any]] = {target: [] for target in targets}
        failures: dict[bytes, str] = {}
        start = lambda: self._engine(part.number)  # noqa: E731
        for batch in flow_of(each, self._images, start, self._settings.batch_size):
            for target, *rows in rows_of(batch, each, self._images):
                kept[target].append(rows)
            failures |= failures_of(batch, each, self._images)
        counts = {}
        for target, batches in kept.items():
            with target.pool.writer() as writer:
                for rows in batches:
                    writer.append(*rows)
            counts[target.spec.fingerprint] = sum(len(rows[0]) for rows in batches)
        return counts, failures

    def _targets(self, number: int) -> tuple[Target, ...]:
        pool, specs = Path(self._settings.pool), self._settings.specs[number]
        return tuple(Target(Pool(pool, spec), 0) for spec in specs)

    def _engine(self, number: int) -> Engine:
        nothing = np.empty(0, np.int64)
        with self._lock:
            if number not in self._engines:
                each = Pass(self._targets(number), nothing, nothing.astype("u2"))
                self._engines[number] = checked_engine(
                    each, self._settings.weights, self._settings.engine, self._settings.batch_size
                )
            return self._engines[number]

    def _check_surroundings(self) -> None:
        wanted, mine = self._settings.versions, versions()
        if skew := [
            f"{name} {mine.get(name)} instead of {wanted[name]}"
            for name in wanted
            if mine.get(name) != wanted[name]
        ]:
            raise ConfigError(
                f"a worker has {', '.join(skew)}; install the client's versions there"
            )
        if not os.path.exists(self._settings.nonce):
            raise ConfigError(
                f"a worker does not see {self._settings.pool}; put the pool on a shared disk"
            )


def versions() -> dict[str, str]:
    """The versions of everything that can change a feature's value, on this machine."""
    installed = {"extractor": str(EXTRACTOR_VERSION)}
    for name in ALIKE:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "none"
    return installed


def portable(error: Exception) -> StageError | StoreError:
    """An error that can be sent to the client, which would wait forever for any other.

    Our own exceptions that are built from a text keep their type. Of others, the text is kept.
    """
    kind, text = type(error), str(error)
    if isinstance(error, StageError | StoreError) and kind.__module__.startswith(OURS):
        with suppress(Exception):
            if str(copy := kind(text)) == text:
                return copy  # type: ignore[return-value]
    return StageError(f"{kind.__qualname__}: {' '.join(text.split())}")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The cluster to compute on.

    Attributes:
        workers: single-threaded workers to start on this machine, if no scheduler is named.
        scheduler_address: the address of a running cluster's scheduler.
        scheduler_file: the file that a running scheduler wrote.
        insecure: whether a scheduler on another machine may be without TLS.
    """

    workers: int = 0
    scheduler_address: str = ""
    scheduler_file: str = ""
    insecure: bool = False


class Loader(WorkerPlugin):  # type: ignore[misc]
    """Opens the images and loads the first engine in each worker, also in later ones."""

    def __init__(self, settings: Settings) -> None:
        self.name = f"cryobase-{secrets.token_hex(8)}"  # unique: a cluster may serve several runs
        self.settings = settings
        self.computer: Computer | None = None
        self.failure: StageError | StoreError | None = None

    async def setup(self, worker: Any) -> None:
        """Load in a thread, because the worker must answer its scheduler meanwhile."""
        os.environ.setdefault("CRYOBASE_THREADS", str(worker.state.nthreads))
        try:
            self.computer = await asyncio.to_thread(Computer, self.settings)
        except Exception as error:  # noqa: BLE001 - Dask would restart this worker forever
            self.failure = portable(error)


def compute(
    targets: Sequence[Target],
    images: Images,
    weights: WeightsFile,
    *,
    cluster: Cluster,
    engine: str,
    batch_size: int,
    max_bytes: int | None = None,
) -> Computed:
    """Like `cryobase.stages.extraction.passes.compute`, but on a cluster.

    Raises:
        ConfigError: the scheduler is remote and without TLS, or a worker has other versions or does
            not see the pool's directory.
        StageError: an error of a worker, as text.
    """
    computed = Computed()
    passes = plan(targets, images)
    if not passes:
        return computed
    starts = [cache(partial(checked_engine, each, weights, engine, batch_size)) for each in passes]
    check_size(passes, starts, max_bytes)
    for each, start in zip(passes, starts, strict=True):
        if any(target.pool.canary() is None for target in each.targets):
            start()  # once in the client: otherwise every worker would load the reference
    del starts
    with (
        connect(cluster) as client,
        _loaded(client, passes, images, weights, engine=engine, batch_size=batch_size) as loader,
        Progress("extract", "rows", sum(len(each.positions) for each in passes)) as progress,
    ):
        suspects = _hand_out(client, loader, parts_of(passes), computed, progress)
        while suspects:  # one at a time, as Dask blames every part queued on a dead worker
            part = suspects.pop()
            if not _hand_out(client, loader, iter([part]), computed, progress):
                continue
            if len(part.positions) > 1:
                suspects += part.halves()
            else:
                name = images.raw.name(part.positions[0])
                logger.warning("%s: kills the workers that compute it; left out", name)
                computed.failures[images.digest(part.positions[0])] = "kills its process"
    return computed


def _hand_out(
    client: Any, loader: str, parts: Iterator[Part], computed: Computed, progress: Progress
) -> list[Part]:
    """Compute parts, a few per worker at a time. Returns the parts whose workers died."""
    submitted: dict[Any, Part] = {}
    finished = as_completed()
    suspects = []

    def fill() -> None:
        workers = len(client.scheduler_info(n_workers=-1)["workers"])  # their number changes
        while len(submitted) < PARTS_PER_WORKER * max(1, workers):
            if (part := next(parts, None)) is None:
                return
            future = client.submit(run_part, loader, part, pure=False)
            submitted[future] = part
            finished.add(future)

    fill()
    for future in finished:
        part = submitted.pop(future)
        try:
            rows, failures = future.result()
            computed.rows.update(rows)
            computed.failures.update(failures)
            progress.advance(len(part.positions))
        except KilledWorker:
            suspects.append(part)
        fill()
    return suspects


def run_part(loader: str, part: Part) -> tuple[dict[str, int], dict[bytes, str]]:
    """Compute one part in a worker; see `Computer.compute`.

    Raises:
        StageError, StoreError: without a cause. Only these are raised, because others, and causes,
            may be impossible to send.
    """
    loaded = get_worker().plugins[loader]
    if loaded.failure is not None:
        raise loaded.failure
    try:
        answer: tuple[dict[str, int], dict[bytes, str]] = loaded.computer.compute(part)
    except Exception as error:
        logger.exception("a part failed")
        failure = portable(error)
    else:
        return answer
    raise failure


@contextmanager
def _loaded(
    client: Any,
    passes: Sequence[Pass],
    images: Images,
    weights: WeightsFile,
    *,
    engine: str,
    batch_size: int,
) -> Iterator[str]:
    """Load what the passes need in all workers, also in later ones; yields the plugin's name."""
    pool = passes[0].targets[0].pool
    pool.make_root()
    nonce = pool.root.resolve() / f".nonce-{secrets.token_hex(8)}"
    nonce.touch()
    loader = Loader(
        Settings(
            raw=str(images.raw.directory.resolve()),
            dataset=images.raw.index.sha256,
            pool=str(pool.root.resolve()),
            nonce=str(nonce),
            specs=tuple(tuple(target.spec for target in each.targets) for each in passes),
            weights=weights,
            engine=engine,
            batch_size=batch_size,
            versions=versions(),
        )
    )
    try:
        _register(client, loader)
        yield loader.name
    finally:
        with suppress(Exception):  # the cluster may have ended
            if client.status == "running":
                client.unregister_worker_plugin(loader.name)
        nonce.unlink(missing_ok=True)


def _register(client: Any, loader: Loader) -> None:
    for _ in range(REGISTRATIONS):
        client.wait_for_workers(1)
        try:
            client.register_plugin(loader, name=loader.name)
        except OSError as error:
            logger.info("a worker was lost while it loaded: %s", error)
        else:
            return
    raise StageError("workers die while they load the engine; the reason is in their logs")


@contextmanager
def connect(cluster: Cluster) -> Iterator[Any]:
    """A client of the named cluster, or of a local cluster that ends with the context."""
    if cluster.scheduler_address or cluster.scheduler_file:
        address = cluster.scheduler_address or _address(Path(cluster.scheduler_file))
        check_address(address, insecure=cluster.insecure)
        with Client(address) as client:
            yield client
        return
    local = LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    )
    with local, Client(local) as client:
        keeping = asyncio.run_coroutine_threadsafe(
            _keep_up(local, cluster.workers), local.loop.asyncio_loop
        )
        try:
            yield client
        finally:
            keeping.cancel()


async def _keep_up(local: Any, workers: int) -> None:
    """Start workers, and replace workers that their nanny has given up.

    A nanny restarts a worker that died, but not a worker that died while it started. Dask's `adapt`
    does not help, because it counts the nanny as a worker.
    """
    looks: dict[Any, int] = {}
    while True:
        for name, nanny in list(local.workers.items()):
            looks[nanny] = 0 if nanny.is_alive() else looks.get(nanny, 0) + 1
            if looks[nanny] == LOOKS:
                logger.info("worker %s ended while it started; starting another", name)
                local.workers.pop(name, None)
                with suppress(Exception):
                    await nanny.close(timeout=1)
        local.scale(workers)
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)


def _address(path: Path) -> str:
    try:
        return str(read_json(path.resolve())["address"])
    except (StoreError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: not a scheduler file; start dask scheduler with it") from None


def check_address(address: str, *, insecure: bool) -> None:
    """Refuse a scheduler on another machine without TLS: anybody who reaches it can run code.

    Raises:
        ConfigError: the scheduler is on another machine and has no TLS.
    """
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    if parts.scheme == "tls" or parts.hostname in LOOPBACK or parts.scheme == "inproc" or insecure:
        return
    raise ConfigError(
        f"{address}: a scheduler on another machine without TLS; start it with TLS (tls://…),"
        " or allow it with extract.insecure: true"
    )
