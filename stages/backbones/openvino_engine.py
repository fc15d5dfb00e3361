"""The fast engine on processors: OpenVINO, from a model that was converted once and kept.

A kept model needs neither Keras nor TensorFlow. Beside it lie the reference's features of the
canary images, so that it can be held against them wherever it is loaded.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.archives import read_npz
from stages.backbones import canary
from stages.backbones.machine import cores
from stages.backbones.trunk import Trunk, padded
from stages.received import opened
from store.verified import cache_directory

MODEL = "model.xml"
REFERENCE = "reference.npz"
MAX_REFERENCE = 256 << 20  # bytes
# Images per inference; more fall out of the processor's cache: docs/backbones.md, Engines.
INFERENCE_BATCH = 4
REQUESTS_PER_STREAM = 2  # the next one is there when a stream becomes free
SETTINGS = {
    "PERFORMANCE_HINT": "THROUGHPUT",
    "INFERENCE_PRECISION_HINT": "f32",
    "ENABLE_CPU_PINNING": "NO",  # workers of one machine would all take its first core
}

DAMAGE = (OSError, RuntimeError, ValueError, KeyError, canary.DriftError)

logger = logging.getLogger(__name__)


class OpenVinoEngine:
    """A compiled model with one stream per core."""

    name = "openvino"

    def __init__(self, trunk: Trunk, outputs: Sequence[str], batch_size: int) -> None:
        """Compile the kept model, or convert and keep one.

        Raises:
            DriftError: it does not reproduce TensorFlow's features of the canary images.
        """
        self.streams = cores()
        directory = kept_directory(trunk, outputs)
        if (directory / MODEL).exists():
            try:
                self._load(trunk, directory, batch_size)
            except DAMAGE as error:
                logger.info("%s: removed, it cannot be used: %s", directory, error)
                shutil.rmtree(directory, ignore_errors=True)
            else:
                return
        _convert(trunk, outputs, directory)
        self._load(trunk, directory, batch_size)

    def __call__(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Features of pixels; see `Engine`. All streams share one call, so all end together."""
        features = [np.empty((len(batch), *shape), np.float32) for shape in self.shapes]

        def infer(start: int) -> None:
            rows = slice(start, start + self._batch_size)
            self._infer(batch[rows], [each[rows] for each in features])

        deque(self._threads.map(infer, range(0, len(batch), self._batch_size)), maxlen=0)
        return features

    def _infer(self, part: NDArray[np.float32], features: Sequence[NDArray[np.float32]]) -> None:
        """Fill the features of a few images."""
        request = self._requests.get()  # there are as many as threads
        try:
            request.infer([padded(part, self._batch_size)], share_inputs=True)
            for kept, port in zip(features, self._ports, strict=True):
                kept[:] = request.get_tensor(port).data[: len(part)]
        finally:
            self._requests.put(request)

    def _compile(self, directory: Path, image_size: int, batch_size: int) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(directory / MODEL)
        self._batch_size = min(batch_size, INFERENCE_BATCH)
        model.reshape([self._batch_size, image_size, image_size, 3])
        threads = str(self.streams)
        settings = {**SETTINGS, "NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads}
        compiled = core.compile_model(model, "CPU", settings)
        self._ports = sorted(compiled.outputs, key=_number)
        self.shapes = [tuple(port.shape)[1:] for port in self._ports]
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(REQUESTS_PER_STREAM * self.streams):
            self._requests.put(compiled.create_infer_request())
        self._threads = ThreadPoolExecutor(self._requests.qsize(), self.name)

    def _load(self, trunk: Trunk, directory: Path, batch_size: int) -> None:
        self._compile(directory, trunk.image_size, batch_size)
        found = self(canary.canary_images(trunk.image_size))
        with opened(directory / REFERENCE, MAX_REFERENCE) as file:
            kept = read_npz(file, {"<f4"})
        for number, features in enumerate(found):
            canary.check(features, kept[f"arr_{number}"], f"{trunk.backbone} with {self.name}")


def _number(port: Any) -> int:
    """Which output: Keras' export names them output_0, output_1, …"""
    return min(int(name.rpartition("_")[2]) for name in port.names if name.startswith("output_"))


def kept_directory(trunk: Trunk, outputs: Sequence[str]) -> Path:
    """Where a converted model is kept, named by all that decides what it computes."""
    parts = {
        "backbone": trunk.backbone,
        "weights": trunk.weights.sha256,
        "image_size": trunk.image_size,
        "preprocessing": trunk.preprocessing,
        "outputs": list(outputs),
        "versions": [version(name) for name in ("openvino", "keras", "tensorflow")],
        "canary": [canary.COUNT, canary.SEED],
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return cache_directory() / "openvino" / key


def _convert(trunk: Trunk, outputs: Sequence[str], directory: Path) -> None:
    """Convert the Keras model and keep it, in full precision, with the reference's features."""
    import openvino

    logger.info("%s: converting for OpenVINO, once", trunk.backbone)
    model = trunk.model(outputs)
    found = model(canary.canary_images(trunk.image_size), training=False)
    reference = [np.asarray(one) for one in (found if isinstance(found, list) else [found])]
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        model.export(f"{scratch}/saved", verbose=False)
        converted = openvino.Core().read_model(f"{scratch}/saved")
        kept = Path(scratch, "kept")
        kept.mkdir()
        openvino.save_model(converted, kept / MODEL, compress_to_fp16=False)
        np.savez(kept / REFERENCE, *reference)
        try:
            os.rename(kept, directory)
        except OSError:
            if not (directory / MODEL).exists():  # else another process was faster
                raise
