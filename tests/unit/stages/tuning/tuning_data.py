"""Small coloured images, split, and models that learn them in no time."""

from pathlib import Path

import numpy as np

from cryobase.stages import download, split
from cryobase.stages.data.pixels import PixelSpec
from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import Splits
from cryobase.stages.data.stream import ImageStream
from cryobase.stages.tuning.convnets import Convnet
from cryobase.stages.tuning.phase import ImageExamples, OptimizerSettings, PhaseSettings
from tests.images import CLASSES, write_folder

SIZE = 12
TINY = Convnet(image_size=SIZE, filters=(4, 6), pools=1, features="avg", dropout=0.2)


def prepare(root: Path, *, per_class: int = 16, classes: tuple[str, ...] = CLASSES) -> Path:
    """`root/raw` and `root/splits` of a folder of PNG files."""
    write_folder(root / "images", per_class, classes=classes)
    source = download.DownloadConfig(source="folder", path=str(root / "images"))
    download.run(source, output=root / "raw")
    shares = split.SplitConfig(train=0.5, validation=0.25, test=0.25, seed=1)
    split.run(shares, raw=root / "raw", output=root / "splits")
    return root


def stream(root: Path, *, batch_size: int = 8, **options) -> ImageStream:
    """The images at `SIZE` pixels."""
    images = RawImages.open(root / "raw")
    pixels = PixelSpec(image_size=SIZE)
    return ImageStream(images=images, pixels=pixels, batch_size=batch_size, **options)


def examples(root: Path, **options) -> ImageExamples:
    """Training and validation images."""
    parts = Splits.open(root / "splits")
    return ImageExamples(
        stream=stream(root, **options),
        train_ids=parts.ids("train"),
        validation_ids=parts.ids("validation"),
        seed=0,
    )


def settings(
    *, epochs: int = 2, keep="best", learning_rate: float = 0.01, seed=0, **options
) -> PhaseSettings:
    """Of a phase, with Adam; options are those of the optimizer."""
    optimizer = {"name": "adam", "learning_rate": learning_rate, **options}
    return PhaseSettings(
        optimizer=OptimizerSettings(**optimizer), epochs=epochs, keep=keep, seed=seed
    )


def base_with_norms(size: int = SIZE):
    """Two blocks of convolution, BatchNormalization and relu, with settled statistics."""
    import keras

    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    image = keras.Input((size, size, 3), name="image")
    x = image / 255.0
    for block in (1, 2):
        x = keras.layers.Conv2D(4, 3, name=f"conv{block}")(x)
        x = keras.layers.BatchNormalization(name=f"norm{block}")(x)
        x = keras.layers.ReLU(name=f"relu{block}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, [x])


def grafted(base, classes: int = 3):
    """A model with a linear head on a base."""
    import keras

    x = keras.layers.Dense(classes, name="logits")(base.outputs[0])
    x = keras.layers.Activation("softmax", name="probabilities")(x)
    return keras.Model(base.inputs[0], x)


def values(model) -> list[np.ndarray]:
    """All weights, copied."""
    return [np.array(array) for array in model.get_weights()]
