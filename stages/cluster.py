"""Extraction on a Dask cluster: workers read images and write rows; no array travels.

The client plans parts of a pass and hands them out a few at a time. A worker loads its engine once,
computes a part, appends it to the pools under their locks and returns counts. A part whose worker
died is tried again; one that kills workers is halved until the image is found and quarantined.
"""

import json
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from stages.backbones.passes import (
    Computed,
    check_size,
    checked_engine,
    failures_of,
    flow_of,
    rows_of,
)
from stages.backbones.plan import Images, Pass, Target, plan
from stages.backbones.trunk import Engine
from stages.backbones.weights import WeightsFile
from stages.errors import ConfigError
from store.pool import Pool
from store.spec import FeatureSpec

ROWS_PER_PART = 2048
PARTS_PER_WORKER = 3  # handed out at once; the rest waits in the client as two numbers a row
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ALIKE = ("numpy", "openvino", "tensorflow", "keras", "simplejpeg", "opencv-python-headless")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where to compute.

    Attributes:
        workers: single-threaded workers to start on this machine, where no scheduler is named.
        scheduler_address: of a cluster that runs already.
        scheduler_file: the file that its scheduler wrote.
        insecure: allow a scheduler on another machine without TLS.
    """

    workers: int = 0
    scheduler_address: str = ""
    scheduler_file: str = ""
    insecure: bool = False


@dataclass(frozen=True, eq=False)
class Part:
    """A few thousand rows at most, in numbers and names that can be sent."""

    raw: str
    dataset: str
    pool: str
    specs: tuple[FeatureSpec, ...]
    weights: WeightsFile
    engine: str
    batch_size: int
    positions: Any
    views: Any

    def halves(self) -> "list[Part]":
        """The part as two."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        pairs = zip(np.array_split(self.positions, 2), np.array_split(self.views, 2), strict=True)
        return [Part(**{**fields, "positions": p, "views": v}) for p, v in pairs]


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
    """As `stages.backbones.passes.compute`, on a cluster.

    Raises:
        ConfigError: the scheduler is remote and without TLS, a worker has other versions, or does
            not see the pool's directory.
    """
    computed = Computed()
    passes = plan(targets, images)
    if not passes:
        return computed
    starts = [partial(checked_engine, each, weights, engine, batch_size) for each in passes]
    check_size(passes, starts, max_bytes)
    parts = _parts(passes, images, weights, engine, batch_size)
    with _client(cluster, targets[0].pool.root) as client:
        suspects = _hand_out(client, parts, computed)
        while suspects:  # one at a time: a worker's death is blamed on all that was queued on it
            part = suspects.pop()
            if not _hand_out(client, iter([part]), computed):
                continue
            if len(part.positions) > 1:
                suspects += part.halves()
            else:
                name = images.examples.ids[part.positions[0]].decode()
                logger.warning("%s: kills the workers that compute it; left out", name)
                computed.failures[images.digest(part.positions[0])] = "kills its process"
    return computed


def _hand_out(client: Any, parts: Iterator[Part], computed: Computed) -> list[Part]:
    """Compute parts, a few per worker at a time; returns those that workers died of."""
    from distributed import KilledWorker, as_completed

    window = PARTS_PER_WORKER * max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
    submitted = {client.submit(run_part, part, pure=False): part for part in islice(parts, window)}
    finished = as_completed(list(submitted))
    suspects = []
    for future in finished:
        part = submitted.pop(future)
        try:
            rows, failures = future.result()
            computed.rows.update(rows)
            computed.failures.update(failures)
        except KilledWorker:
            suspects.append(part)
        for following in islice(parts, 1):
            another = client.submit(run_part, following, pure=False)
            submitted[another] = following
            finished.add(another)
    return suspects


