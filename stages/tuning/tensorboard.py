"""Curves for TensorBoard."""

import math
import shutil
from pathlib import Path
from typing import Any

from cryobase.stages.backbones.frameworks import load_tensorflow
from cryobase.stages.tuning.checkpoints import Rows

CURVES = {"train": "", "validation": "val_"}  # directory -> prefix of the history's columns


def log(rows: Rows, directory: Path) -> None:
    """Write loss and accuracy by epoch as event files in `train` and `validation`.

    `tf.summary.scalar` and Keras' callback are refused where TensorBoard is not installed;
    `tf.summary.write` is what they call, and TensorFlow's own.
    """
    tf = load_tensorflow()

    shutil.rmtree(directory, ignore_errors=True)  # TensorBoard would draw both runs as one
    for name, prefix in CURVES.items():
        writer = tf.summary.create_file_writer(str(directory / name))
        with writer.as_default():
            for row in rows:
                for curve in ("loss", "accuracy"):
                    _write(curve, row[prefix + curve], int(row["epoch"]))
        writer.close()


def _write(curve: str, value: float, epoch: int) -> None:
    tf = load_tensorflow()

    scalars: Any = tf.compat.v1.SummaryMetadata()
    scalars.plugin_data.plugin_name = "scalars"
    if math.isfinite(value):
        tf.summary.write(curve, tf.constant(value, tf.float32), step=epoch, metadata=scalars)
