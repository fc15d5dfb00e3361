"""A set goes out to a file and comes back the same; features of another program become a set."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors
import safetensors.numpy

from cryobase.stages.data.pixels import PixelSpec
from cryobase.stages.errors import DataError
from cryobase.stages.exchange.parquet import export_parquet
from cryobase.stages.exchange.taken import take_in
from cryobase.store import (
    ConflictError,
    Examples,
    FeatureSet,
    IntegrityError,
    Pool,
    SpecError,
    compare,
    encode_id,
    export_npz,
    export_safetensors,
)
from cryobase.store.arrays import Description, columns_of, write_safetensors
from tests.unit.store.samples import digests, examples, features, fill, spec

ORIGIN = "dinov2-small@3f2a91c"
EXPORTS = {"npz": export_npz, "safetensors": export_safetensors, "parquet": export_parquet}
every_format = pytest.mark.parametrize("kind", EXPORTS)


@pytest.fixture
def tmp_path(quick_path):
    return quick_path


def published(root: Path, made: Examples, shape=(5,), views=0, **changes) -> FeatureSet:
    pool = fill(Pool(root / "pool", spec(**changes)), range(40), shape, views)
    pool.publish(root / "set", made, views)
    return FeatureSet.open(root / "set")


def odd_examples() -> Examples:
    """Two ids of one image, two in quarantine, names that are no plain text."""
    names = ["a b.jpg", "ä/ü.png", "bad\udcff.jpg", "back\\slash", "tab\t", "x", "y", "z"]
    return Examples.create(
        [encode_id(name) for name in names],
        digests([0, 1, 2, 3, 4, 5, 5, 7]),
        [0, 1, 2, 0, 1, 2, 0, 1],
        [False, True, False, False, False, False, False, True],
        ("cat", "dög", "bad\udcfe"),
    )


@every_format
@pytest.mark.parametrize(
    ("made", "options"),
    [
        (examples(range(20)), {}),
        (examples(range(20), quarantined={0, 19}), {"dtype": "float16", "shape": (2, 3)}),
        (odd_examples(), {"shape": (1, 1, 4)}),
        (examples(range(7)), {"views": 2, "augmentation": "{}", "dtype": "float16"}),
        (examples([5]), {}),
    ],
    ids=["plain", "quarantine", "odd", "views", "single"],
)
def test_a_set_comes_back_with_the_same_digest(tmp_path, kind, made, options):
    before = published(tmp_path, made, **options)
    EXPORTS[kind](before, tmp_path / "file")
    after = take_in(tmp_path / "file", tmp_path / "again").features
    assert after.digest == before.digest
    assert after.spec == before.spec
    assert not compare(before, after)
    FeatureSet.open(tmp_path / "again", full=True).close()


@every_format
def test_a_large_set_is_read_and_written_in_blocks(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("cryobase.store.arrays.BATCH_BYTES", 100)
    monkeypatch.setattr("cryobase.stages.exchange.taken.BATCH_BYTES", 140)
    monkeypatch.setattr("cryobase.stages.exchange.parquet._GROUP_BYTES", 300)
    before = published(tmp_path, examples(range(40), quarantined={1, 2, 3, 4, 5, 6, 39}))
    EXPORTS[kind](before, tmp_path / "file")
    assert take_in(tmp_path / "file", tmp_path / "again").features.digest == before.digest


def test_other_programs_read_what_is_written(tmp_path):
    before = published(tmp_path, examples(range(20), quarantined={3}), dtype="float16")
    parts = np.arange(20, dtype=np.int8) % 4 - 1
    export_parquet(before, tmp_path / "set.parquet", parts)
    export_safetensors(before, tmp_path / "set.safetensors")
    table = pq.read_table(tmp_path / "set.parquet")
    assert table.column_names == ["id", "label", "split", "quarantined", "digest", "features"]
    assert table.schema.field("features").type == pa.list_(pa.float16(), 5)
    assert table["id"].to_pylist() == [name.decode() for name in before.examples.ids]
    assert table["label"].to_pylist()[:4] == ["cat", "dog", "emu", "cat"]
    assert table["split"].to_pylist()[:4] == [None, "train", "validation", "test"]
    assert table["features"][3].as_py() is None
    rows = np.array([row for row in table["features"].to_pylist() if row is not None])
    assert (rows == before.arrays()[0]).all()
    loaded = safetensors.numpy.load_file(tmp_path / "set.safetensors")
    assert (loaded["features"] == before.rows()).all()
    assert loaded["labels"].tolist() == before.labels().tolist()
    with safetensors.safe_open(tmp_path / "set.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["cryobase"])["digest"] == before.digest


def test_equal_sets_give_equal_files(tmp_path):
    before = published(tmp_path, examples(range(20)))
    for kind, export in EXPORTS.items():
        files = [tmp_path / f"{kind}{number}" for number in range(2)]
        for file in files:
            export(before, file)
        assert files[0].read_bytes() == files[1].read_bytes(), kind


@every_format
def test_a_file_that_was_altered_gives_no_set(tmp_path, kind):
    before = published(tmp_path, examples(range(20)))
    EXPORTS[kind](before, tmp_path / "file")
    content = bytearray((tmp_path / "file").read_bytes())
    place = content.index(before.rows()[:1].tobytes())
    content[place] ^= 1
    (tmp_path / "file").write_bytes(content)
    with pytest.raises((DataError, IntegrityError)):
        take_in(tmp_path / "file", tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_digest_that_does_not_fit_leaves_nothing(tmp_path):
    before = published(tmp_path, examples(range(20)))
    export_safetensors(before, tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    other = ("0" if before.digest[0] != "0" else "1") + before.digest[1:]
    (tmp_path / "file").write_bytes(content.replace(before.digest.encode(), other.encode()))
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "of somebody").touch()
    with pytest.raises(IntegrityError, match=f"{other[:12]}…; get the file from where it came"):
        take_in(tmp_path / "file", tmp_path / "again")
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["of somebody"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"feature_shape":[5]', '"feature_shape":[-1,-5]'),
        ('"feature_shape":[5]', '"feature_shape":[5,0]'),
        ('"feature_shape":[5]', f'"feature_shape":{[1] * 32}'),
        ('"views":0', '"views":1'),
        ('"views":0', '"views":-1'),
        ('"views":0', '"views":10000'),
        ('"schema":1', '"schema":2'),
        ('"image_size":160', '"image_size":0'),
        ('"spec":{', '"spec":{"more":1,'),
        ('"classes":["cat"', '"classes":[1'),
        ('"classes":["cat","dog"', '"classes":["cat","cat"'),
    ],
)
def test_a_description_that_no_set_has_is_refused(tmp_path, before, after):
    made = published(tmp_path, examples(range(20)))
    text = Description.of(made).to_text()
    assert before in text
    with (tmp_path / "file").open("wb") as file:
        write_safetensors(file, columns_of(made), {"cryobase": text.replace(before, after)})
    with pytest.raises(DataError, match="file: "):
        take_in(tmp_path / "file", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def vectors(count=30, width=8, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, width)).astype(dtype)


def written(path: Path, kind: str, **arrays) -> Path:
    """Features as another program writes them: plain numpy, safetensors or pyarrow."""
    if kind == "npz":
        np.savez(path, **arrays)
        return path.with_name(f"{path.name}.npz")
    if kind == "safetensors":
        arrays["ids"] = np.array([name.encode() for name in arrays["ids"]])
        arrays["ids"] = arrays["ids"].view(np.uint8).reshape(len(arrays["ids"]), -1)
        if arrays["labels"].dtype.kind == "U":
            texts = np.array([name.encode() for name in arrays["labels"]])
            arrays["labels"] = texts.view(np.uint8).reshape(len(texts), -1)
        safetensors.numpy.save_file(arrays, path)
        return path
    rows = arrays.pop("features")
    columns = {"id": arrays.pop("ids"), "label": arrays.pop("labels"), "features": list(rows)}
    pq.write_table(pa.table(columns | arrays), path)
    return path


@every_format
def test_features_computed_elsewhere_become_a_set(tmp_path, kind):
    rows = vectors()
    ids = np.array([f"photo {number}.jpg" for number in range(30)])[::-1]
    labels = np.array(["cat", "dog", "ox"])[np.arange(30) % 3]
    file = written(tmp_path / "file", kind, features=rows, ids=ids, labels=labels)
    found = take_in(file, tmp_path / "set", origin=ORIGIN).features
    assert found.spec.backbone == f"foreign: {ORIGIN}"
    assert found.classes == ("cat", "dog", "ox")
    x, y = found.arrays([name.encode() for name in ids])
    assert (x == rows).all()
    assert y.tolist() == (np.arange(30) % 3).tolist()
    with pytest.raises(DataError, match="foreign: dinov2-small@3f2a91c were computed elsewhere"):
        PixelSpec.of(found.spec)
    with pytest.raises(DataError, match="--foreign MODEL@DIGEST"):
        take_in(file, tmp_path / "other")


@every_format
def test_a_foreign_set_goes_out_and_comes_back(tmp_path, kind):
    ids, labels = np.arange(30).astype("U"), np.arange(30) % 2
    file = written(tmp_path / "file", "npz", features=vectors(), ids=ids, labels=labels)
    before = take_in(file, tmp_path / "set", origin=ORIGIN).features
    EXPORTS[kind](before, tmp_path / "out")
    assert take_in(tmp_path / "out", tmp_path / "again").features.digest == before.digest


def test_other_values_are_another_spec_and_the_format_is_not(tmp_path):
    ids, labels = np.arange(30).astype("U"), np.arange(30) % 2
    rows = vectors()
    prints = []
    for number, (kind, values) in enumerate(
        [("npz", rows), ("parquet", rows), ("safetensors", rows), ("npz", rows + 1)]
    ):
        file = written(tmp_path / f"{number}", kind, features=values, ids=ids, labels=labels)
        made = take_in(file, tmp_path / f"set{number}", origin=ORIGIN).features
        prints.append(made.spec.fingerprint)
    assert prints[0] == prints[1] == prints[2] != prints[3]


@pytest.mark.parametrize(
    ("dtype", "stored"), [("<f2", "float16"), ("<f4", "float32"), ("<f8", "float32")]
)
def test_types_of_features(tmp_path, dtype, stored):
    ids, labels = np.arange(30).astype("S"), np.arange(30) % 2
    rows = vectors(dtype=dtype)
    for kind in ("npz", "parquet"):
        file = written(tmp_path / kind, kind, features=rows, ids=ids, labels=labels)
        found = take_in(file, tmp_path / f"set-{kind}", origin=ORIGIN).features
        assert found.spec.dtype == stored
        assert (found.rows(ids) == rows.astype(stored)).all()


def test_labels_by_number_are_classes_by_number_or_by_name(tmp_path):
    common = {"features": vectors(4), "ids": np.array(["a", "b", "c", "d"])}
    file = written(tmp_path / "1", "npz", **common, labels=np.array([7, 3, 7, 11]))
    numbered = take_in(file, tmp_path / "numbered", origin=ORIGIN).features
    assert (numbered.classes, numbered.labels().tolist()) == (("3", "7", "11"), [1, 0, 1, 2])
    named = {"labels": np.array([1, 0, 1, 2]), "classes": np.array(["x", "y", "z", "unused"])}
    file = written(tmp_path / "2", "npz", **common, **named)
    found = take_in(file, tmp_path / "named", origin=ORIGIN).features
    assert (found.classes, found.labels().tolist()) == (("x", "y", "z", "unused"), [1, 0, 1, 2])


def test_equal_rows_and_given_digests_stand_for_equal_images(tmp_path):
    rows = vectors(4)
    rows[2] = rows[0]
    common = {"ids": np.array(["a", "b", "c", "d"]), "labels": np.array([0, 1, 0, 1])}
    plain = take_in(
        written(tmp_path / "1", "npz", features=rows, **common), tmp_path / "plain", origin=ORIGIN
    ).features
    keys = plain.examples.digests
    assert (keys[0] == keys[2]).all()
    assert plain.manifest.published.rows == 3
    assert keys[1].tobytes() == hashlib.sha256(rows[1].tobytes()).digest()
    given = digests([0, 1, 1, 3])
    file = written(tmp_path / "2", "npz", features=rows, digests=given, **common)
    known = take_in(file, tmp_path / "known", origin=ORIGIN).features
    assert (known.examples.digests == given).all()
    assert (known.arrays()[0] == rows[[0, 1, 1, 3]]).all(), "the first row of an image counts"


def test_the_split_of_a_file_comes_with_it(tmp_path):
    texts = np.array(["train", "test", "validation", "train"])
    common = {"features": vectors(4), "ids": np.array(["d", "c", "b", "a"]), "labels": np.arange(4)}
    taken = take_in(
        written(tmp_path / "1", "npz", split=texts, **common), tmp_path / "a", origin=ORIGIN
    )
    assert taken.parts.tolist() == [0, 1, 2, 0]
    table = {"split": ["train", "test", None, "train"]}
    taken = take_in(
        written(tmp_path / "2", "parquet", **table, **common), tmp_path / "b", origin=ORIGIN
    )
    assert taken.parts.tolist() == [0, -1, 2, 0]
    before = taken.features
    export_parquet(before, tmp_path / "3", taken.parts)
    assert take_in(tmp_path / "3", tmp_path / "c").parts.tolist() == [0, -1, 2, 0]


GOOD = {
    "features": np.ones((3, 2), np.float32),
    "ids": np.array(["a", "b", "c"]),
    "labels": np.array([0, 1, 0]),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": np.array(["a", "b", "a"])}, "twice"),
        ({"ids": np.array(["a", "", "c"])}, "empty"),
        ({"ids": np.array([b"a", b"\xff", b"c"])}, "UTF-8"),
        ({"ids": np.array([0x110000, 2, 3], "<u4").view("<U1")}, "Unicode"),
        ({"ids": np.array([0xD800, 2, 3], "<u4").view("<U1")}, "Unicode"),
        ({"ids": np.array([1, 2, 3])}, "expected 3 texts"),
        ({"ids": np.array(["a", "b"])}, "expected a row for 2 ids"),
        ({"ids": np.array(["a", "b", "c" * 600])}, "bytes"),
        ({"ids": None}, "without `ids`"),
        ({"labels": None}, "without `labels`"),
        ({"labels": np.array([0.0, 1.0, 0.0])}, "whole numbers"),
        ({"labels": np.array([0, 1])}, "whole numbers"),
        ({"labels": np.array([0, 1, 5]), "classes": np.array(["x", "y"])}, "outside of the 2"),
        ({"classes": np.array(["x", "x"])}, "twice"),
        ({"features": None}, "no array 'features'"),
        ({"features": np.ones(3, np.float32)}, "expected a row"),
        ({"features": np.ones((3, 0), np.float32)}, "rows of 0 bytes"),
        ({"features": np.ones((3, 2), np.int64)}, "expected <f2"),
        ({"features": np.asfortranarray(np.ones((3, 2), np.float32))}, "ascontiguousarray"),
        ({"features": np.array([[1, 2], [np.nan, 1], [0, 0]], np.float32)}, "of b are not finite"),
        ({"features": np.array([[1, 2], [3, 1], [1e300, 0]])}, "of c are not finite"),
        ({"digests": np.ones((3, 31), np.uint8)}, "expected \\(3, 32\\)"),
        ({"split": np.array(["train", "trian", "test"])}, "trian"),
        ({"ids": np.array(["a", "b", "c"], object)}, "Python objects, .* numpy.array"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changes, message):
    arrays = {key: value for key, value in (GOOD | changes).items() if value is not None}
    np.savez(tmp_path / "file.npz", **arrays)
    with pytest.raises(DataError, match=message) as raised:
        take_in(tmp_path / "file.npz", tmp_path / "set", origin=ORIGIN)
    assert str(raised.value).startswith(str(tmp_path / "file.npz"))
    assert not (tmp_path / "set").exists()
    assert not list(tmp_path.glob(".tmp-*"))


def test_what_a_message_says_of_an_array_works(tmp_path):
    texts = np.array(["a", "bb", "c"], object)
    plain = np.array(texts, "U")
    written(tmp_path / "1", "npz", **GOOD | {"ids": plain, "labels": np.array(["x", "y", "x"])})
    assert len(take_in(tmp_path / "1.npz", tmp_path / "a", origin=ORIGIN).features) == 3
    columns = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2))
    rows = np.ascontiguousarray(columns)
    written(tmp_path / "2", "npz", **GOOD | {"features": rows})
    found = take_in(tmp_path / "2.npz", tmp_path / "b", origin=ORIGIN).features
    assert (found.arrays()[0] == columns).all()


def test_types_that_numpy_does_not_have_are_named(tmp_path):
    entry = {"dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4]}
    text = json.dumps({"features": entry}).encode()
    (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 4)
    with pytest.raises(DataError, match="'BF16', which is none of F16, F32"):
        take_in(tmp_path / "file", tmp_path / "set", origin=ORIGIN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ["a", None, "c"]}, "without a value"),
        ({"id": [1, 2, 3]}, "expected text"),
        ({"label": ["x", None, "y"]}, "without a value"),
        ({"label": [0.5, 1.5, 2.5]}, "expected text"),
        ({"features": [[1.0, 2.0], [1.0], [2.0, 3.0]]}, "has not 2 numbers"),
        ({"features": [[1.0, 2.0], None, [2.0, 3.0]]}, "has not 2 numbers"),
        ({"features": [[1.0, 2.0], [None, 1.0], [2.0, 3.0]]}, "missing"),
        ({"features": [None, None, None]}, "expected lists of floats"),
        ({"features": ["a", "b", "c"]}, "expected lists of floats"),
        ({"digest": [b"x", b"y", b"z"]}, "expected 32 bytes"),
        ({"split": [1, 2, 3]}, "expected text"),
    ],
)
def test_what_does_not_fit_in_a_table_is_named(tmp_path, changes, message):
    columns = {"id": ["a", "b", "c"], "label": ["x", "y", "x"], "features": [[1.0, 2.0]] * 3}
    pq.write_table(pa.table(columns | changes), tmp_path / "file")
    with pytest.raises(DataError, match=message):
        take_in(tmp_path / "file", tmp_path / "set", origin=ORIGIN)
    assert not (tmp_path / "set").exists()


def test_an_origin_that_names_nothing_is_refused(tmp_path):
    np.savez(tmp_path / "file.npz", **GOOD)
    for origin in ("", "dinov2", "dinov2@", "dinov2@xyz", "@1234567", "a b@1234567", "x@12\n"):
        with pytest.raises(SpecError, match="MODEL@DIGEST"):
            take_in(tmp_path / "file.npz", tmp_path / "set", origin=origin)


def test_a_set_that_is_there_is_left_alone(tmp_path):
    before = published(tmp_path, examples(range(20)))
    np.savez(tmp_path / "file.npz", **GOOD)
    with pytest.raises(ConflictError):
        take_in(tmp_path / "file.npz", tmp_path / "set", origin=ORIGIN)
    assert FeatureSet.open(tmp_path / "set").digest == before.digest
    assert (features([0]) == before.arrays([b"00000.jpg"])[0]).all()