def run_part(part: Part) -> tuple[dict[str, int], dict[bytes, str]]:
    """Compute one part in a worker: rows by fingerprint, and reasons of images without rows."""
    from distributed import get_worker

    os.environ.setdefault("CRYOBASE_THREADS", str(get_worker().state.nthreads))
    images = _images(part.raw)
    if images.examples.digest != part.dataset:
        raise ConfigError(f"{part.raw}: the worker sees another dataset than the client")
    targets = tuple(Target(Pool(Path(part.pool), spec), 0) for spec in part.specs)
    each = Pass(targets, part.positions, part.views)
    start = lambda: _engine(part.specs, part.pool, part.weights, part.engine, part.batch_size)  # noqa: E731
    kept: dict[Target, list[Any]] = {target: [] for target in targets}
    failures: dict[bytes, str] = {}
    for batch in flow_of(each, images, start, part.batch_size):
        for target, *rows in rows_of(batch, each, images):
            kept[target].append(rows)
        failures |= failures_of(batch, each, images)
    counts = {}
    for target, batches in kept.items():
        with target.pool.writer() as writer:
            for rows in batches:
                writer.append(*rows)
        counts[target.spec.fingerprint] = sum(len(rows[0]) for rows in batches)
    return counts, failures


@cache
def _images(raw: str) -> Images:
    return Images(Path(raw))


@cache
def _engine(
    specs: tuple[FeatureSpec, ...], pool: str, weights: WeightsFile, name: str, batch_size: int
) -> Engine:
    """A worker's engine, loaded and held against the canary rows once."""
    nothing = np.empty(0, np.int64)
    targets = tuple(Target(Pool(Path(pool), spec), 0) for spec in specs)
    return checked_engine(Pass(targets, nothing, nothing.astype("u2")), weights, name, batch_size)


def _parts(
    passes: Sequence[Pass], images: Images, weights: WeightsFile, engine: str, batch_size: int
) -> Iterator[Part]:
    for each in passes:
        for start in range(0, len(each.positions), ROWS_PER_PART):
            rows = slice(start, start + ROWS_PER_PART)
            yield Part(
                raw=str(images.raw.directory.resolve()),
                dataset=images.examples.digest,
                pool=str(each.targets[0].pool.root.resolve()),
                specs=tuple(target.spec for target in each.targets),
                weights=weights,
                engine=engine,
                batch_size=batch_size,
                positions=each.positions[rows],
                views=each.views[rows],
            )


@contextmanager
def _client(cluster: Cluster, pool: Path) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    if cluster.scheduler_address or cluster.scheduler_file:
        address = cluster.scheduler_address or _address(Path(cluster.scheduler_file))
        check_address(address, insecure=cluster.insecure)
        with Client(address) as client:
            _check_workers(client, pool)
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
        # not `n_workers`: a worker that dies while it starts is only replaced under `adapt`
        local.adapt(minimum=cluster.workers, maximum=cluster.workers)
        _check_workers(client, pool)
        yield client


def _address(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: no scheduler file; start dask scheduler with it") from None


def check_address(address: str, *, insecure: bool) -> None:
    """Refuse a scheduler on another machine without TLS: whoever can speak to it can run code.

    Raises:
        ConfigError: it is one.
    """
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    if parts.scheme == "tls" or parts.hostname in LOOPBACK or parts.scheme == "inproc" or insecure:
        return
    raise ConfigError(
        f"{address}: a scheduler on another machine without TLS; start it with TLS (tls://…),"
        " or allow it with extract.insecure: true"
    )


def _check_workers(client: Any, pool: Path) -> None:
    """Refuse workers of other versions, and workers that do not see the pool."""
    client.wait_for_workers(1)
    mine = versions()
    for worker, theirs in client.run(versions).items():
        if theirs != mine:
            skew = [
                f"{n} {theirs.get(n)} instead of {mine[n]}"
                for n in mine
                if theirs.get(n) != mine[n]
            ]
            raise ConfigError(f"{worker}: has {', '.join(skew)}; install the same versions there")
    pool.mkdir(parents=True, exist_ok=True)
    nonce = pool.resolve() / f".nonce-{secrets.token_hex(8)}"
    nonce.touch()
    try:
        seen = client.run(os.path.exists, str(nonce))
    finally:
        nonce.unlink()
    if blind := [worker for worker, sees in seen.items() if not sees]:
        raise ConfigError(f"{', '.join(blind)}: does not see {pool}; put the pool on a shared disk")


def versions() -> dict[str, str]:
    """Of what decides features' values here."""
    found = {}
    for name in ALIKE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found
