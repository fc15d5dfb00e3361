import json
from dataclasses import replace
from functools import reduce
from hashlib import sha256

import pytest

from cryobase.store import (
    ConflictError,
    FeatureSet,
    IntegrityError,
    Manifest,
    Pool,
    StorageError,
    StoreNotFoundError,
)
from cryobase.store.manifest import commit, load, manifest_path, names_in, versions
from cryobase.store.publish import publish_bytes
from cryobase.store.spec import canonical_json
from cryobase.store.text import at_least
from tests.scale import rounds
from tests.unit.store.samples import fill, published, spec


@pytest.fixture
def path(tmp_path):
    return manifest_path(published(tmp_path), 1)


def forged(value):
    """The text of a manifest whose checksum is right, whatever it says."""
    value.pop("checksum", None)
    value["checksum"] = sha256(canonical_json(value)).hexdigest()
    return canonical_json(value) + b"\n"


def test_round_trip(path):
    data = path.read_bytes()
    assert Manifest.from_bytes(data, path).to_bytes() == data
    assert forged(json.loads(data)) == data


@pytest.mark.fault(39)
def test_every_prefix_is_refused(path):
    data = path.read_bytes()
    for size in range(len(data)):
        with pytest.raises(IntegrityError, match="not a valid manifest"):
            Manifest.from_bytes(data[:size], path)


