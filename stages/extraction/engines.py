"""The table of engines, choosing an engine, and checking its features of the canary images.

TensorFlow is the reference. Other engines may be faster, but must give the same features. So before
an engine computes a row, its features of the canary images are compared with TensorFlow's, or with
those that a pool recorded.
"""

import importlib.util
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.frameworks import check_pinned, load_tensorflow
from cryobase.stages.backbones.probes import CANARIES, canary_images
from cryobase.stages.errors import ConfigError, DriftError
from cryobase.stages.extraction.openvino_engine import OpenVinoEngine, forget
from cryobase.stages.extraction.trunk import Engine, Trunk, padded

ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd")  # NVIDIA's and AMD's drivers
# in standard deviations of the features; measured differences of engines are 1e-4 to 1e-3
TOLERANCE = 2e-3
MEND = (
    "run with the libraries and the engine that computed those, or, if the new features are right,"
    " raise EXTRACTOR_VERSION in stages/backbones/table.py and run `cryobase extract`"
)

Check = Callable[[Engine], None]
CanaryRows = Sequence[NDArray[np.float32]]  # features of the canary images, by output

logger = logging.getLogger(__name__)


class TensorFlowEngine:
    """The Keras model in one `tf.function` of a fixed batch shape."""

    name = "tensorflow"
    streams = 1  # TensorFlow spreads one call over all cores

    def __init__(self, trunk: Trunk, outputs: Sequence[str], batch_size: int) -> None:
        model = trunk.model(outputs)
        tf = load_tensorflow()

        self.shapes = [tuple(tensor.shape[1:]) for tensor in model.outputs]
        self._batch_size = batch_size
        self._lock = Lock()
        shape = (batch_size, trunk.image_size, trunk.image_size, 3)

        self._forward = tf.function(
            lambda batch: tf.nest.flatten(model(batch, training=False)),
            input_signature=[tf.TensorSpec(shape, tf.float32)],
        )

    def __call__(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Features of pixels; see `Engine`."""
        with self._lock:
            features = self._forward(padded(batch, self._batch_size))
        return [tensor.numpy()[: len(batch)] for tensor in features]


ENGINES: dict[str, type[Engine]] = {"tensorflow": TensorFlowEngine, "openvino": OpenVinoEngine}


def start_engine(
    name: str,
    trunk: Trunk,
    outputs: Sequence[str],
    batch_size: int,
    check: Check | None = None,
) -> Engine:
    """An engine that is ready to be called and has passed a check.

    Args:
        name: a key of `ENGINES`, or "auto": OpenVINO if it is installed and passes the check on a
            machine without a GPU, else TensorFlow.
        trunk: the base to run.
        outputs: see `build`.
        batch_size: the most images in one call.
        check: raises DriftError for an engine that must not be used. By default, the engine must
            reproduce TensorFlow's features of the canary images.

    Raises:
        ConfigError: the engine is not installed, or a library of this process has read environment
            variables that change values.
        DriftError: the engine does not pass the check, and no other one may be tried.
    """
    check_pinned()
    check = check or partial(_check_now, trunk, outputs)
    installed = importlib.util.find_spec("openvino") is not None
    if name == "openvino" and not installed:
        raise ConfigError(
            "extract.engine: openvino is not installed; run `pip install 'cryobase[openvino]'`,"
            " or set extract.engine: auto"
        )
    if name == "openvino":
        return _openvino(trunk, outputs, batch_size, check)
    if name == "auto" and installed and not has_accelerator():
        try:
            return _openvino(trunk, outputs, batch_size, check)
        except (DriftError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            logger.warning("%s: OpenVINO cannot be used: %s", trunk.backbone, reason)
    engine = ENGINES["tensorflow" if name == "auto" else name](trunk, outputs, batch_size)
    check(engine)
    return engine


def reference(
    engine: Engine, found: CanaryRows, trunk: Trunk, outputs: Sequence[str]
) -> CanaryRows:
    """TensorFlow's features of the canary images, computed in this process.

    Nothing is read from the cache: somebody who can write there could put a wrong model and
    matching features there.

    Args:
        engine: the engine to check.
        found: the engine's own features of the images.
        trunk: the base that the engine runs.
        outputs: the outputs that the engine computes.
    """
    if isinstance(engine, OpenVinoEngine) and engine.reference is not None:
        return engine.reference
    if isinstance(engine, ENGINES["tensorflow"]):
        return found
    logger.info("%s: computing TensorFlow's canary rows, once for a pool", trunk.backbone)
    fresh = ENGINES["tensorflow"](trunk, outputs, CANARIES)
    return fresh(canary_images(trunk.image_size))


def check_reference(found: CanaryRows, expected: CanaryRows, subject: str) -> None:
    """Refuse an engine whose features of the canary images are not the reference's.

    Raises:
        DriftError: the features of an output differ; the message has the measured difference.
    """
    mend = "set extract.engine: tensorflow"
    for features, wanted in zip(found, expected, strict=True):
        check_features(features, wanted, subject, of="of TensorFlow", mend=mend)


def deviation(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """The largest absolute difference, in standard deviations of the expected features.

    Infinite if the shapes differ or a value is not finite.
    """
    if found.shape != expected.shape:
        return math.inf
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max()
    relative = difference / max(float(expected.std(dtype=np.float64)), 1e-12)
    return float(relative) if math.isfinite(relative) else math.inf


def check_features(
    found: NDArray[np.floating],
    expected: NDArray[np.floating],
    subject: str,
    *,
    of: str = "recorded",
    mend: str = MEND,
) -> None:
    """Refuse features of the canary images that differ from the expected ones.

    Raises:
        DriftError: they differ by more than `TOLERANCE`; the message has `subject`, the origin of
            the expected features (`of`), the measured difference, and `mend`.
    """
    measured = deviation(found, expected)
    if measured > TOLERANCE:
        raise DriftError(
            f"{subject}: the canary images' features differ by {measured:.2g} standard deviations"
            f" from those {of}, at most {TOLERANCE:g} is allowed; {mend}"
        )


def has_accelerator() -> bool:
    """Whether TensorFlow may have a GPU; found out without loading TensorFlow."""
    return any(Path(device).exists() for device in ACCELERATORS)


def _check_now(trunk: Trunk, outputs: Sequence[str], engine: Engine) -> None:
    found = engine(canary_images(trunk.image_size))
    expected = reference(engine, found, trunk, outputs)
    check_reference(found, expected, f"{trunk.backbone} with {engine.name}")


def _openvino(trunk: Trunk, outputs: Sequence[str], batch_size: int, check: Check) -> Engine:
    """OpenVINO with the cached model; if that fails the check, with a newly converted model."""
    engine = OpenVinoEngine(trunk, outputs, batch_size)
    try:
        check(engine)
    except DriftError as error:
        if engine.reference is not None:  # converted just now
            raise
        forget(trunk, outputs, error)
        engine = OpenVinoEngine(trunk, outputs, batch_size)
        check(engine)
    return engine
