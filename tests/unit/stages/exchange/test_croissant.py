"""Croissant metadata: every name in them leads somewhere, and the file is the one that is there."""

import hashlib
import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cryobase.stages.exchange.croissant import CONTEXT, METADATA, TABLE, export_croissant
from cryobase.stages.exchange.taken import take_in
from tests.unit.stages.exchange.test_taken import odd_examples, published
from tests.unit.store.samples import examples

# Of schema.org, which is the vocabulary of what the context does not name.
SCHEMA_ORG = {
    "name", "description", "distribution", "contentUrl", "contentSize", "encodingFormat", "sha256",
}  # fmt: skip
KINDS = {  # types of Arrow -> of Croissant
    "string": "sc:Text",
    "bool": "sc:Boolean",
    "fixed_size_list": "sc:Float",
}


@pytest.fixture
def tmp_path(quick_path):
    return quick_path


def inside(node) -> Iterator[dict]:
    """Every object of a document but the data of a record set."""
    if isinstance(node, list):
        for one in node:
            yield from inside(one)
    elif isinstance(node, dict):
        yield node
        for key, one in node.items():
            if key not in ("@context", "data"):
                yield from inside(one)


@pytest.mark.parametrize(
    ("made", "split", "options"),
    [
        (examples(range(20), quarantined={3}), True, {"dtype": "float16", "shape": (2, 3)}),
        (odd_examples(), False, {}),
        (examples(range(5)), False, {"views": 2, "augmentation": "{}"}),
    ],
)
def test_every_reference_resolves_and_columns_have_their_types(tmp_path, made, split, options):
    features = published(tmp_path, made, **options)
    parts = np.zeros(len(made), np.int8) if split else None
    table, metadata = export_croissant(features, tmp_path / "out", "small", parts)
    assert (table.name, metadata.name) == (TABLE, METADATA)
    document = json.loads(metadata.read_text())
    assert document["@type"] == "sc:Dataset"
    assert document["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert features.digest in document["description"]

    (file,) = document["distribution"]
    assert file["sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()
    assert file["contentSize"] == f"{table.stat().st_size} B"
    assert (metadata.parent / file["contentUrl"]).samefile(table)

    nodes = list(inside(document))
    for node in nodes:
        keys = {key for key in node if not key.startswith("@")}
        assert keys <= CONTEXT.keys() | SCHEMA_ORG
    identities = [node["@id"] for node in nodes if "@type" in node and "@id" in node]
    assert len(set(identities)) == len(identities)
    for node in nodes:
        if set(node) == {"@id"}:
            assert node["@id"] in identities

    schema, columns = pq.read_schema(table), {}
    _, of_examples = document["recordSet"]
    for field in of_examples["field"]:
        columns[field["source"]["extract"]["column"]] = field
    assert columns.keys() == set(schema.names) - {"digest"}
    for name, field in columns.items():
        kind = schema.field(name).type
        known = "fixed_size_list" if pa.types.is_fixed_size_list(kind) else str(kind)
        assert field["dataType"] == KINDS[known]
        assert field.get("repeated", False) == (known == "fixed_size_list")
    classes, _ = document["recordSet"]
    labels = set(pq.read_table(table, columns=["label"])["label"].to_pylist())
    assert labels <= {row["classes/name"] for row in classes["data"]}
    assert take_in(table, tmp_path / "again").features.digest == features.digest


def test_equal_sets_give_equal_metadata(tmp_path):
    features = published(tmp_path, examples(range(20)))
    for name in ("a", "b"):
        export_croissant(features, tmp_path / name, "small")
    assert (tmp_path / "a" / METADATA).read_bytes() == (tmp_path / "b" / METADATA).read_bytes()
