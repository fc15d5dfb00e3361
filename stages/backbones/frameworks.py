"""Keras, TensorFlow and what they listen to: the one place that loads them, so that nothing ambient
reaches a value.

Libraries read variables of the environment, Keras also `keras.json`; some change what they compute,
under the same fingerprint. Here the variables are taken away before any library reads them, Keras
is imported without its file, and what can be set from Python is set each time that Keras is asked
for. What cannot be taken back any more is refused. DESIGN.md, section 2: Nothing ambient.
"""

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

from cryobase.stages.errors import ConfigError

# absl prints these on file descriptor 2 before any setting of TensorFlow's can stop it
GREETING = re.compile(rb"^(WARNING: All log messages before absl|[IW]\d{4,} [\d:. ]+\S+\.cc:\d+\])")

# How the names of the variables begin that a library listens to, and which modules read them so
# early, or so often, that taking them away later is no cure; Keras' can be set back. Numpy's
# (OPENBLAS_, MKL_, NPY_) are not among them: they choose among kernels, as another processor does,
# which no row depends on, and some machines need them.
READERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("TF_", "TF2_", "XLA_", "CUDNN_", "CUBLAS_", "NVIDIA_TF32_"), ("tensorflow",)),
    **dict.fromkeys(("ONEDNN_", "DNNL_"), ("tensorflow", "openvino")),
    **dict.fromkeys(("OV_", "OPENVINO_"), ("openvino",)),
    "OPENCV_": ("cv2",),
    "JSIMD_": ("simplejpeg",),
    "KERAS_": (),
}
# Of these, the ones that change where, how fast or how loud: devices, threads, memory, logs.
HARMLESS = re.compile(
    r"KERAS_HOME|TF2_BEHAVIOR=1|TF_CPP_\w+|TF_NUM_\w+_THREADS|TF_FORCE_\w+|TF_\w*MEM\w*|\w*LOG\w*"
    r"|TF_GPU_(ALLOCATOR|THREAD_\w+)|TF_MIN_GPU_MULTIPROCESSOR_COUNT|\w+_VERBOSE|\w+_NUM_THREADS"
    # Terraform's, of which TensorFlow knows nothing
    r"|TF_(CLI|VAR|TOKEN|PLUGIN|REGISTRY)_\w+|TF_(DATA_DIR|WORKSPACE|INPUT|IN_AUTOMATION)"
)

SETTINGS_FILE = "keras.json"
SETTINGS = {  # of Keras, as `_pin_keras` sets them
    "backend": "tensorflow",
    "floatx": "float32",
    "epsilon": 1e-7,
    "image_data_format": "channels_last",
    "nnx_enabled": False,
    "max_epochs": None,
    "max_steps_per_epoch": None,
}

# what `tf.config.optimizer.get_experimental_options` names where nothing was set; all are False
OPTIONS = {"disable_model_pruning", "disable_meta_optimizer"}

# Keras imports these where they are installed, for wrappers, tables and pictures that no command
# asks for: a third of the seconds that its import takes.
UNASKED = ("matplotlib", "pandas", "sklearn")

logger = logging.getLogger(__name__)

_clean: set[str] = set()  # modules that were loaded while none of their variables was set
_taken: list[str] = []  # variables that nobody was told of yet
_late: list[str] = []  # variables that a module had read before they could be taken away
_policy = "float32"
_lean = False  # whether Keras is imported without `UNASKED`


def pin_environment(environ: MutableMapping[str, str] = os.environ) -> list[str]:
    """Take away the variables that could change a value; their names.

    `stages` does so when it is imported, before any library that listens to them.
    """
    taken = sorted(name for name in environ if _changes_values(name, environ[name]))
    for name in taken:
        readers = READERS[_beginning(name)]
        _late.extend([name] * any(one in sys.modules and one not in _clean for one in readers))
        del environ[name]
    _clean.update(one for readers in READERS.values() for one in readers if one in sys.modules)
    _taken.extend(taken)
    environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    environ.setdefault("KERAS_BACKEND", "tensorflow")
    return taken


def _changes_values(name: str, value: str) -> bool:
    known = name == "KERAS_BACKEND" and value == "tensorflow"
    harmless = HARMLESS.fullmatch(name) or HARMLESS.fullmatch(f"{name}={value}")
    return bool(_beginning(name)) and not harmless and not known


def _beginning(name: str) -> str:
    return next((one for one in READERS if name.upper().startswith(one)), "")


def ignored() -> list[str]:
    """The variables that were taken away, as long as no log line has named them."""
    return list(_taken)


def check_pinned() -> None:
    """Refuse a process whose libraries listened to the environment before we could prevent it.

    Raises:
        ConfigError: with the names of the variables.
    """
    pin_environment()
    if _taken:  # when they were taken away, nobody had said yet where log lines go
        logger.info("ignored, because they could change values: %s", ", ".join(_taken))
        _taken.clear()
    if _late:
        raise ConfigError(
            f"a library was imported while {', '.join(sorted(set(_late)))} was set, which can"
            " change values; unset it and start anew, or import Cryobase first"
        )


