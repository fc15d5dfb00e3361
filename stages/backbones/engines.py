"""The table of engines, and the choice among them."""

import importlib.util
import logging
from collections.abc import Sequence

from stages.backbones.canary import DriftError
from stages.backbones.machine import has_accelerator
from stages.backbones.openvino_engine import OpenVinoEngine
from stages.backbones.tensorflow_engine import TensorFlowEngine
from stages.backbones.trunk import Engine, Trunk
from stages.errors import ConfigError

logger = logging.getLogger(__name__)

ENGINES: dict[str, type[Engine]] = {"tensorflow": TensorFlowEngine, "openvino": OpenVinoEngine}


def start_engine(name: str, trunk: Trunk, outputs: Sequence[str], batch_size: int) -> Engine:
    """An engine that is ready to be called and reproduces the reference on the canary images.

    Args:
        name: a key of `ENGINES`, or "auto": OpenVINO on processors where it is installed and
            reproduces TensorFlow, else TensorFlow.
        trunk: the base to run.
        outputs: see `build`.
        batch_size: the most images that one call is given.

    Raises:
        ConfigError: the engine is not installed.
        DriftError: it was asked for by name and does not reproduce the reference.
    """
    installed = importlib.util.find_spec("openvino") is not None
    if name == "openvino" and not installed:
        raise ConfigError(
            "extract.engine: openvino is not installed; pip install 'cryobase[openvino]',"
            " or set the engine to auto"
        )
    if name == "auto" and installed and not has_accelerator():
        try:
            return OpenVinoEngine(trunk, outputs, batch_size)
        except (DriftError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            logger.warning("%s: OpenVINO cannot stand in: %s", trunk.backbone, reason)
    return ENGINES["tensorflow" if name == "auto" else name](trunk, outputs, batch_size)
