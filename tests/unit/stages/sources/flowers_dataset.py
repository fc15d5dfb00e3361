"""A small TFDS dataset, made on the spot and really built by TFDS."""

import io

import numpy as np
import tensorflow_datasets as tfds

from tests.images import CLASSES, picture
from tests.unit.stages.data.test_decoding import encoded, photo

PER_SPLIT = {"train": 8, "test": 4}


def jpeg(split: str, number: int) -> bytes:
    """The bytes that are stored: no decoder must touch them on the way."""
    return encoded(photo(20, 24, seed=number + 100 * (split == "test")), "JPEG", quality=71)


class MadeFlowers(tfds.core.GeneratorBasedBuilder):
    """Two classes, file names kept, JPEG bytes as they come."""

    VERSION = tfds.core.Version("1.2.3")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["tulip", "daisy"]),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in PER_SPLIT}

    def _generate_examples(self, split):
        for number in range(PER_SPLIT[split]):
            yield (
                number,
                {
                    "image": io.BytesIO(jpeg(split, number)),
                    "image/filename": f"{split}_{number}.jpg",
                    "label": ["tulip", "daisy"][number % 2],
                },
            )


class MadePictures(tfds.core.GeneratorBasedBuilder):
    """Sixty pictures of three classes, as PNG."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(range(42)),
            "test": self._generate_examples(range(42, 60)),
        }

    def _generate_examples(self, numbers):
        for number in numbers:
            yield number, {"image": picture(number % 3, number), "label": number % 3}


class MadeArrays(tfds.core.GeneratorBasedBuilder):
    """Raw arrays, two class features, no supervised keys, one split, one example without label."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "pixels": tfds.features.Tensor(shape=(6, 5, 3), dtype=np.uint8),
            "kind": tfds.features.ClassLabel(names=["a", "b"]),
            "side": tfds.features.ClassLabel(names=["left", "right"]),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(9):
            pixels = np.full((6, 5, 3), 10 * (number % 8), np.uint8)
            kind = -1 if number == 5 else number % 2
            yield number, {"pixels": pixels, "kind": kind, "side": number % 2}


class MadeRemote(MadeFlowers):
    """Flowers whose bytes would come from a server."""

    VERSION = tfds.core.Version("1.0.0")
    urls = ()

    def _split_generators(self, dl_manager):
        dl_manager.download(list(self.urls))
        return super()._split_generators(dl_manager)
