"""Extraction beside the tutorials' own way, and beside what the machine could do at best.

All sides start from JPEG files that `download` has listed, with their model built and warm, and end
with features on disk. Weights are seeded: time does not depend on their values.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path
from statistics import median
from typing import Literal
from unittest.mock import patch

import cv2
import numpy as np

from cryobase.stages import download
from cryobase.stages.backbones.build import build
from cryobase.stages.backbones.probes import probes
from cryobase.stages.backbones.table import BACKBONES
from cryobase.stages.backbones.weights import locate_weights
from cryobase.stages.data.pixels import PixelSpec, load
from cryobase.stages.extract import SetConfig, spec_of
from cryobase.stages.extraction import passes
from cryobase.stages.extraction.engines import start_engine
from cryobase.stages.extraction.plan import Images, Target
from cryobase.stages.extraction.trunk import Engine, Trunk, cores
from cryobase.store import Pool

BATCH = 32
ROUNDS = 5
LARGE = 4000, 3000
CASES = {
    "mobilenet_v2_160": ("mobilenetv2", 160, 4800),
    "efficientnet_lite0_224": ("efficientnet_lite0", 224, 2400),
    "vgg16_150": ("vgg16", 150, 640),
}

_scratch = tempfile.TemporaryDirectory(prefix="cryobase-benchmark-")
_number = count()


def _fresh() -> Path:
    """A directory that is not there yet."""
    return Path(_scratch.name, str(next(_number)))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@cache
def _photographs(number: int, width: int = 500, height: int = 375) -> Path:
    """A folder of two classes of JPEG files with a photograph's detail."""
    folder = _fresh()
    random = np.random.default_rng(0)
    smooth = [cv2.resize(image, (width, height)) for image in probes(8, 96)]
    grain = random.normal(0, 28, (height + 64, width + 64)).astype(np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), 1)[..., None]  # as sensors give it; about 8 levels
    places = random.permutation(64 * 64)  # no two alike: what is equal would be computed once
    for index in range(number):
        directory = folder / ("cats", "dogs")[index % 2]
        directory.mkdir(parents=True, exist_ok=True)
        top, left = divmod(places[index // 8], 64)
        image = smooth[index % 8] + grain[top : top + height, left : left + width]
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        cv2.imwrite(str(directory / f"{index}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return folder


@cache
def _raw(number: int, width: int = 500, height: int = 375) -> Path:
    raw, folder = _fresh(), _photographs(number, width, height)
    config = download.DownloadConfig(source="folder", path=str(folder), in_place=True)
    download.run(config, output=raw)
    return raw


@cache
def _engine(backbone: str, size: int, outputs: tuple[str, ...] = ("avg",)) -> Engine:
    trunk = Trunk(
        backbone=backbone,
        weights=locate_weights(backbone, "none"),
        image_size=size,
        preprocessing=BACKBONES[backbone].preprocessing,
    )
    engine = start_engine("auto", trunk, outputs, BATCH)
    engine(np.zeros((BATCH, size, size, 3), np.float32))
    return engine


def _ours(
    backbone: str,
    size: int,
    raw: Path,
    outputs: tuple[str, ...] = ("avg",),
    decode: Literal["exact", "fast"] = "exact",
) -> float:
    """Seconds to compute and commit all rows, with a warm engine."""
    one = SetConfig(backbone=backbone, weights="none", image_size=size, decode=decode)
    config = [replace(one, output=output) for output in outputs]
    pool = _fresh()
    targets = [Target(Pool(pool, spec_of(each)), 0) for each in config]
    images = Images(raw)
    weights = locate_weights(backbone, "none")
    engine = _engine(backbone, size, tuple(sorted(outputs)))
    with patch.object(passes, "start_engine", return_value=engine):
        return _seconds(
            lambda: passes.compute(targets, images, weights, engine="auto", batch_size=BATCH)
        )


@cache
def _tutorial_base(backbone: str, size: int) -> tuple[object, object]:
    import keras

    name = {"mobilenetv2": "mobilenet_v2", "vgg16": "vgg16"}.get(backbone)
    preprocess = getattr(keras.applications, name).preprocess_input if name else None
    row = BACKBONES[backbone]
    own = "identity" if name else row.preprocessing  # Keras has no Lite0: it is ours on both sides
    weights = locate_weights(backbone, "none")
    base = build(backbone, weights.path, image_size=size, preprocessing=own, outputs=["avg"])
    base.predict(np.zeros((BATCH, size, size, 3), np.float32), verbose=0)
    return base, preprocess or (lambda images: images)


def _tutorial(backbone: str, size: int, folder: Path) -> float:
    """Seconds of keras.io's guides: dataset from the directory, `predict` per batch, `save`."""
    import keras

    base, preprocess = _tutorial_base(backbone, size)

    def extract() -> None:
        dataset = keras.utils.image_dataset_from_directory(
            folder, image_size=(size, size), batch_size=BATCH, verbose=False
        )
        features, labels = [], []
        for images, targets in dataset:
            features.append(base.predict(preprocess(images), verbose=0))
            labels.append(targets)
        path = _fresh()
        np.save(f"{path}-features.npy", np.concatenate(features))
        np.save(f"{path}-labels.npy", np.concatenate(labels))

    return _seconds(extract)


def _decode_rate(images: Images, pixels: PixelSpec) -> float:
    with ThreadPoolExecutor(cores()) as pool:
        work = range(len(images.raw))
        return len(work) / _seconds(
            lambda: list(pool.map(lambda i: load(images.raw.read(i), pixels).shape, work))
        )


def _forward_rate(backbone: str, size: int, number: int) -> float:
    engine = _engine(backbone, size)
    batch = probes(BATCH, size)
    with ThreadPoolExecutor(engine.streams) as pool:
        work = range(number // BATCH)
        return number / _seconds(lambda: list(pool.map(lambda _: engine(batch)[0].shape, work)))


@cache
def measure(case: str) -> list[dict[str, float]]:
    """Rates in images/s, in each of some rounds in turn."""
    backbone, size, number = CASES[case]
    folder, raw = _photographs(number), _raw(number)
    return [
        {
            "tutorial": number / _tutorial(backbone, size, folder),
            "decode": _decode_rate(Images(raw), PixelSpec(image_size=size)),
            "ours": number / _ours(backbone, size, raw),
            "forward": _forward_rate(backbone, size, number),
        }
        for _ in range(ROUNDS)
    ]


def vs_tutorial(case: str) -> float:
    """How many times faster than the tutorials' way."""
    return median(rates["ours"] / rates["tutorial"] for rates in measure(case))


def of_ideal(case: str) -> float:
    """The share of what decoding alone and the forward pass alone, one after the other, allow."""
    return median(
        rates["ours"] * (1 / rates["decode"] + 1 / rates["forward"]) for rates in measure(case)
    )


def fast_decode_12mp() -> float:
    """`decode: fast` against the tutorials' way, from 12-megapixel photographs to features."""
    backbone, size, number = "mobilenetv2", 160, 384
    folder, raw = (make(number, *LARGE) for make in (_photographs, _raw))
    return median(
        _tutorial(backbone, size, folder) / _ours(backbone, size, raw, decode="fast")
        for _ in range(ROUNDS)
    )


def fast_vs_exact_12mp() -> float:
    """How many times faster all cores decode 12-megapixel photographs for 160 pixels.

    They have 2.8 MB each at quality 90, as a phone's have 3 to 5. Decoding at 1/8 is the least that
    gives pixels: all but Huffman decoding is gone then, which is 20.5 of the 35 ms of `exact` on
    one idle core.
    """
    images = Images(_raw(24, *LARGE))
    exact, fast = (PixelSpec(image_size=160, decode=mode) for mode in ("exact", "fast"))
    return median(_decode_rate(images, fast) / _decode_rate(images, exact) for _ in range(ROUNDS))


def three_outputs() -> float:
    """Seconds for three outputs of one base over seconds for one."""
    case = ("mobilenetv2", 160, _raw(800))
    three = ("avg", "max", "block_13_expand_relu:avg")
    return median(_ours(*case, outputs=three) / _ours(*case) for _ in range(ROUNDS))


PEAK = """
import sys
from pathlib import Path
from tests.memory import peak_bytes
from cryobase.stages.extract import ExtractConfig, SetConfig, run
config = SetConfig(backbone="mobilenetv2", weights="none", image_size=128, output="flatten")
raw, scratch = map(Path, sys.argv[1:])
run(ExtractConfig(sets={"a": config}), "a", raw=raw, pool=scratch / "pool", output=scratch / "a")
print(peak_bytes())
"""


def _peak(number: int) -> int:
    raw, scratch = _fresh(), _fresh()
    config = download.DownloadConfig(
        source="folder", path=str(_photographs(number, 64, 64)), in_place=True
    )
    download.run(config, output=raw)
    command = [sys.executable, "-c", PEAK, str(raw), str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=os.getcwd())
    return int(done.stdout)


def memory_growth() -> float:
    """Peak memory for 20,000 images over that for 2,000, each in a process of its own.

    Rows are of 40 KB, so that 2,000 fill a shard as well: what the writer holds is counted twice.
    """
    _peak(64)  # converts and keeps the model
    return _peak(20_000) / _peak(2_000)


BENCHMARKS: dict[str, Callable[[], float]] = {
    **{f"extract.{case}.vs_tutorial": lambda case=case: vs_tutorial(case) for case in CASES},
    **{f"extract.{case}.of_ideal": lambda case=case: of_ideal(case) for case in CASES},
    "extract.fast_decode_12mp": fast_decode_12mp,
    "extract.fast_decode_12mp.vs_exact": fast_vs_exact_12mp,
    "extract.memory_growth": memory_growth,
    "extract.three_outputs": three_outputs,
}
