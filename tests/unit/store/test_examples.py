from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryobase.store import (
    Examples,
    ExamplesError,
    IntegrityError,
    UnknownExampleError,
    decode_id,
    encode_id,
)
from cryobase.store.columns import build
from cryobase.store.examples import ExamplesFile
from cryobase.store.manifest import FileInfo
from tests.unit.store.samples import CLASSES, digests, examples


def create(ids, labels=None, classes=CLASSES):
    labels = [0] * len(ids) if labels is None else labels
    return Examples.create(ids, digests(range(len(ids))), labels, None, classes)


def test_create_sorts_all_columns_by_id():
    made = create([b"b", b"a", "ä".encode(), b"B"], [0, 1, 2, 0])
    assert made.ids.tolist() == [b"B", b"a", b"b", "ä".encode()]
    assert made.labels.tolist() == [0, 1, 0, 2]
    assert (made.digests == digests([3, 1, 0, 2])).all()


@pytest.mark.fault(17, 18, 19)
@pytest.mark.parametrize(
    ("ids", "labels", "fact"),
    [
        ([b"a", b"b", b"a"], [0, 0, 0], r"b'a': twice"),
        ([b"a", b"b"], [0, 3], r"b'b': label outside"),
        ([b"a", b"b"], [-1, 0], r"b'a': label outside"),
        ([b"a", b"b"], [0, 2**32], r"b'b': label outside"),
        ([b"a", b"b"], [0, 0.5], "not integers"),
        ([b"a", b"b"], [0, float("nan")], "not integers"),
        ([b"a"], [0, 1], "differ in length"),
        ([b"x" * 513], [0], "513 bytes, at most 512"),
        ([b""], [0], "empty"),
        ([b"a\0b"], [0], "NUL"),
        ([b"a\0"], [0], "NUL"),
        ([b"\xff"], [0], "UTF-8"),
        ([b"a", b"\xa4b"], [0, 0], "within a character"),
    ],
)
def test_what_does_not_fit_is_refused(ids, labels, fact):
    with pytest.raises(ExamplesError, match=fact):
        create(ids, labels)


def test_a_class_that_comes_twice_is_refused():
    with pytest.raises(ExamplesError, match="class name"):
        create([b"a"], classes=("x", "x"))


def test_ids_of_512_bytes_are_kept_whole():
    long = [b"x" * 511 + b"a", b"x" * 511 + b"b"]
    assert create(long).ids.tolist() == long


@pytest.mark.fault(20)
@given(st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw))
def test_any_file_name_survives_as_an_id(raw):
    name = raw.decode("utf-8", "surrogateescape")
    encoded = encode_id(name)
    encoded.decode("utf-8")
    assert decode_id(encoded) == name


def test_positions_follow_the_order_asked_for():
    made = examples(range(10))
    assert made.positions([b"00007.jpg", b"00002.jpg"]).tolist() == [7, 2]
    assert made.positions(["00007.jpg"]).tolist() == [7]
    assert made.positions([]).tolist() == []


@pytest.mark.parametrize("unknown", [b"", b"00003", b"00003.jpgx", b"x" * 600])
def test_an_unknown_id_is_named(unknown):
    with pytest.raises(UnknownExampleError, match="not among the 10"):
        examples(range(10)).positions([b"00001.jpg", unknown])


def load(directory, made, info=None, classes=CLASSES, full=True):
    data = made.to_bytes()
    info = info or FileInfo.of("examples", data)
    (directory / info.name).write_bytes(data)
    return ExamplesFile(directory, info, classes, full=full).read()


def test_a_file_gives_the_same_examples(tmp_path):
    made = examples(range(30), quarantined={4})
    loaded = load(tmp_path, made)
    assert loaded.digest == made.digest
    assert loaded.ids.tolist() == made.ids.tolist()
    assert loaded.quarantined.tolist() == made.quarantined.tolist()


@pytest.mark.fault(25)
def test_a_changed_label_is_found(tmp_path):
    made = examples(range(30))
    info = FileInfo.of("examples", made.to_bytes())
    changed = replace(made, labels=np.roll(made.labels, 1))
    for full in (True, False):
        with pytest.raises(IntegrityError, match=f"{info.name}: its SHA-256"):
            load(tmp_path, changed, info, full=full)
    with pytest.raises(IntegrityError, match=f"{info.name}: not the size"):
        load(tmp_path, examples(range(29)), replace(info, size=info.size + 1), full=False)


@pytest.mark.fault(17)
def test_the_digest_covers_every_column():
    whole = examples(range(4))
    others = [
        examples(range(5)),
        examples(range(1, 5)),
        examples(range(4), quarantined={1}),
        Examples.create(whole.ids, digests(range(4)), [0, 1, 2, 1], None, CLASSES),
        Examples.create(whole.ids, digests(range(4)), [0, 1, 2, 0], None, ("cat", "emu", "dog")),
        Examples.create(whole.ids, digests(range(1, 5)), [0, 1, 2, 0], None, CLASSES),
    ]
    assert len({made.digest for made in [whole, *others]}) == 7


@pytest.mark.fault(17, 18)
def test_a_file_whose_columns_do_not_fit_together_is_refused(tmp_path):
    with pytest.raises(IntegrityError, match="label outside"):
        load(tmp_path, examples(range(4)), classes=("cat",))
    made = examples(range(4))
    object.__setattr__(made, "ids", made.ids[::-1])
    with pytest.raises(IntegrityError, match="not in order"):
        load(tmp_path, made)


@pytest.mark.fault(29)
def test_a_file_with_a_column_of_another_type_is_refused(tmp_path):
    made = examples(range(4))
    columns = {
        "id": made.ids,
        "digest": made.digests,
        "label": made.labels.astype("<f4"),
        "quarantined": made.quarantined.astype("u1"),
    }
    data = build(columns)
    info = FileInfo.of("examples", data)
    (tmp_path / info.name).write_bytes(data)
    with pytest.raises(IntegrityError, match="columns of types"):
        ExamplesFile(tmp_path, info, CLASSES)
