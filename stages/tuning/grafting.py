"""The graft check before a fine-tuning: nothing learns that does not fit its own head."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.stream import ImageStream
from cryobase.stages.errors import DataError
from cryobase.stages.heads.graft import Samples, check_graft, graft_onto
from cryobase.stages.heads.head import Head
from cryobase.stages.heads.side_by_side import SideBySide
from cryobase.stages.tuning.precision import precision
from cryobase.stages.tuning.starts import Start

CHECKED = 8  # training images that are looked at


def check_stored(
    head: Path, weights: str, features: Path, images: RawImages, ids: NDArray[np.bytes_]
) -> None:
    """Refuse a head whose graft does not answer images as the head answers their stored features.

    The graft is built for this alone, in float32: half precision would hide small differences.

    Args:
        head: directory of the head.
        weights: of its backbone.
        features: the feature set that it was trained on.
        images: the images.
        ids: of those that train.

    Raises:
        DataError: images and head do not have the same classes.
        GraftError: the answers differ; it names the layer or the preprocessing.
    """
    loaded = Head.load(head)
    if loaded.classes != images.examples.classes:
        name = head.parent.name
        raise DataError(
            f"the images have the classes {list(images.examples.classes)}, the head {head}"
            f" {list(loaded.classes)}; run `cryobase extract {name} && cryobase split && cryobase"
            f" train {name}`"
        )

    def graft(one: Head, preprocessing: str | None) -> Any:
        return graft_onto(one, weights, preprocessing=preprocessing)

    stored = SideBySide.open(features)
    having = stored.having(ids)  # spread over them, because neighbours are often alike
    chosen = having[np.unique(np.linspace(0, len(having) - 1, CHECKED).astype(np.intp))]
    samples = Samples(stored, images, chosen)
    with precision("float32"):
        check_graft(graft(loaded, None), loaded, samples, graft)


def check_joined(start: Start, stream: ImageStream, ids: NDArray[np.bytes_]) -> None:
    """Refuse a model that does not say what its base and its head say apart.

    Raises:
        DataError: they do not agree.
    """
    images, _ = next(stream.plain.batches(ids[:CHECKED]))
    start.check(images)
