"""The user's environment never reaches a value: whatever is set, all commands give the same."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from tests.images import CLASSES, picture
from tests.scale import RUN_ALL

pytest.importorskip("openvino")

BASE, LAST = ("mobilenetv2", 12) if RUN_ALL else ("tiny", 4)
PARAMS = """
download: {{source: folder, path: "{images}"}}
extract:
  sets: {{s: {{backbone: {base}, weights: none, image_size: 32, dtype: float32}}}}
train:
  heads:
    linear: {{kind: linear, learning_rate: 0.01, epochs: 3}}
    mlp: {{kind: mlp, units: 16, dropout: 0.3, epochs: 2}}
    ridge: {{kind: ridge}}
finetune:
  runs: {{ft: {{set: s, head: linear, unfreeze: {{last: {last}}}, epochs: 2, precision: float32}}}}
"""
COMMANDS = (
    "download",
    "split",
    "extract",
    "train",
    "evaluate",
    "finetune",
    "heads export s linear --format keras --format openvino",
    "predict {images} --model models/s/linear --json",
    "predict {images} --model tuned/ft --json",
)
RUN = """
import json, sys
from cryobase.pipeline.cli import main
from cryobase.stages.backbones.table import BACKBONES
from tests.bases import TINY
BACKBONES["tiny"] = TINY
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as end:
        assert not end.code, words
"""
HOSTILE = {
    "KERAS_BACKEND": "torch",
    "KERAS_HOME": "{home}",  # where a keras.json lies
    "KERAS_MAX_EPOCHS": "1",
    "KERAS_MAX_STEPS_PER_EPOCH": "1",
    "KERAS_NNX_ENABLED": "true",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_SET_ONEDNN_FPMATH_MODE": "BF16",
    "TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_IGNORE_PERFORMANCE": "1",
    "TF_DETERMINISTIC_OPS": "1",
    "TF_USE_LEGACY_KERAS": "1",
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
    "TF2_BEHAVIOR": "0",
    "XLA_FLAGS": "--xla_cpu_enable_fast_math=true",
    "NVIDIA_TF32_OVERRIDE": "1",
    "ONEDNN_DEFAULT_FPMATH_MODE": "ANY",
    "DNNL_DEFAULT_FPMATH_MODE": "ANY",
    "DNNL_MAX_CPU_ISA": "SSE41",
    "OV_CPU_MAX_ISA": "SSE42",
    "OPENCV_IPP": "disabled",
    "OPENCV_CPU_DISABLE": "AVX2,FMA3",
    "OPENCV_IO_MAX_IMAGE_PIXELS": "100",
    "JSIMD_FORCENONE": "1",
    "PYTHONHASHSEED": "7",
    "PYTHONWARNINGS": "error",
    "LC_ALL": "tr_TR.UTF-8",
    "TZ": "Asia/Tokyo",
}
KERAS_JSON = {
    "floatx": "float16",
    "epsilon": 1e-3,
    "image_data_format": "channels_first",
    "backend": "jax",
    "nnx_enabled": True,
}
# as in a notebook whose first cell is not ours
KERAS_FIRST = """
import keras, tensorflow as tf
keras.config.set_floatx("float16")
keras.config.set_image_data_format("channels_first")
keras.config.set_dtype_policy("mixed_bfloat16")
keras.config.set_max_steps_per_epoch(1)
tf.config.run_functions_eagerly(True)
"""
CASES = {"all at once": (HOSTILE, "")}
if RUN_ALL:
    CASES |= {name: ({name: value}, "") for name, value in HOSTILE.items()}
    CASES["Keras first"] = {}, KERAS_FIRST


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for label, name in enumerate(CLASSES[:2]):
        (root / name).mkdir()
        for number in range(12):
            photograph = picture(label, number, 120)[:90]
            cv2.imwrite(str(root / name / f"{number:02}.jpg"), photograph)
    return root


def outcome(work: Path, images: Path, environ: dict[str, str], before: str) -> dict[str, object]:
    """What all commands leave behind in an empty directory, by path."""
    home = work / "home"
    home.mkdir()
    (home / "keras.json").write_text(json.dumps(KERAS_JSON))
    (work / "params.yaml").write_text(PARAMS.format(images=images, base=BASE, last=LAST))
    commands = [words.format(images=images).split() for words in COMMANDS]
    clean = {name: value for name, value in os.environ.items() if name not in HOSTILE}
    done = subprocess.run(
        [sys.executable, "-c", before + RUN, json.dumps(commands)],
        cwd=work,
        env=clean
        | {"CRYOBASE_CACHE": str(work / "cache"), "CUDA_VISIBLE_DEVICES": "-1"}
        | {"PYTHONPATH": str(Path(__file__).parents[2])}
        | {name: value.format(home=home) for name, value in environ.items()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, object] = {"stdout": done.stdout.replace(str(work), "")}
    for part in ("cache", "features", "models", "results", "tuned", "export"):
        for path in sorted((work / part).rglob("*")):
            if path.suffix in {".h5", ".npy", ".npz", ".bin", ".xml", ".json", ".csv"}:
                found[str(path.relative_to(work))] = path.read_bytes()
            elif path.suffix == ".keras":  # says when it was written, and HDF5 where its bytes lie
                found[str(path.relative_to(work))] = arrays_of(path)
    del found["tuned/ft/model.json"]  # the SHA-256 of such files
    return found


def arrays_of(path: Path) -> dict[str, bytes]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        data = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(data) as weights:
        weights.visititems(
            lambda name, item: (
                found.update({name: np.asarray(item).tobytes()})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    assert found
    return found


@pytest.fixture(scope="module")
def clean(tmp_path_factory, images):
    return outcome(tmp_path_factory.mktemp("clean"), images, {}, "")


@pytest.mark.parametrize("case", CASES)
def test_extract_train_finetune_predict_and_export_give_the_bytes_of_a_clean_run(
    tmp_path, images, clean, case
):
    found = outcome(tmp_path, images, *CASES[case])
    assert found.keys() == clean.keys()
    assert [name for name in clean if found[name] != clean[name]] == []
    assert len([name for name in clean if name.startswith(("features", "export", "tuned"))]) > 8


@pytest.mark.skipif(not RUN_ALL, reason="a minute")
def test_threads_and_numpys_kernels_change_no_row(tmp_path, images, clean):
    """They are the machine's, as its cores are: heads agree within rounding, rows bit for bit."""
    names = ("OMP_NUM", "OPENBLAS_NUM", "TF_NUM_INTRAOP", "TF_NUM_INTEROP", "CRYOBASE")
    environ = {f"{name}_THREADS": "1" for name in names}
    environ |= {"NPY_DISABLE_CPU_FEATURES": "AVX2", "OPENBLAS_CORETYPE": "Prescott"}
    found = outcome(tmp_path, images, environ, "")
    rows = [name for name in clean if name.startswith(("features", "cache"))]
    assert [name for name in rows if found[name] != clean[name]] == []
