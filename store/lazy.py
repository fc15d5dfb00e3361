"""A feature set as a Dask array: the only Dask import of the store."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from cryobase.store.reader import FeatureSet

_CHUNK_BYTES = 1 << 26


def to_dask(
    feature_set: "FeatureSet", ids: ArrayLike | None = None, view: int = 0, chunk: int | None = None
) -> Any:
    """Features as a `dask.array`, in chunks of rows; nothing is read before `compute`.

    Args:
        feature_set: Workers on other machines open it at the same path.
        ids: Which examples, in which order; all that have features, by id, if None.
        view: 0 for the plain image.
        chunk: Rows in a chunk; as many as make 64 MiB if None.

    Returns:
        (n, …) float32.
    """
    import dask.array
    from dask import delayed

    wanted = feature_set.ids if ids is None else np.asarray(ids)
    row_bytes = 4 * max(1, int(np.prod(feature_set.feature_shape)))
    step = chunk or max(1, _CHUNK_BYTES // row_bytes)
    source = delayed(feature_set, traverse=False)
    chunks = []
    for start in range(0, len(wanted), step):
        part = wanted[start : start + step]
        shape = (len(part), *feature_set.feature_shape)
        features = source.arrays(part, view)[0]
        chunks.append(dask.array.from_delayed(features, shape, np.float32))
    if not chunks:
        return dask.array.zeros((0, *feature_set.feature_shape), dtype=np.float32)
    return dask.array.concatenate(chunks)