@pytest.mark.fault(39)
def test_every_changed_byte_is_refused(path):
    data = path.read_bytes()
    for position in range(0, len(data), 10 // rounds(10)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        with pytest.raises(IntegrityError):
            Manifest.from_bytes(bytes(changed), path)


@pytest.mark.fault(39)
def test_a_newer_schema_asks_for_an_upgrade(path):
    value = json.loads(path.read_bytes())
    with pytest.raises(IntegrityError, match="pip install -U"):
        Manifest.from_bytes(forged(value | {"schema": 2}), path)


SHARD = ("shards", 0)
CANARY = {"name": "canary-" + "a" * 64 + ".npy", "size": 1, "sha256": "a" * 64}
FORGERIES = [
    (SHARD, {"name": "../shard-" + "a" * 64 + ".h5"}),
    (SHARD, {"name": "/etc/passwd"}),
    (SHARD, {"name": "shard-" + "a" * 64 + ".h5"}),
    (SHARD, {"sha256": "A" * 64}),
    (SHARD, {"sha256": "a" * 64 + "\n"}),
    (SHARD, {"rows": 0}),
    (SHARD, {"rows": -1}),
    (SHARD, {"rows": 1.5}),
    (SHARD, {"rows": True}),
    (SHARD, {"rows": 1 << 60}),
    (SHARD, {"rows": (1 << 53) - 1}),
    (SHARD, {"rows": 1 << 23}),  # more than the largest shard can hold
    (SHARD, {"size": "1"}),
    (SHARD, {"size": (1 << 28) + 1}),
    (SHARD, {"more": 1}),
    (SHARD, {"digest": None}),
    ((), {"feature_shape": None}),
    ((), {"feature_shape": [0]}),
    ((), {"feature_shape": [-5]}),
    ((), {"feature_shape": ["5"]}),
    ((), {"feature_shape": 5}),
    ((), {"feature_shape": [1] * 32}),
    ((), {"feature_shape": [1 << 20, 1 << 20]}),
    ((), {"shards": {}}),
    ((), {"spec": None}),
    ((), {"spec": {}}),
    ((), {"fingerprint": "a" * 64}),
    ((), {"format": "other"}),
    ((), {"schema": 0}),
    ((), {"schema": "1"}),
    ((), {"more": 1}),
    ((), {"canary": []}),
    ((), {"canary": CANARY | {"size": (1 << 28) + 1}}),
    (("spec",), {"image_size": 10**18}),
    (("spec",), {"image_size": 0}),
    (("spec",), {"extractor_version": 1 << 31}),
    (("spec",), {"backbone": "x" * 20_000}),
    ((), {"published": []}),
    (("published",), {"classes": ["a", "a"]}),
    (("published",), {"classes": [1]}),
    (("published",), {"classes": "ab"}),
    (("published",), {"classes": ["\ud800"]}),
    (("published",), {"views": 1 << 16}),
    (("published",), {"views": (1 << 16) - 1}),
    (("published",), {"digest": "x"}),
    (("published",), {"examples": None}),
    (("published",), {"count": -1}),
    (("published",), {"count": 1 << 40}),
    (("published",), {"count": 1000}),  # more than its bytes can hold
    (("published", "examples"), {"name": "examples-../../x"}),
    (("published", "examples"), {"size": 1 << 40}),
    ((), {"canary": CANARY | {"name": "canary-../../x"}}),
]


@pytest.mark.fault(17, 23, 27, 37, 38)
@pytest.mark.parametrize("number", range(len(FORGERIES)))
def test_a_forged_manifest_is_refused(path, number):
    value = json.loads(path.read_bytes())
    place, changes = FORGERIES[number]
    reduce(lambda part, key: part[key], place, value).update(changes)
    with pytest.raises(IntegrityError, match=r"manifest-1\.json"):
        Manifest.from_bytes(forged(value), path)


@pytest.mark.fault(37)
def test_a_shard_that_comes_twice_is_refused(path):
    value = json.loads(path.read_bytes())
    value["shards"].append(value["shards"][0])
    with pytest.raises(IntegrityError, match="comes twice"):
        Manifest.from_bytes(forged(value), path)


HOSTILE = [
    (b"", "Expecting value"),
    (b"[]", "format"),
    (b"null", "format"),
    (b'{"format":"cryobase-features","format":"cryobase-features"}', "key that comes twice"),
    (b'{"format":{"a":1,"a":1}}', "key that comes twice"),
    (b"[" * 100_000, "depth"),
    (b'{"a":' * 100_000, "depth"),
    (b"[" * 300_000, "values, at most"),
    (b'{"format":[' + b"[]," * 100_001 + b"0]}", "values, at most"),
    (b"{" + b",".join(b'"%d":0' % key for key in range(17)) + b"}", "more than 16 keys"),
    (b'{"format":"cryobase-features","schema":NaN}', "number NaN"),
    (b'{"format":"cryobase-features","schema":1e999}', "number 1e999"),
    (b'{"format":"cryobase-features","schema":1.0}', r"number 1\.0"),
    (b'{"format":"cryobase-features","schema":' + b"9" * 10_000 + b"}", "digits"),
    (b"\xff\xfe", "not UTF-8"),
    (b'"\xff"', "not UTF-8"),
    (b'"\\ud800"', "half of a character"),
]


@pytest.mark.fault(23)
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_json_is_refused(path, number):
    data, fact = HOSTILE[number]
    with pytest.raises(IntegrityError, match=rf"manifest-1\.json: .*{fact}"):
        Manifest.from_bytes(data, path)


@pytest.mark.fault(23, 27)
def test_what_would_take_long_to_parse_is_not_parsed(path, monkeypatch):
    monkeypatch.setattr("json.loads", lambda *_, **__: pytest.fail("parsed"))
    with pytest.raises(IntegrityError, match="values, at most"):
        Manifest.from_bytes(b"[" + b"[]," * (1 << 17), path)


@pytest.mark.fault(23, 27)
def test_a_file_that_is_too_large_is_not_read(path, monkeypatch):
    path.unlink()
    with path.open("wb") as file:
        file.truncate(1 << 40)
    monkeypatch.setattr("cryobase.store.files.read_into", lambda *_: pytest.fail("read"))
    with pytest.raises(IntegrityError, match=r"manifest-1\.json: 1099511627776 bytes, at most"):
        load(path.parent)


@pytest.mark.fault(27)
def test_files_that_are_not_there_are_told_without_parsing(path, monkeypatch):
    names = {info.name for info in load(path.parent)[1].files}
    assert names_in(path.read_bytes()) == names
    for info in load(path.parent)[1].files:
        (path.parent / info.name).rename(path.parent / "aside")
        with monkeypatch.context() as context:
            context.setattr(
                "cryobase.store.manifest.parse_json", lambda *_, **__: pytest.fail("parsed")
            )
            with pytest.raises(StoreNotFoundError, match=info.name):
                FeatureSet.open(path.parent)
        (path.parent / "aside").rename(path.parent / info.name)
    assert len(FeatureSet.open(path.parent)) == 20


@pytest.mark.fault(39)
def test_of_a_damaged_manifest_no_names_are_believed(path):
    data = path.read_bytes()
    path.unlink()
    for damaged in (b"", data[:-2], data.replace(b"shard-", b"shbrd-")):
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match="not a valid manifest"):
            FeatureSet.open(path.parent)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        assert names_in(bytes(changed)) == set()