def load_keras() -> Any:
    """The module `keras` on TensorFlow, with the settings that features are computed under.

    The first call takes seconds.

    Raises:
        ConfigError: this process has settings that cannot be taken back.
    """
    check_pinned()
    with _without_greeting(), _without_settings(), _without_unasked():
        import keras
        import tensorflow as tf
    if keras.config.backend() != "tensorflow":
        raise ConfigError(
            f"Keras runs on {keras.config.backend()} in this process, Cryobase needs it on"
            " tensorflow; set KERAS_BACKEND=tensorflow and start anew, or import Cryobase first"
        )
    _pin_keras(keras)
    _pin_tensorflow(tf)
    return keras


def import_lean() -> None:
    """Have Keras imported without libraries that no command needs Keras to know.

    For processes that run one command. In a notebook Keras belongs to the user, who may want its
    wrappers for scikit-learn, say.
    """
    global _lean  # noqa: PLW0603 (one process has one Keras)
    _lean = True


def load_tensorflow() -> Any:
    """The module `tensorflow`, under the settings of `load_keras`."""
    load_keras()
    return sys.modules["tensorflow"]


def _pin_keras(keras: Any) -> None:
    keras.config.set_floatx(SETTINGS["floatx"])
    keras.config.set_epsilon(SETTINGS["epsilon"])
    keras.config.set_image_data_format(SETTINGS["image_data_format"])
    keras.config.disable_flash_attention()
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)
    if keras.config.dtype_policy().name != _policy:
        keras.config.set_dtype_policy(_policy)


def _pin_tensorflow(tf: Any) -> None:
    """TensorFloat-32 keeps ten bits of a number: a GPU would give other features than processors.

    Raises:
        ConfigError: options of the graph optimizer are set, which cannot be unset.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    if tf.config.functions_run_eagerly():
        tf.config.run_functions_eagerly(False)
    if tf.config.optimizer.get_jit() not in ("", "False"):
        tf.config.optimizer.set_jit(False)
    options = tf.config.optimizer.get_experimental_options()
    if changed := sorted(name for name in options if options[name] or name not in OPTIONS):
        raise ConfigError(
            f"tf.config.optimizer has {', '.join(changed)} set, which can change values; start"
            " anew without it"
        )


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Have Keras build and train under a dtype policy, for fine-tuning; else it is `float32`."""
    global _policy  # noqa: PLW0603 (one process has one Keras)
    before, _policy = _policy, name
    try:
        load_keras()
        yield
    finally:
        _policy = before
        load_keras()


def forget_names() -> None:
    """Count automatic layer names from the start again, so that a second build has the same."""
    load_keras().utils.clear_session()
    load_keras()  # the session took some settings with it


def settings_of_user() -> dict[str, Any]:
    """What the user's `keras.json`, which is not read for Keras, has otherwise than is set here."""
    from cryobase.store.errors import StoreError  # with numpy, which must not be loaded too early
    from cryobase.store.text import read_json

    try:
        found = read_json(keras_home() / SETTINGS_FILE)
    except (StoreError, ValueError):
        return {}
    items = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in items if key in SETTINGS and value != SETTINGS[key]}


def keras_home() -> Path:
    """Where Keras keeps downloaded weights."""
    # `Path.expanduser` ends with an error where no home is known, and most runs need no such file.
    return Path(os.path.expanduser(os.environ.get("KERAS_HOME") or "~/.keras"))


@contextlib.contextmanager
def _without_settings() -> Iterator[None]:
    """Import Keras with a home of its own, where no `keras.json` lies; files stay in the user's."""
    if "keras" in sys.modules:
        yield
        return
    before = os.environ.get("KERAS_HOME")
    with tempfile.TemporaryDirectory() as empty:
        os.environ["KERAS_HOME"] = empty
        try:
            yield
        finally:
            del os.environ["KERAS_HOME"]
            if before is not None:
                os.environ["KERAS_HOME"] = before
    # `get_file` asks this; there is no public way to say it
    sys.modules["keras.src.backend.config"]._KERAS_DIR = str(keras_home())  # type: ignore[attr-defined]


@contextlib.contextmanager
def _without_unasked() -> Iterator[None]:
    """After `import_lean`, have Keras find none of `UNASKED`; whoever imports them later does."""
    unasked = [name for name in UNASKED if name not in sys.modules]
    if not _lean or "keras" in sys.modules:
        unasked = []
    for name in unasked:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in unasked:
            del sys.modules[name]


@contextlib.contextmanager
def _without_greeting() -> Iterator[None]:
    """Hold back what is written to stderr meanwhile, then pass on all but the greeting."""
    if "tensorflow" in sys.modules:
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
            _greet()
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            held.seek(0)
            for line in held:
                if not GREETING.match(line):
                    os.write(stderr, line)
            os.close(stderr)


def _greet() -> None:
    """Have TensorFlow look for devices, at which it greets a second time."""
    tf = sys.modules["tensorflow"]
    tf.get_logger().setLevel("ERROR")
    tf.config.list_physical_devices()
