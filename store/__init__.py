"""A batch feature store: rows computed once, found by content, read with numpy and h5py alone."""

from store.errors import (
    ConflictError,
    ExamplesError,
    FeaturesError,
    IntegrityError,
    MissingRowsError,
    SpecError,
    SpecMismatchError,
    StorageError,
    StoreError,
    StoreNotFoundError,
    UnknownExampleError,
)
from store.examples import Examples, decode_id, encode_id
from store.manifest import FileInfo, Manifest, Published, ShardInfo
from store.pool import Pool
from store.reader import FeatureSet
from store.spec import FeatureSpec
from store.writer import FeatureWriter

__all__ = [
    "ConflictError",
    "Examples",
    "ExamplesError",
    "FeatureSet",
    "FeatureSpec",
    "FeatureWriter",
    "FeaturesError",
    "FileInfo",
    "IntegrityError",
    "Manifest",
    "MissingRowsError",
    "Pool",
    "Published",
    "ShardInfo",
    "SpecError",
    "SpecMismatchError",
    "StorageError",
    "StoreError",
    "StoreNotFoundError",
    "UnknownExampleError",
    "decode_id",
    "encode_id",
]
