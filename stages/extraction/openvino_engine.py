"""The OpenVINO engine, the fastest one on processors, and its cache of converted models.

A cached model needs neither Keras nor TensorFlow. A file beside it states what it was made from and
the SHA-256 of its files, to detect damage. This module does not check features; `engines` does.
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

from cryobase.stages.backbones.foreign import MAX_FILE
from cryobase.stages.backbones.kept import kept
from cryobase.stages.backbones.probes import canary_images
from cryobase.stages.errors import DriftError
from cryobase.stages.extraction.trunk import Trunk, cores, padded
from cryobase.stages.received import opened
from cryobase.store.text import read_json

MODEL = "model.xml"
CARD = "kept.json"
# Images per inference; more do not fit the processor's cache: docs/backbones.md, Engines.
INFERENCE_BATCH = 4
REQUESTS_PER_STREAM = 2  # so that a free stream finds the next request waiting
SETTINGS = {
    "PERFORMANCE_HINT": "THROUGHPUT",
    "INFERENCE_PRECISION_HINT": "f32",
    "ENABLE_CPU_PINNING": "NO",  # with pinning, all workers of a machine would use its first core
}

DAMAGE = (OSError, RuntimeError, ValueError, KeyError, DriftError)

logger = logging.getLogger(__name__)


class OpenVinoEngine:
    """A compiled model with one stream per core.

    Attributes:
        reference: TensorFlow's features of the canary images; None if the model was in the cache.
    """

    name = "openvino"

    def __init__(self, trunk: Trunk, outputs: Sequence[str], batch_size: int) -> None:
        """Compile the cached model, or convert one and cache it."""
        self.streams = cores()
        self.reference: list[NDArray[np.float32]] | None = None
        directory = kept_directory(trunk, outputs)
        if directory.exists():
            try:
                _check_kept(directory, trunk, outputs)
                self._compile(directory, trunk.image_size, batch_size)
            except DAMAGE as error:
                forget(trunk, outputs, error)
            else:
                return
        self.reference = _convert(trunk, outputs, directory)
        self._compile(directory, trunk.image_size, batch_size)

    def __call__(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Features of pixels; see `Engine`. All streams work on the same call."""
        features = [np.empty((len(batch), *shape), np.float32) for shape in self.shapes]

        def infer(start: int) -> None:
            rows = slice(start, start + self._batch_size)
            self._infer(batch[rows], [each[rows] for each in features])

        deque(self._threads.map(infer, range(0, len(batch), self._batch_size)), maxlen=0)
        return features

    def _infer(self, part: NDArray[np.float32], features: Sequence[NDArray[np.float32]]) -> None:
        """Fill the features of a few images."""
        request = self._requests.get()  # never waits: there are as many requests as threads
        try:
            request.infer([padded(part, self._batch_size)], share_inputs=True)
            for rows, port in zip(features, self._ports, strict=True):
                rows[:] = request.get_tensor(port).data[: len(part)]
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


def _number(port: Any) -> int:
    """The number of an output: Keras' export names them output_0, output_1, …"""
    return min(int(name.rpartition("_")[2]) for name in port.names if name.startswith("output_"))


def kept_directory(trunk: Trunk, outputs: Sequence[str]) -> Path:
    """The cache directory of a converted model; its name is a digest of all that decides it."""
    parts = json.dumps(_parts(trunk, outputs), sort_keys=True)
    return kept("openvino") / hashlib.sha256(parts.encode()).hexdigest()


def forget(trunk: Trunk, outputs: Sequence[str], reason: Exception) -> None:
    """Remove a cached model that cannot be used."""
    directory = kept_directory(trunk, outputs)
    logger.info("%s: removed, it cannot be used: %s", directory, reason)
    shutil.rmtree(directory, ignore_errors=True)


def _parts(trunk: Trunk, outputs: Sequence[str]) -> dict[str, Any]:
    return {
        "backbone": trunk.backbone,
        "weights": trunk.weights.sha256,
        "image_size": trunk.image_size,
        "preprocessing": trunk.preprocessing,
        "outputs": list(outputs),
        "versions": [version(name) for name in ("openvino", "keras", "tensorflow")],
    }


def _check_kept(directory: Path, trunk: Trunk, outputs: Sequence[str]) -> None:
    """Raise ValueError if the cached model is another one or was changed."""
    card = read_json(directory / CARD)
    if card != _card(directory, trunk, outputs):
        raise ValueError(f"its {CARD} does not describe it")


def _card(directory: Path, trunk: Trunk, outputs: Sequence[str]) -> dict[str, Any]:
    sha256 = {}
    for path in directory.iterdir():
        if path.name != CARD:
            with opened(path, MAX_FILE, follow=False) as file:
                sha256[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return {"made_from": _parts(trunk, outputs), "sha256": sha256}


def _convert(trunk: Trunk, outputs: Sequence[str], directory: Path) -> list[NDArray[np.float32]]:
    """Convert the Keras model, cache it in full precision, and return its canary features."""
    import openvino

    logger.info("%s: converting for OpenVINO, once", trunk.backbone)
    model = trunk.model(outputs)
    features = model(canary_images(trunk.image_size), training=False)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        model.export(f"{scratch}/saved", verbose=False)
        converted = openvino.Core().read_model(f"{scratch}/saved")
        whole = Path(scratch, "kept")
        whole.mkdir()
        openvino.save_model(converted, whole / MODEL, compress_to_fp16=False)
        (whole / CARD).write_text(json.dumps(_card(whole, trunk, outputs)), encoding="utf-8")
        try:
            os.rename(whole, directory)
        except OSError:
            if not (directory / MODEL).exists():  # otherwise another process was faster
                raise
    outputs_of = features if isinstance(features, list) else [features]
    return [np.asarray(tensor) for tensor in outputs_of]
