"""70,000 real images from files to a trained head, beside the tutorials' way.

The images are Fashion-MNIST's, as Debian's package `dataset-fashion-mnist` brings them. The base is
EfficientNet-Lite0 at 160 pixels with its real weights, the head a linear one. Ours are the four
commands, from nothing, interpreters and all, but for the model, which is converted beforehand; the
tutorials' loop works on a tenth of the images, with TensorFlow imported and its model built.
"""

import gzip
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from tests.benchmarks.measure import NotHereError

ORIGIN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = [
    "top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "boot",
]
SIZE, BATCH, EPOCHS, TENTH, FEW = 160, 32, 30, 7000, 700
PARAMS = """
download: {source: folder, path: IMAGES}
split: {train: 0.9, validation: 0.1, test: 0}
extract: {sets: {fashion: {backbone: efficientnet_lite0, image_size: 160, output: avg}}}
train: {heads: {linear: {kind: linear, epochs: 30}}}
"""
MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""

_scratch = tempfile.TemporaryDirectory(prefix="cryobase-benchmark-")


def _idx(name: str) -> np.ndarray:
    """An array of the dataset: a header of a magic number and the shape, then bytes."""
    data = gzip.decompress((ORIGIN / name).read_bytes())
    shape = np.frombuffer(data, ">u4", data[3], 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


@cache
def images(number: int) -> Path:
    """A folder of PNG files: part, class, image."""
    if not ORIGIN.exists():
        raise NotHereError("apt install dataset-fashion-mnist")
    folder = Path(_scratch.name, f"images-{number}")
    for part, name in (("train", "train"), ("test", "t10k")):
        pixels, labels = (
            _idx(f"{name}-{kind}.gz") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
        )
        for label in CLASSES:
            (folder / part / label).mkdir(parents=True)
        for index in range(len(pixels) * number // 70_000):
            cv2.imwrite(str(folder / part / CLASSES[labels[index]] / f"{index}.png"), pixels[index])
    return folder


@cache
def ours(number: int) -> tuple[float, int]:
    """Images/s from the files to the head, and the peak memory of extraction in KiB."""
    if number > FEW:
        ours(FEW)  # converts and keeps the model, which takes TensorFlow and its memory
    params, peak = PARAMS.replace("IMAGES", str(images(number))), 0
    project = Path(_scratch.name, f"project-{number}")
    project.mkdir()
    (project / "params.yaml").write_text(params)
    command = str(Path(sys.executable).parent / "cryobase")
    started = time.perf_counter()
    for stage in ("download", "split", "extract", "train"):
        run = [sys.executable, "-c", MEASURED, command, "--quiet", stage]
        done = subprocess.run(run, cwd=project, check=True, stdout=subprocess.PIPE, text=True)
        if stage == "extract":
            peak = int(done.stdout.split()[-1])
    return number / (time.perf_counter() - started), peak


def tutorial() -> float:
    """Images/s of keras.io's guides: `predict` per batch, `np.save`, then `fit` on the features."""
    import keras

    from cryobase.stages.backbones.build import build
    from cryobase.stages.backbones.weights import locate_weights

    weights = locate_weights("efficientnet_lite0", "imagenet")
    base = build(
        "efficientnet_lite0", weights.path, image_size=SIZE, preprocessing="lite", outputs=["avg"]
    )
    base.predict(np.zeros((BATCH, SIZE, SIZE, 3), np.float32), verbose=0)
    folder = images(TENTH)
    started = time.perf_counter()
    arrays = {}
    for part in ("train", "test"):
        dataset = keras.utils.image_dataset_from_directory(
            folder / part, image_size=(SIZE, SIZE), batch_size=BATCH, verbose=False
        )
        features, labels = [], []
        for pixels, targets in dataset:
            features.append(base.predict(pixels, verbose=0))
            labels.append(targets)
        arrays[part] = np.concatenate(features), np.concatenate(labels)
        np.save(f"{_scratch.name}/{part}.npy", arrays[part][0])
    head = keras.Sequential([keras.Input((1280,)), keras.layers.Dense(10, "softmax")])
    head.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    head.fit(*arrays["train"], validation_data=arrays["test"], epochs=EPOCHS, verbose=0)
    return TENTH / (time.perf_counter() - started)


def vs_tutorial() -> float:
    """How many times more images a second, from files to a trained head."""
    rate, _ = ours(70_000)
    print(f"fashion: {rate:.0f} images/s from files to a trained head", file=sys.stderr)
    return rate / tutorial()


def memory_growth() -> float:
    """Peak memory of extraction for 70,000 images over that for 30,000, which fill a shard too."""
    return ours(70_000)[1] / ours(30_000)[1]


BENCHMARKS = {"fashion.vs_tutorial": vs_tutorial, "fashion.memory_growth": memory_growth}
