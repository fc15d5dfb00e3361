"""Decoding, forward passes and writing at the same time, in bounded memory.

    decoding threads ──▶ a batch of pixels ──▶ forward threads ──▶ features ──▶ the caller writes

At most `DEPTH` batches are in memory; the faster steps wait. So memory does not depend on the
number of images. Batches arrive in order.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data.decoding import UndecodableImageError
from cryobase.stages.extraction.trunk import Engine, cores
from cryobase.stages.progress import Progress

DEPTH = 4
IMAGES_PER_TASK = 8

Pixels = NDArray[np.float32]


class FeatureBatch(NamedTuple):
    """Computed rows.

    Attributes:
        indices: (n,) the images of the rows; images that failed are not among them.
        features: for each output of the engine, (n, ...) float32.
        failures: the reasons of the images that failed, by index.
    """

    indices: NDArray[np.int64]
    features: list[NDArray[np.float32]]
    failures: dict[int, str]


@dataclass
class Times:
    """Seconds that each step took, divided by the number of its threads."""

    decode: float = 0.0
    forward: float = 0.0
    write: float = 0.0

    @property
    def slowest(self) -> str:
        """The step that took the longest time."""
        return max(("decode", "forward", "write"), key=lambda part: float(getattr(self, part)))


class _Decoded(NamedTuple):
    failures: dict[int, str]
    seconds: float


class _Timed(NamedTuple):
    batch: FeatureBatch
    decode: float
    forward: float


class Flow:
    """One pass over images 0 to `count` - 1; iterate over it once.

    Args:
        load: returns the pixels of an image by its index, float32 (size, size, 3). It runs in
            threads. If it raises `UndecodableImageError`, the image becomes a failure.
        make_engine: called once, when the first image is decoded; without images never.
        count: the number of images.
        image_size: side of the images in pixels.
        batch_size: images per batch.
        threads: the number of threads that decode, and of threads that call the engine.
    """

    def __init__(
        self,
        load: Callable[[int], Pixels],
        make_engine: Callable[[], Engine],
        *,
        count: int,
        image_size: int,
        batch_size: int,
        threads: int | None = None,
    ) -> None:
        self.times = Times()
        self._load, self._make_engine = load, make_engine
        self._count, self._batch_size = count, batch_size
        self._shape = (batch_size, image_size, image_size, 3)
        self._threads = threads or cores()
        self._buffers: deque[Pixels] = deque()  # reused: new memory costs page faults
        self._engine: Engine | None = None
        self._engine_lock = Lock()

    def __iter__(self) -> Iterator[FeatureBatch]:
        decoding = ThreadPoolExecutor(self._threads, "decode")
        forwarding = ThreadPoolExecutor(self._threads, "forward")
        under_way: deque[Future[_Timed]] = deque()
        try:
            with Progress("extract", "rows", self._count) as progress:
                for first in range(0, self._count, self._batch_size):
                    if len(under_way) == DEPTH:
                        yield from self._finish(under_way.popleft(), progress)
                    buffer = (
                        self._buffers.popleft() if self._buffers else np.empty(self._shape, "f4")
                    )
                    last = min(first + self._batch_size, self._count)
                    tasks = [
                        decoding.submit(self._decode, buffer, first, start, last)
                        for start in range(first, last, IMAGES_PER_TASK)
                    ]
                    under_way.append(forwarding.submit(self._forward, buffer, first, last, tasks))
                while under_way:
                    yield from self._finish(under_way.popleft(), progress)
        finally:
            for pool in (forwarding, decoding):
                pool.shutdown(wait=False, cancel_futures=True)
            for pool in (decoding, forwarding):
                pool.shutdown(wait=True)

    def _finish(self, future: "Future[_Timed]", progress: Progress) -> Iterator[FeatureBatch]:
        batch, decode, forward = future.result()
        started = time.perf_counter()
        yield batch  # the caller writes it before it takes the next batch
        self.times.write += time.perf_counter() - started
        self.times.decode += decode
        self.times.forward += forward
        rows = len(batch.indices) + len(batch.failures)
        progress.advance(rows, f"slowest: {self.times.slowest}")

    def _decode(self, buffer: Pixels, first: int, start: int, last: int) -> _Decoded:
        """Load a few images into the buffer of the batch that begins at `first`."""
        started = time.perf_counter()
        failures = {}
        for index in range(start, min(start + IMAGES_PER_TASK, last)):
            try:
                buffer[index - first] = self._load(index)
            except UndecodableImageError as error:
                failures[index] = str(error)
        return _Decoded(failures, time.perf_counter() - started)

    def _forward(
        self, buffer: Pixels, first: int, last: int, tasks: "list[Future[_Decoded]]"
    ) -> _Timed:
        """Wait for a batch's pixels and run the engine on them.

        This cannot deadlock: pixels of earlier batches were submitted earlier.
        """
        decoded = [task.result() for task in tasks]
        decode = sum(part.seconds for part in decoded) / self._threads
        failures = {index: reason for part in decoded for index, reason in part.failures.items()}
        good = np.array([index for index in range(first, last) if index not in failures], np.int64)
        if not len(good):
            return _Timed(FeatureBatch(good, [], failures), decode, 0.0)
        engine = self._started_engine()
        started = time.perf_counter()
        features = engine(buffer[good - first] if failures else buffer[: last - first])
        seconds = (time.perf_counter() - started) / min(engine.streams, self._threads)
        self._buffers.append(buffer)
        return _Timed(FeatureBatch(good, features, failures), decode, seconds)

    def _started_engine(self) -> Engine:
        with self._engine_lock:
            if self._engine is None:
                self._engine = self._make_engine()
            return self._engine
