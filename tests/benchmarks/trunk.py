"""Fine-tuning on stored outputs of the frozen trunk, beside the same training end to end.

Both sides train the same layers of the same model with the same optimizer, from the same JPEG-free
raw images (PNG), decoding included; one epoch over the training images is timed.
"""

import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np

from cryobase.stages import download, split
from cryobase.stages.data.generated import write_folder
from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import Splits
from cryobase.stages.data.stream import ImageStream
from cryobase.stages.extract import SetConfig
from cryobase.stages.tuning import config, starts
from cryobase.stages.tuning.cached_trunk import StoredTrunk, store_trunk
from cryobase.stages.tuning.freezing import unfreeze
from cryobase.stages.tuning.phase import ImageExamples, OptimizerSettings, Phase, PhaseSettings

PER_CLASS = 80
BATCH = 20
ROUNDS = 2
CUT = "block4_pool"
VGG16 = SetConfig(
    backbone="vgg16", weights="none", image_size=150, preprocessing="unit", output="flatten"
)


@cache
def prepared() -> Path:
    """Raw images of two classes and their split."""
    root = Path(tempfile.mkdtemp())
    write_folder(root / "images", ["cat", "dog"], PER_CLASS)
    source = download.DownloadConfig(source="folder", path=str(root / "images"))
    download.run(source, output=root / "raw")
    shares = split.SplitConfig(train=0.8, validation=0.2, test=0)
    split.run(shares, raw=root / "raw", output=root / "splits")
    return root


def phase(stored: str | None) -> Phase:
    """Block 5 and a head, on images (None) or on stored rows of a dtype."""
    root = prepared()
    head = config.NewHead(units=256, output="sigmoid")
    start = starts.fresh(VGG16, head, ("cat", "dog"), seed=0)
    unfreeze(start.base, {"from": "block5_conv1"})
    images, parts = RawImages.open(root / "raw"), Splits.open(root / "splits")
    ids = {"train_ids": parts.ids("train"), "validation_ids": parts.ids("validation"), "seed": 0}
    optimizer = OptimizerSettings(name="rmsprop", learning_rate=1e-5)
    settings = PhaseSettings(optimizer=optimizer, epochs=1, keep="last", seed=0, cut=stored and CUT)
    if stored is None:
        stream = ImageStream(images=images, pixels=start.pixels, batch_size=BATCH)
        return Phase(start.model, start.base, ImageExamples(stream=stream, **ids), settings)
    chosen = SetConfig(**{**vars(VGG16), "output": CUT, "dtype": stored})
    rows = store_trunk(chosen, raw=root / "raw", pool=root / "pool", output=root / f"rows-{stored}")
    given = StoredTrunk(rows=rows, batch_size=BATCH, **ids)
    return Phase(start.model, start.base, given, settings)


def losses(one: Phase, epochs: int) -> list[float]:
    """The training losses of some steps in a row."""
    found = []
    for epoch in range(1, epochs + 1):
        for step, (inputs, labels) in enumerate(one.examples.train(epoch)):
            found.append(float(one._step(inputs, labels, step)[0]))
    return found


def seconds(one: Phase) -> float:
    """Of one epoch of training, the best of some rounds, compilation aside."""
    losses(one, 1)
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        losses(one, 1)
        best = min(best, time.perf_counter() - begin)
    return best


def vgg16_block5() -> float:
    """How many times faster an epoch of VGG16's block 5 at 150 pixels is on stored rows."""
    return seconds(phase(None)) / seconds(phase("float16"))


def trajectories(epochs: int = 3) -> dict[str, float]:
    """The largest difference of the losses of all steps to those end to end, by dtype."""
    whole = np.array(losses(phase(None), epochs))
    return {
        dtype: float(np.abs(whole - losses(phase(dtype), epochs)).max())
        for dtype in ("float32", "float16")
    }


BENCHMARKS = {f"trunk.{vgg16_block5.__name__}": vgg16_block5}
