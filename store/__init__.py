"""The feature store: each row is computed once and looked up by its content.

Reading needs numpy and h5py only. Nothing here knows images, Keras, TensorFlow or DVC.
"""

from cryobase.store.adopt import import_set
from cryobase.store.arrays import export_npz, export_safetensors
from cryobase.store.compare import Difference, compare
from cryobase.store.elsewhere import create_set, foreign_spec, is_foreign
from cryobase.store.errors import (
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
from cryobase.store.examples import Examples, decode_id, encode_id
from cryobase.store.export import export_csv, export_projector
from cryobase.store.manifest import FileInfo, Manifest, Published, ShardInfo
from cryobase.store.pool import Plan, Pool, find_pools
from cryobase.store.reader import FeatureSet
from cryobase.store.repair import Damage, Mended, damages, repair_set
from cryobase.store.spec import FeatureSpec
from cryobase.store.writer import FeatureWriter

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
    "create_set",
    "damages",
    "decode_id",
    "encode_id",
    "export_csv",
    "export_npz",
    "export_projector",
    "export_safetensors",
    "find_pools",
    "foreign_spec",
    "import_set",
    "is_foreign",
    "repair_set",
]
