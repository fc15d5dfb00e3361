"""docs/format.md: its reader reads what the store writes, and its digests can be computed."""

import hashlib
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from cryobase.store import FeatureSet, Pool
from tests.integration.format_reader import read_feature_set
from tests.unit.store.samples import examples, fill, spec

ROOT = Path(__file__).parents[2]


@pytest.fixture
def directory(tmp_path):
    pool = Pool(tmp_path / "pool", spec(dtype="float16"))
    fill(pool, range(12), shape=(2, 3), views=1)
    fill(pool, range(30), shape=(2, 3), views=1)
    pool.publish(tmp_path / "set", examples(range(28), quarantined={5}), views=1)
    return tmp_path / "set"


def canonical(value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def test_the_reader_of_the_docs_is_the_one_that_is_tested():
    page = (ROOT / "docs" / "format.md").read_text()
    shown = re.search(r"<!-- reader -->\n```python\n(.*?)```", page, flags=re.DOTALL)[1]
    source = (ROOT / "tests" / "integration" / "format_reader.py").read_text()
    assert shown == source
    assert len(source.splitlines()) <= 40
    assert set(re.findall(r"^(?:import|from) (\w+)", source, flags=re.MULTILINE)) == {
        "json", "pathlib", "h5py", "numpy",
    }  # fmt: skip


@pytest.mark.parametrize("view", [0, 1])
def test_the_reader_of_the_docs_gives_the_same_rows(directory, view):
    ids, rows, labels, classes = read_feature_set(directory, view)
    opened = FeatureSet.open(directory)
    expected, expected_labels = opened.arrays(view=view)
    assert ids.tolist() == opened.ids.tolist()
    assert (rows == expected).all()
    assert labels.tolist() == expected_labels.tolist()
    assert tuple(classes) == opened.classes


def test_the_digests_are_those_of_the_docs(directory):
    manifest = json.loads((directory / "manifest-1.json").read_text())
    published = manifest["published"]
    assert manifest["fingerprint"] == hashlib.sha256(canonical(manifest["spec"])).hexdigest()
    with h5py.File(directory / published["examples"]["name"]) as file:
        ids, labels = file["id"][:].tolist(), file["label"][:].astype("<i4")
        digests, quarantined = file["digest"][:], file["quarantined"][:]
    of_examples = hashlib.sha256(
        canonical(published["classes"]) + b"\n" + b"\0".join(ids) + b"\n"
        + digests.tobytes() + labels.tobytes() + quarantined.tobytes()
    )  # fmt: skip
    live = {digest.tobytes() for digest in digests[quarantined == 0]}
    total = 0
    for shard in manifest["shards"]:
        with h5py.File(directory / shard["name"]) as file:
            of_shard = 0
            columns = [file[name][:] for name in ("digest", "view", "features")]
            for digest, view, row in zip(*columns, strict=True):
                data = digest.tobytes() + int(view).to_bytes(2, "little") + row.tobytes()
                number = int.from_bytes(hashlib.sha256(data).digest(), "big")
                of_shard += number
                total += number * (digest.tobytes() in live)
            assert shard["digest"] == f"{of_shard % 2**256:064x}"
    parts = {
        "examples": of_examples.hexdigest(),
        "fingerprint": manifest["fingerprint"],
        "rows": f"{total % 2**256:064x}",
        "views": published["views"],
    }
    assert published["digest"] == hashlib.sha256(canonical(parts)).hexdigest()
    checksum = manifest.pop("checksum")
    assert checksum == hashlib.sha256(canonical(manifest)).hexdigest()


def test_the_keys_of_the_docs_are_those_of_the_file(directory):
    page = (ROOT / "docs" / "format.md").read_text()
    manifest = json.loads((directory / "manifest-1.json").read_text())
    keys = set(manifest) | set(manifest["published"]) | set(manifest["spec"])
    assert not [key for key in keys | set(manifest["shards"][0]) if f"`{key}`" not in page]


def test_a_row_lies_where_the_docs_say(directory):
    manifest = json.loads((directory / "manifest-1.json").read_text())
    name = manifest["shards"][0]["name"]
    with h5py.File(directory / name) as file:
        assert sorted(file) == ["digest", "features", "view"]
        offset, rows = file["features"].id.get_offset(), file["features"][:]
    data = (directory / name).read_bytes()
    third = np.frombuffer(data, "<f2", 6, offset + 3 * 12).reshape(2, 3)
    assert (third == rows[3]).all()


def test_a_store_of_the_first_schema_stays_readable():
    opened = FeatureSet.open(ROOT / "tests" / "integration" / "schema_1", full=True)
    assert opened.digest == (ROOT / "tests" / "integration" / "schema_1.digest").read_text().strip()
    assert len(opened) == 5
