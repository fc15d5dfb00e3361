"""The table of engines, the choice among them, and what each must reproduce."""

import importlib.util
import logging
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones import canary
from cryobase.stages.backbones.canary import DriftError
from cryobase.stages.backbones.frameworks import check_pinned
from cryobase.stages.backbones.machine import has_accelerator
from cryobase.stages.backbones.openvino_engine import OpenVinoEngine, forget
from cryobase.stages.backbones.tensorflow_engine import TensorFlowEngine
from cryobase.stages.backbones.trunk import Engine, Trunk
from cryobase.stages.errors import ConfigError

Check = Callable[[Engine], None]
Rows = Sequence[NDArray[np.float32]]  # of the canary images, by output

logger = logging.getLogger(__name__)

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
        name: a key of `ENGINES`, or "auto": OpenVINO on processors where it is installed and
            passes, else TensorFlow.
        trunk: the base to run.
        outputs: see `build`.
        batch_size: the most images that one call is given.
        check: raises DriftError for an engine that is not to be used; by default it must reproduce
            TensorFlow's features of the canary images, which are computed for it.

    Raises:
        ConfigError: the engine is not installed, or libraries of this process have listened to
            variables that change values.
        DriftError: it was asked for by name, or is the last one left, and does not pass.
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
            logger.warning("%s: OpenVINO cannot stand in: %s", trunk.backbone, reason)
    engine = ENGINES["tensorflow" if name == "auto" else name](trunk, outputs, batch_size)
    check(engine)
    return engine


def reference(engine: Engine, found: Rows, trunk: Trunk, outputs: Sequence[str]) -> Rows:
    """TensorFlow's features of the canary images, computed in this process: nothing kept is asked.

    Whoever can write to a cache could put there a model with features to match.

    Args:
        engine: the one that is to be checked.
        found: its own features of the images.
        trunk, outputs: what it runs.
    """
    if isinstance(engine, OpenVinoEngine) and engine.reference is not None:
        return engine.reference
    if isinstance(engine, ENGINES["tensorflow"]):
        return found
    logger.info("%s: computing TensorFlow's canary rows, once for a pool", trunk.backbone)
    fresh = ENGINES["tensorflow"](trunk, outputs, canary.COUNT)
    return fresh(canary.canary_images(trunk.image_size))


def check_reference(found: Rows, expected: Rows, subject: str) -> None:
    """Refuse features of the canary images that are not the reference's, in any of the outputs.

    Raises:
        DriftError: with the measured difference.
    """
    mend = "set extract.engine: tensorflow"
    for features, wanted in zip(found, expected, strict=True):
        canary.check(features, wanted, subject, of="of TensorFlow", mend=mend)


def _check_now(trunk: Trunk, outputs: Sequence[str], engine: Engine) -> None:
    found = engine(canary.canary_images(trunk.image_size))
    expected = reference(engine, found, trunk, outputs)
    check_reference(found, expected, f"{trunk.backbone} with {engine.name}")


def _openvino(trunk: Trunk, outputs: Sequence[str], batch_size: int, check: Check) -> Engine:
    """The engine on the kept model; if that does not pass, on one that is converted anew."""
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
