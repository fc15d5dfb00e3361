"""The feature set that `cryobase.open` returns, with its rows in the forms of other libraries.

Every form reads through `cryobase.store`. A library is imported when its form is first used.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryobase.pipeline.loaders import TorchBatches, TorchDataset, register
from cryobase.store import FeatureSet
from cryobase.store.text import counted, visible


class Part(NamedTuple):
    """Examples as scikit-learn takes them.

    Attributes:
        X: (n, width) float32 features.
        y: (n,) int32 labels, positions in `classes`.
        groups: (n,) equal numbers for equal images, which must not be on both sides of a fold.
    """

    X: NDArray[np.float32]
    y: NDArray[np.int32]
    groups: NDArray[np.int64]


class Features(FeatureSet):
    """A feature set for notebooks and scripts: numpy by `arrays` and `batches`, Dask by `to_dask`.

    `pandas.DataFrame.from_arrow(features)`, `polars.DataFrame(features)` and everything else that
    supports Arrow's PyCapsule protocol accept the set itself.
    """

    def __repr__(self) -> str:
        shape = " × ".join(map(str, self.feature_shape))
        of = f"{counted(len(self), 'image')} of {counted(len(self.classes), 'class')}"
        of += f" in views 0 to {self.views}"
        kind = f"{shape} {self.spec.dtype} by {self.spec.backbone}"
        return visible(f"{self.directory}: {of}, {kind}, digest {self.digest[:12]}…")

    def ids_of(self, part: str, splits: str | Path | None = None) -> NDArray[np.bytes_]:
        """The ids of "train", "validation" or "test" that have features, ascending.

        Args:
            part: Name of the part.
            splits: The directory of the splits; `data/splits` of the set's checkout if None.

        Raises:
            DataError: there are no splits, there is no such part, or the splits are of other
                images.
        """
        from cryobase.stages.data.splits import PARTS, Splits
        from cryobase.stages.errors import DataError
        from cryobase.stages.heads.side_by_side import SideBySide

        if part not in PARTS:
            raise DataError(f"no part {part!r}; known: {', '.join(PARTS)}")
        found = Splits.open(self._splits(splits)).ids(part)
        return SideBySide([self]).having(found)

    def _splits(self, splits: str | Path | None) -> Path:
        if splits is not None:
            return Path(splits).expanduser()
        return self.directory.absolute().parent.parent / "data" / "splits"

    def to_sklearn(self, part: str | None = None, splits: str | Path | None = None) -> Part:
        """Features, labels and groups of one part of the splits, or of all examples.

        Args:
            part: "train", "validation" or "test"; everything that has features if None.
            splits: The directory of the splits; `data/splits` of the set's checkout if None.

        Raises:
            DataError: as `ids_of`.
        """
        ids = None if part is None else self.ids_of(part, splits)
        positions = self.positions(ids)
        features, labels = self.take(positions)
        keys = np.ascontiguousarray(self.examples.digests[positions]).view("V32").ravel()
        groups = np.unique(keys, return_inverse=True)[1].astype(np.int64)
        return Part(features.reshape(len(labels), -1), labels, groups)

    def to_arrow(self, splits: str | Path | None = None) -> Any:
        """The examples as a `pyarrow.RecordBatchReader`: read batch by batch, `read_all` for all.

        Columns: `id`, `label` (the class's name), `split` where `splits` are given, `quarantined`,
        `digest`, `features` as a list of fixed size, and `features_1` … of the views.

        Args:
            splits: The directory of the splits.

        Raises:
            NoArrowError: pyarrow is not installed.
            DataError: there are no such splits.
        """
        from cryobase.stages.data.splits import Splits
        from cryobase.stages.exchange.parquet import batches_of, load_arrow, schema_of

        parts = None if splits is None else Splits.open(self._splits(splits)).along(self.examples)
        schema = schema_of(self, split=parts is not None)
        return load_arrow().RecordBatchReader.from_batches(schema, batches_of(self, parts))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Arrow's PyCapsule protocol."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def to_torch(self, ids: ArrayLike | None = None, view: int = 0) -> TorchDataset:
        """A map-style dataset for PyTorch's `DataLoader`; see `TorchDataset`.

        Args:
            ids: Which examples, in which order; all that have features, by id, if None.
            view: 0 for the plain image.
        """
        return TorchDataset(self, ids, view)

    def to_torch_batches(self, ids: ArrayLike | None = None, **options: Any) -> TorchBatches:
        """Whole batches for `DataLoader(batches, batch_size=None)`; see `TorchBatches`.

        Args:
            ids: Which examples; all that have features, by id, if None.
            options: `size`, `shuffle`, `block`, `seed`, `views`, `rank`, `ranks`, `drop_last`.
        """
        register()
        return TorchBatches(self, ids, **options)

    def to_tensorflow(
        self,
        ids: ArrayLike | None = None,
        size: int = 256,
        *,
        shuffle: bool = False,
        block: int = 16,
        seed: int = 0,
        views: int = 0,
    ) -> Any:
        """A `tf.data.Dataset` of batches: (size, …) float32 features and (size,) int32 labels.

        Each pass over it is another epoch. Arguments: see `batches`.
        """
        from cryobase.stages.backbones.frameworks import load_tensorflow

        tf, epochs, positions = load_tensorflow(), itertools.count(), self.positions(ids)

        def batches() -> Iterator[tuple[NDArray[np.float32], NDArray[np.int32]]]:
            order, drawn = self.epoch(
                positions, shuffle=shuffle, block=block, seed=seed, epoch=next(epochs), views=views
            )
            return self.read(order, size, drawn)

        signature = (
            tf.TensorSpec((None, *self.feature_shape), tf.float32),
            tf.TensorSpec((None,), tf.int32),
        )
        dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
        count = -(-len(positions) // size)
        return dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(2)
