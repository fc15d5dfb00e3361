"""Writing Croissant metadata of a feature set: its files, and the meaning of their columns.

https://docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html, as JSON-LD. Readers of the format
know tables but not our shards. So the metadata describe a Parquet file of the set beside them.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.exchange.parquet import class_texts, export_parquet
from cryobase.stages.outputs import write_json
from cryobase.store import FeatureSet
from cryobase.store.arrays import feature_name
from cryobase.store.files import digest_of, open_regular
from cryobase.store.spec import canonical_json

METADATA = "croissant.json"
TABLE = "features.parquet"
CONFORMS = "http://mlcommons.org/croissant/1.0"
_CROISSANT = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty",
    "fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField",
    "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator",
    "source", "subField", "transform",
)  # fmt: skip
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    **{name: f"cr:{name}" for name in _CROISSANT},
}


def export_croissant(
    features: FeatureSet,
    directory: Path,
    name: str,
    parts: NDArray[np.int8] | None = None,
) -> list[Path]:
    """Write a set's Parquet file and its metadata into a directory. Returns both paths.

    Args:
        features: The set.
        directory: The directory of `features.parquet` and `croissant.json`.
        name: The name of the set.
        parts: (n,) along its `examples`, positions in `PARTS` or -1.

    Raises:
        NoArrowError: pyarrow is not installed.
    """
    table, metadata = directory / TABLE, directory / METADATA
    export_parquet(features, table, parts)
    descriptor = open_regular(table)
    try:
        size, sha256 = os.fstat(descriptor).st_size, digest_of(descriptor)
    finally:
        os.close(descriptor)
    file = {
        "@type": "cr:FileObject",
        "@id": TABLE,
        "name": TABLE,
        "contentUrl": TABLE,
        "contentSize": f"{size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": sha256,
    }
    write_json(metadata, describe(features, name, file, split=parts is not None))
    return [table, metadata]


def describe(
    features: FeatureSet, name: str, file: dict[str, Any], *, split: bool
) -> dict[str, Any]:
    """The metadata of a set with the table `file`; `split` is whether it has a column `split`."""
    classes = class_texts(features.classes)
    label = {"references": {"field": {"@id": "classes/name"}}}
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS,
        "name": name,
        "description": _description(features),
        "distribution": [file],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "classes",
                "name": "classes",
                "dataType": "sc:Enumeration",
                "key": {"@id": "classes/name"},
                "field": [_field("classes/name", "sc:Text", "the name of a class")],
                "data": [{"classes/name": text} for text in classes],
            },
            {
                "@type": "cr:RecordSet",
                "@id": "examples",
                "name": "examples",
                "description": "one for each image",
                "key": {"@id": "examples/id"},
                "field": [
                    field | {"source": _column(file, field["name"])} | (label if is_label else {})
                    for field, is_label in _fields(features, split=split)
                ],
            },
        ],
    }


def _fields(features: FeatureSet, *, split: bool) -> Iterator[tuple[dict[str, Any], bool]]:
    """The fields of an example, and whether each is its label."""
    yield _field("examples/id", "sc:Text", "what the source calls the image"), False
    yield _field("examples/label", "sc:Text", "its class"), True
    if split:
        yield _field("examples/split", "sc:Text", "train, validation, test or none"), False
    about = "whether the image could not be used, so that it has no features"
    yield _field("examples/quarantined", "sc:Boolean", about), False
    shape = " × ".join(map(str, features.feature_shape))
    for view in range(features.views + 1):
        of = f"the {view}. augmented view" if view else "the image"
        field = _field(f"examples/{feature_name(view)}", "sc:Float", f"features {shape} of {of}")
        yield field | {"repeated": True}, False


def _field(identity: str, kind: str, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": identity,
        "name": identity.rpartition("/")[2],
        "description": description,
        "dataType": kind,
    }


def _column(file: dict[str, Any], name: str) -> dict[str, Any]:
    return {"fileObject": {"@id": file["@id"]}, "extract": {"column": name}}


def _description(features: FeatureSet) -> str:
    spec = canonical_json(features.spec.to_json()).decode("ascii")
    return (
        f"Features of {len(features)} images in {len(features.classes)} classes, computed once by a"
        f" frozen base. Digest {features.digest}. Feature spec {spec}"
    )