@pytest.mark.parametrize(("limit", "measure"), [("MAX_BYTES", len), ("MAX_VALUES", at_least)])
def test_no_manifest_is_written_that_nobody_would_read(tmp_path, monkeypatch, limit, measure):
    pool = fill(Pool(tmp_path, spec()), range(3))
    before = pool.manifest()
    monkeypatch.setattr(f"cryobase.store.manifest.{limit}", measure(before.to_bytes()) + 1)
    with pytest.raises(StorageError, match=r"a manifest of \d shards"):
        any(len(fill(pool, [number])) > 10 for number in range(3, 10))
    monkeypatch.undo()
    assert set(before.shards) <= set(pool.manifest().shards)
    fill(pool, range(10))
    assert len(pool) == 10


def test_the_newest_version_counts_by_number(tmp_path):
    for version in (1, 2, 10):
        publish_bytes(tmp_path, f"manifest-{version}.json", Manifest(spec=spec()).to_bytes())
    for name in ("manifest-11.json.tmp", "manifest-012.json", "manifest--3.json", "manifest-.json"):
        (tmp_path / name).write_text("")
    assert versions(tmp_path) == [1, 2, 10]
    assert load(tmp_path)[0] == 10


def test_no_manifest_is_an_error(tmp_path):
    with pytest.raises(StoreNotFoundError, match="dvc pull"):
        load(tmp_path / "absent")


@pytest.mark.fault(43)
def test_the_loser_of_a_race_reads_again(tmp_path):
    tries = []

    def change(current):
        tries.append(current)
        if len(tries) == 1:  # another committer is faster
            publish_bytes(tmp_path, "manifest-1.json", Manifest(spec=spec()).to_bytes())
        return replace(current or Manifest(spec=spec()), feature_shape=(4,))

    version, manifest = commit(tmp_path, change)
    assert (version, manifest.feature_shape, tries[0]) == (2, (4,), None)
    assert tries[1] == Manifest(spec=spec())


@pytest.mark.fault(43)
def test_a_version_that_was_swept_is_no_gap_to_commit_into(tmp_path):
    old = Manifest(spec=spec(), feature_shape=(1,))
    publish_bytes(tmp_path, "manifest-1.json", old.to_bytes())

    def change(current):
        if current == old:  # meanwhile others commit 2 and 3, and a sweep removes 2
            publish_bytes(tmp_path, "manifest-3.json", Manifest(spec=spec()).to_bytes())
        return replace(current, feature_shape=(7,))

    version, manifest = commit(tmp_path, change)
    assert version == 4
    assert load(tmp_path) == (4, manifest)


def test_nothing_changed_publishes_nothing(tmp_path):
    commit(tmp_path, lambda _: Manifest(spec=spec()))
    assert commit(tmp_path, lambda current: current)[0] == 1


def test_another_manifest_of_the_same_version_is_not_overwritten(tmp_path):
    publish_bytes(tmp_path, "manifest-1.json", Manifest(spec=spec()).to_bytes())
    with pytest.raises(ConflictError):
        publish_bytes(tmp_path, "manifest-1.json", b"other")
