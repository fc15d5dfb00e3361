"""Loading Keras and TensorFlow so that no setting of the environment changes a feature's value.

Libraries read environment variables, and Keras reads `keras.json`. Some of these change results,
but not the fingerprint. So this module removes the variables before a library reads them, imports
Keras without its file, and sets Keras' settings each time that Keras is loaded. If a setting cannot
be undone any more, it raises an error. No other module may import Keras or TensorFlow first.
DESIGN.md, section 2: Nothing ambient.
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

# Prefixes of the variables that libraries read, and the modules that read them so early, or so
# often, that removing a variable after their import does not help. Keras' settings can be set back.
# numpy's variables (OPENBLAS_, MKL_, NPY_) are not here: like another processor, they choose other
# kernels, which rows do not depend on, and some machines need them.
READERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("TF_", "TF2_", "XLA_", "CUDNN_", "CUBLAS_", "NVIDIA_TF32_"), ("tensorflow",)),
    **dict.fromkeys(("ONEDNN_", "DNNL_"), ("tensorflow", "openvino")),
    **dict.fromkeys(("OV_", "OPENVINO_"), ("openvino",)),
    "OPENCV_": ("cv2",),
    "JSIMD_": ("simplejpeg",),
    "KERAS_": (),
}
# Variables with these prefixes that change no values, but only devices, threads, memory or logs.
HARMLESS = re.compile(
    r"KERAS_HOME|TF2_BEHAVIOR=1|TF_CPP_\w+|TF_NUM_\w+_THREADS|TF_FORCE_\w+|TF_\w*MEM\w*|\w*LOG\w*"
    r"|TF_GPU_(ALLOCATOR|THREAD_\w+)|TF_MIN_GPU_MULTIPROCESSOR_COUNT|\w+_VERBOSE|\w+_NUM_THREADS"
    # Terraform's variables, which TensorFlow does not read
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

# The options that `tf.config.optimizer.get_experimental_options` returns by default, all False.
OPTIONS = {"disable_model_pruning", "disable_meta_optimizer"}

# Keras imports these if they are installed, for wrappers, tables and pictures that no command uses.
# They take a third of the time of its import.
UNASKED = ("matplotlib", "pandas", "sklearn")

logger = logging.getLogger(__name__)

_clean: set[str] = set()  # modules that were loaded while their variables were not set
_taken: list[str] = []  # removed variables that were not logged yet
_late: list[str] = []  # variables that a module had read before they were removed
_policy = "float32"
_lean = False  # whether Keras is imported without `UNASKED`


def pin_environment(environ: MutableMapping[str, str] = os.environ) -> list[str]:
    """Remove the variables that could change a value, and return their names.

    Importing `stages` calls this, before any library is imported that reads them.
    """
    taken = sorted(name for name in environ if _changes_values(name, environ[name]))
    for name in taken:
        readers = READERS[_beginning(name)]
        _late.extend([name] * any(m in sys.modules and m not in _clean for m in readers))
        del environ[name]
    _clean.update(m for readers in READERS.values() for m in readers if m in sys.modules)
    _taken.extend(taken)
    environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    environ.setdefault("KERAS_BACKEND", "tensorflow")
    return taken


def _changes_values(name: str, value: str) -> bool:
    known = name == "KERAS_BACKEND" and value == "tensorflow"
    harmless = HARMLESS.fullmatch(name) or HARMLESS.fullmatch(f"{name}={value}")
    return bool(_beginning(name)) and not harmless and not known


def _beginning(name: str) -> str:
    return next((prefix for prefix in READERS if name.upper().startswith(prefix)), "")


def ignored() -> list[str]:
    """The removed variables that no log line has named yet."""
    return list(_taken)


def check_pinned() -> None:
    """Refuse a process whose libraries read variables before they were removed.

    Raises:
        ConfigError: a library did; the message names the variables.
    """
    pin_environment()
    if _taken:  # logging was not set up yet when they were removed
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
    """Import Keras without the libraries in `UNASKED`, which commands do not need.

    Use this in processes that run one command. In a notebook Keras belongs to the user, who may
    want its wrappers for scikit-learn, for example.
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
    """Set TensorFlow's settings that change values.

    TensorFloat-32 is switched off: it keeps only ten bits of a number's fraction, so a GPU would
    give other features than a processor.

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
    """Use a dtype policy, for fine-tuning. Outside the context the policy is `float32`."""
    global _policy  # noqa: PLW0603 (one process has one Keras)
    before, _policy = _policy, name
    try:
        load_keras()
        yield
    finally:
        _policy = before
        load_keras()


def forget_names() -> None:
    """Restart Keras' automatic layer names, so that a second build gets equal names."""
    load_keras().utils.clear_session()
    load_keras()  # clearing the session also resets some settings


def settings_of_user() -> dict[str, Any]:
    """The settings of the user's `keras.json` that differ from ours, and so are ignored."""
    # It imports numpy, which must not be loaded too early.
    from cryobase.store.errors import StoreError
    from cryobase.store.text import read_json

    try:
        settings = read_json(keras_home() / SETTINGS_FILE)
    except (StoreError, ValueError):
        return {}
    items = settings.items() if isinstance(settings, dict) else ()
    return {key: value for key, value in items if key in SETTINGS and value != SETTINGS[key]}


def keras_home() -> Path:
    """The directory of Keras' downloaded weights."""
    # `Path.expanduser` raises an error without a home directory, but most runs need no such file.
    return Path(os.path.expanduser(os.environ.get("KERAS_HOME") or "~/.keras"))


@contextlib.contextmanager
def _without_settings() -> Iterator[None]:
    """Import Keras with an empty home, without `keras.json`. Later it uses the user's home."""
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
    # `get_file` reads this private variable; Keras has no public way to set it
    sys.modules["keras.src.backend.config"]._KERAS_DIR = str(keras_home())  # type: ignore[attr-defined]


@contextlib.contextmanager
def _without_unasked() -> Iterator[None]:
    """After `import_lean`, hide `UNASKED` from Keras' import; later imports see them."""
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
    """Collect what is written to stderr in the context, then write it without the greeting."""
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
    """Let TensorFlow look for devices, so that its second greeting comes now."""
    tf = sys.modules["tensorflow"]
    tf.get_logger().setLevel("ERROR")
    tf.config.list_physical_devices()
