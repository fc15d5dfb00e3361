"""A batch feature store: rows computed once, found by content, read with numpy and h5py alone."""

from store.compare import Difference, compare
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
from store.export import export_csv, export_npz, export_projector
from store.manifest import FileInfo, Manifest, Published, ShardInfo
from store.pool import Plan, Pool
from store.reader import FeatureSet
from store.repair import Damage, damages
from store.restore import Mended, find_pools, repair_set
from store.spec import FeatureSpec
from store.transfer import import_set
from store.writer import FeatureWriter

__all__ = [
    "ConflictError",
    "Damage",
    "Difference",
    "Examples",
    "ExamplesError",
    "FeatureSet",
    "FeatureSpec",
    "FeatureWriter",
    "FeaturesError",
    "FileInfo",
    "IntegrityError",
    "Manifest",
    "Mended",
    "MissingRowsError",
    "Plan",
    "Pool",
    "Published",
    "ShardInfo",
    "SpecError",
    "SpecMismatchError",
    "StorageError",
    "StoreError",
    "StoreNotFoundError",
    "UnknownExampleError",
    "compare",
    "damages",
    "decode_id",
    "encode_id",
    "export_csv",
    "export_npz",
    "export_projector",
    "find_pools",
    "import_set",
    "repair_set",
]
