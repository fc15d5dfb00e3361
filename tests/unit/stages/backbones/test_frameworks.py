"""What Keras and TensorFlow listen to, and that none of it reaches them."""

import os
import subprocess
import sys

import pytest

from cryobase.stages.backbones import frameworks
from cryobase.stages.backbones.frameworks import pin_environment

HOSTILE = {
    "KERAS_BACKEND": "torch",
    "KERAS_MAX_EPOCHS": "1",
    "KERAS_ANYTHING_NEW": "1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2",
    "TF2_BEHAVIOR": "0",
    "XLA_FLAGS": "--xla_cpu_enable_fast_math=true",
    "NVIDIA_TF32_OVERRIDE": "1",
    "ONEDNN_DEFAULT_FPMATH_MODE": "ANY",
    "DNNL_MAX_CPU_ISA": "SSE41",
    "OV_CPU_MAX_ISA": "SSE42",
    "OPENVINO_ANYTHING": "1",
    "OPENCV_IO_MAX_IMAGE_PIXELS": "10",
    "JSIMD_FORCENONE": "1",
}
KEPT = {
    "KERAS_HOME": "/weights",
    "TF_CPP_MIN_LOG_LEVEL": "0",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "TF_GPU_ALLOCATOR": "cuda_malloc_async",
    "TF2_BEHAVIOR": "1",  # TensorFlow sets it itself
    "ONEDNN_VERBOSE": "1",
    "OPENCV_LOG_LEVEL": "ERROR",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENBLAS_CORETYPE": "Haswell",  # which some machines need
    "TF_VAR_region": "eu",  # Terraform's
    "TF_CLI_CONFIG_FILE": "/home/me/.terraformrc",
    "CUDA_VISIBLE_DEVICES": "0",
    "TFDS_DATA_DIR": "/data",
    "KERAS_BACKEND": "tensorflow",
}


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch):
    """As in a process that has just begun."""
    monkeypatch.setattr(frameworks, "_late", [])
    monkeypatch.setattr(frameworks, "_taken", [])
    monkeypatch.setattr(frameworks, "_clean", set(sys.modules))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_variable_that_can_change_values_is_taken_away(name):
    environ = {name: HOSTILE[name], "PATH": "/bin"}
    assert pin_environment(environ) == [name]
    assert environ == {"PATH": "/bin", "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}


def test_devices_threads_memory_and_logs_are_the_users():
    environ = dict(KEPT)
    assert pin_environment(environ) == []
    assert environ == KEPT


def run(code, **environ):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KERAS_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=clean | environ,
        capture_output=True,
        text=True,
    )


def test_what_is_said_before_us_is_set_back(tmp_path):
    """Keras first, with a file and settings of the user's; then ours."""
    (tmp_path / "keras.json").write_text(
        '{"floatx": "float16", "epsilon": 0.1, "image_data_format": "channels_first",'
        ' "backend": "tensorflow"}'
    )
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.h5").write_bytes(b"mine")
    code = (
        "import keras, tensorflow as tf;"
        "keras.config.set_dtype_policy('mixed_bfloat16'); tf.config.optimizer.set_jit(True);"
        "tf.config.run_functions_eagerly(True);"
        "from cryobase.stages.backbones.frameworks import load_keras; load_keras();"
        "c = keras.config;"
        "assert (c.floatx(), c.epsilon(), c.image_data_format(), c.dtype_policy().name)"
        " == ('float32', 1e-7, 'channels_last', 'float32');"
        "assert c.max_epochs() is c.max_steps_per_epoch() is None;"
        "assert keras.layers.Dense(1).dtype_policy.name == 'float32';"
        "assert not tf.config.functions_run_eagerly();"
        "assert not tf.config.experimental.tensor_float_32_execution_enabled();"
        "assert tf.config.optimizer.get_jit() in ('', 'False');"
        "from cryobase.stages.backbones.frameworks import forget_names;"
        "c.set_floatx('float16'); c.set_image_data_format('channels_first'); forget_names();"
        "assert (c.floatx(), c.image_data_format()) == ('float32', 'channels_last');"
    )
    done = run(code, KERAS_HOME=str(tmp_path), KERAS_MAX_EPOCHS="1", KERAS_MAX_STEPS_PER_EPOCH="1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", ["[]", '{"floatx": "bfloat16"}', '{"backend": "torch"}', "{"])
def test_keras_never_sees_its_file_but_finds_weights_beside_it(tmp_path, text):
    (tmp_path / "keras.json").write_text(text)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.h5").write_bytes(b"mine")
    code = (
        "from cryobase.stages.backbones.frameworks import load_keras; keras = load_keras();"
        "assert keras.config.backend() == 'tensorflow';"
        "print(keras.utils.get_file('mine.h5', 'http://localhost.invalid/', cache_subdir='models'))"
    )
    done = run(code, KERAS_HOME=str(tmp_path), KERAS_BACKEND="jax")
    assert done.stdout.strip() == str(tmp_path / "models" / "mine.h5"), done.stderr
    assert (tmp_path / "keras.json").read_text() == text, "nor writes it"


@pytest.mark.parametrize("lean", [True, False])
def test_keras_imports_what_no_command_asks_for_only_for_others(lean):
    """And whoever imports such a library later on has it whole."""
    code = (
        "import sys; from cryobase.stages.backbones import frameworks;"
        f"{lean} and frameworks.import_lean(); keras = frameworks.load_keras();"
        "print([name for name in frameworks.UNASKED if name in sys.modules]);"
        "import matplotlib.pyplot, pandas, sklearn.metrics; frameworks.load_keras();"
        "print(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).count_params())"
    )
    done = run(code)
    found = [] if lean else list(frameworks.UNASKED)
    assert done.stdout.split("\n")[:2] == [str(found), "3"], done.stderr


@pytest.mark.parametrize(
    ("before", "environ", "message"),
    [
        (
            "import tensorflow",
            {"TF_ENABLE_ONEDNN_OPTS": "0"},
            "while TF_ENABLE_ONEDNN_OPTS was set",
        ),
        ("import cv2", {"OPENCV_IPP": "disabled"}, "while OPENCV_IPP was set"),
        (
            "import tensorflow as tf;"
            "tf.config.optimizer.set_experimental_options({'auto_mixed_precision': True})",
            {},
            "has auto_mixed_precision set",
        ),
        (
            "import sys, types; keras = types.ModuleType('keras'); sys.modules['keras'] = keras;"
            "keras.config = types.SimpleNamespace(backend=lambda: 'torch')",
            {},
            "runs on torch in this process",
        ),
    ],
    ids=["tensorflow", "opencv", "options", "backend"],
)
def test_what_cannot_be_set_back_is_refused(before, environ, message):
    code = f"{before}\nfrom cryobase.stages.backbones.frameworks import load_keras\nload_keras()"
    done = run(code, **environ)
    assert "cryobase.stages.errors.ConfigError" in done.stderr
    assert message in done.stderr
