"""The source `tfds`: image classification datasets of TensorFlow Datasets.

Images keep the encoded bytes that the dataset stores.
"""

import hashlib
import logging
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from cryobase.stages.data.png import encode_png
from cryobase.stages.errors import ConfigError, DataError, NetworkError
from cryobase.stages.sources.digests import DigestTable
from cryobase.stages.sources.folder import PART_NAMES
from cryobase.stages.sources.left_out import NO_LABEL, Tally
from cryobase.stages.sources.network import bounded, is_outage
from cryobase.stages.sources.source import Source, SourceConfig, SourceExample
from cryobase.store.examples import encode_id

log = logging.getLogger(__name__)

ALL = "all"  # the key of `splits` for examples that belong to no part
FILE_NAME = re.compile(r"(?i)file_?name$")


@dataclass(frozen=True, kw_only=True)
class TfdsConfig(SourceConfig):
    """A dataset of TensorFlow Datasets.

    Attributes:
        name: the dataset, with or without configuration and version.
        data_dir: the directory of prepared datasets; without `name`, the directory of one prepared
            version.
        splits: a split expression for each part: train, validation, test, or all for examples
            without a part. If it is empty, the dataset's own splits are used.
        label: the feature with the class, if the dataset does not declare it.
    """

    name: str | None = None
    data_dir: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    label: str | None = None

    def check(self, source: str) -> None:
        if source == "tfds" and not (self.name or self.data_dir):
            raise ValueError("name: source tfds needs one, or data_dir of a prepared version")
        if unknown := set(self.splits) - {"train", "validation", "test", ALL}:
            raise ValueError(f"splits: keys train, validation, test or all, not {min(unknown)!r}")


class Tfds(Source):
    """A dataset by name, which is prepared if needed, or the directory of a prepared version."""

    Config = TfdsConfig

    def __init__(self, config: TfdsConfig, workspace: Path) -> None:
        """Prepare to read the dataset of a config; the workspace is not used."""
        self.left_out = Tally()
        self._config = config
        self._classes: tuple[str, ...] = ()
        self._seen = DigestTable()
        self._copies = array("q")

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    def examples(self) -> Iterator[SourceExample]:
        """Examples in the order of storage.

        An id is the file name that the dataset stores, or the image's digest. TFDS' own numbers are
        not used, because they change whenever an example is added.

        Raises:
            ConfigError: TFDS has no dataset of this name.
            NetworkError: the dataset cannot be fetched.
            DataError: a split is unknown, or the dataset cannot be prepared or is not for image
                classification.
        """
        import tensorflow_datasets as tfds

        builder = self._builder(tfds)
        image, label, name = self._features(tfds, builder.info)
        self._classes = tuple(
            encode_id(text).decode() for text in builder.info.features[label].names
        )
        for part, expression in self._splits(builder).items():
            for record in _records(tfds, builder, expression, [image, label, name]):
                number, data = int(record[label]), _encoded(record[image])
                whole = expression if part == ALL else part
                if not 0 <= number < len(self._classes):
                    identifier = self._identify(whole, data, record.get(name))
                    self.left_out.add(identifier, NO_LABEL)
                    continue
                yield SourceExample(
                    self._identify(f"{whole}/{self._classes[number]}", data, record.get(name)),
                    self._classes[number],
                    None if part == ALL else part,
                    data,
                )

    def _builder(self, tfds: Any) -> Any:
        config = self._config
        try:
            if config.name is None:
                return tfds.builder_from_directory(config.data_dir)
            with bounded():
                builder = tfds.builder(config.name, data_dir=config.data_dir)
                builder.download_and_prepare()
        except tfds.core.DatasetNotFoundError:
            names = tfds.list_builders(with_community_datasets=False)
            near = ", ".join(get_close_matches(str(config.name), names)) or "none"
            raise ConfigError(
                f"download.name: TFDS has no dataset {config.name!r}; names like it: {near}"
            ) from None
        except Exception as error:  # noqa: BLE001 - TFDS raises whatever its dataset scripts raise
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            if is_outage(error):
                raise NetworkError(
                    f"tfds {config.name}: {reason}; check the network, or point download.data_dir"
                    " at a prepared version's directory"
                ) from None
            raise DataError(
                f"tfds {config.name or config.data_dir}: cannot be prepared ({reason}); check"
                " download.name, or point download.data_dir at a prepared version's directory"
            ) from None
        return builder

    def _features(self, tfds: Any, info: Any) -> tuple[str, str, str]:
        """The keys of image, label and, if there is one, file name."""
        features: Mapping[str, Any] = info.features
        supervised = info.supervised_keys or (None, None)
        keys = sorted(features)
        images = [key for key in keys if _is_image(tfds, features[key])]
        labels = [key for key in keys if isinstance(features[key], tfds.features.ClassLabel)]
        image = supervised[0] if supervised[0] in images else _only(images)
        asked = self._config.label
        label = asked or (supervised[1] if supervised[1] in labels else _only(labels))
        if image is None or label not in labels:
            raise DataError(
                f"tfds {info.name}: needs one image and one class feature; has images"
                f" {images or 'none'} and classes {labels or 'none'}: set download.label to one"
            )
        names = [key for key in keys if FILE_NAME.search(key)]
        return image, label, _only(names) or ""

    def _splits(self, builder: Any) -> Mapping[str, str]:
        if self._config.splits:
            return self._config.splits
        own = {name: PART_NAMES.get(name.lower()) for name in builder.info.splits}
        if len(own) < 2 or None in own.values():  # a single split divides nothing
            return {ALL: "+".join(own)}
        return {part: name for name, part in own.items() if part}

    def _identify(self, prefix: str, data: bytes, name: Any) -> str:
        known = isinstance(name, bytes)
        text = encode_id(name.decode("utf-8", "surrogateescape")).decode() if known else ""
        identifier = f"{prefix}/{text or hashlib.sha256(data).hexdigest()[:32]}"
        row = self._seen.add(hashlib.sha256(identifier.encode()).digest())
        if row == len(self._copies):
            self._copies.append(1)
            return identifier
        self._copies[row] += 1
        return f"{identifier}~{self._copies[row]}"


def _records(tfds: Any, builder: Any, expression: str, keys: list[str]) -> Iterator[dict[str, Any]]:
    """The wanted features of each example; images stay encoded."""
    image, wanted = keys[0], {key for key in keys if key}
    skip = {image: tfds.decode.SkipDecoding()}
    decoders = tfds.decode.PartialDecoding(wanted, decoders=skip)
    order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    try:
        dataset = builder.as_dataset(
            split=expression, shuffle_files=False, decoders=decoders, read_config=order
        )
    except (ValueError, AssertionError, KeyError, OSError) as error:
        known = ", ".join(builder.info.splits) or "none: it is not prepared"
        raise DataError(
            f"tfds {builder.info.name}: no split {expression!r}"
            f" ({' '.join(str(error).split())[:120]}); known: {known}"
        ) from None
    yield from tfds.as_numpy(dataset)


def _is_image(tfds: Any, feature: Any) -> bool:
    if isinstance(feature, tfds.features.Image):
        return True
    shape: tuple[int | None, ...] = getattr(feature, "shape", None) or ()
    return len(shape) == 3 and shape[-1] in (1, 3) and np.dtype(feature.np_dtype) == np.uint8


def _encoded(image: Any) -> bytes:
    return image if isinstance(image, bytes) else encode_png(np.asarray(image))


def _only(keys: list[str]) -> str | None:
    return keys[0] if len(keys) == 1 else None
