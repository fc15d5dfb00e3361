"""Splits: stable, disjoint, exhaustive, with duplicates and groups together and counts exact."""

import csv
import hashlib
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryobase.stages.data import index
from cryobase.stages.data.index import Index
from cryobase.stages.data.splits import PARTS, Splits
from cryobase.stages.errors import ConfigError, DataError
from cryobase.stages.split import SplitConfig, run


def digest(name):
    return np.frombuffer(hashlib.sha256(name.encode()).digest(), np.uint8)


def write_raw(directory, rows, classes=None):
    """An index of rows (id, class, image name, own part, reason), without any image."""
    rows = sorted(rows, key=lambda row: row[0].encode())
    names = sorted({row[2] for row in rows})
    classes = classes or tuple(sorted({row[1] for row in rows}))
    reason_of = {row[2]: row[4] for row in rows}
    reasons = ["", *sorted({row[4] for row in rows} - {""})]
    columns = {name: np.zeros(len(names), dtype) for name, dtype in index.IMAGE_COLUMNS.items()}
    columns["pack"] -= 1
    columns["digest"] = np.stack([digest(name) for name in names])
    columns["reason"] = np.array([reasons.index(reason_of[name]) for name in names], "i4")
    directory.mkdir(parents=True, exist_ok=True)
    index.write(
        directory,
        Index(
            ids=np.array([row[0].encode() for row in rows]),
            labels=np.array([classes.index(row[1]) for row in rows], "i4"),
            parts=np.array([index.PARTS.index(row[3]) for row in rows], "i1"),
            images=np.array([names.index(row[2]) for row in rows], "i8"),
            **columns,
            classes=classes,
            reasons=tuple(reasons),
        ),
    )


def plain(count, classes="ab", start=0):
    return [
        (f"{classes[n % len(classes)]}/{n}.png", classes[n % len(classes)], f"image {n}", "", "")
        for n in range(start, start + count)
    ]


def parts_of(splits):
    """{id: part} of what was split."""
    return {
        identifier.decode(): part for part in PARTS for identifier in splits.ids(part)
    }  # fmt: skip


def split(tmp_path, rows, classes=None, **options):
    write_raw(tmp_path / "raw", rows, classes)
    return parts_of(run(SplitConfig(**options), raw=tmp_path / "raw", output=tmp_path / "splits"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("split")


def test_fractions_of_many_examples_are_about_right_in_every_class(tmp_path):
    parts = split(tmp_path, plain(5000, "abcde"))
    counts = {part: list(parts.values()).count(part) for part in PARTS}
    # hashes are the same on every machine; four standard deviations of drawn shares
    assert abs(counts["train"] - 4000) < 120
    assert abs(counts["validation"] - 500) < 90
    assert abs(counts["test"] - 500) < 90
    with (tmp_path / "splits" / "counts.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["class"] for row in table] == list("abcde")
    assert all(int(row["test"]) > 60 for row in table)
    assert sum(int(row[part]) for row in table for part in PARTS) == 5000


def test_a_split_is_read_back_and_its_digest_names_it(tmp_path):
    write_raw(tmp_path / "raw", plain(200))
    written = run(SplitConfig(), raw=tmp_path / "raw", output=tmp_path / "splits")
    read = Splits.open(tmp_path / "splits")
    assert parts_of(read) == parts_of(written)
    assert read.digest == written.digest
    other = run(SplitConfig(seed=1), raw=tmp_path / "raw", output=tmp_path / "other")
    assert other.digest != read.digest
    again = run(SplitConfig(), raw=tmp_path / "raw", output=tmp_path / "again")
    assert again.digest == read.digest
    first, second = (tmp_path / name / "splits.npz" for name in ("splits", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_no_test_part(tmp_path):
    parts = split(tmp_path, plain(300), train=0.8, validation=0.2, test=0)
    assert set(parts.values()) == {"train", "validation"}
    assert len(Splits.open(tmp_path / "splits").ids("test")) == 0


def test_no_validation_part(tmp_path, caplog):
    parts = split(tmp_path, plain(300), train=0.8, validation=0, test=0.2)
    assert set(parts.values()) == {"train", "test"}
    assert "no validation examples" in caplog.text


@pytest.mark.fault(15)
@given(
    images=st.lists(st.integers(0, 40), max_size=100),
    more=st.lists(st.integers(0, 400), max_size=60),
    seed=st.integers(0, 3),
)
@settings(max_examples=30, deadline=None)
def test_adding_and_removing_moves_nobody(place, images, more, seed):
    """Also where images are duplicated: `images` are numbers, and equal ones are equal images."""

    def rows(numbers, prefix):
        return [
            (f"{'ab'[i % 2]}/{prefix}{i}.png", "ab"[i % 2], f"{i % 2} {number}", "", "")
            for i, number in enumerate(numbers)
        ]  # fmt: skip

    old, new = plain(80) + rows(images, "old"), rows(more, "new")
    options = {"seed": seed, "train": 0.6, "validation": 0.2, "test": 0.2}
    before = split(place, old, **options)
    assert before.keys() == {row[0] for row in old}, "disjoint and exhaustive"
    after = split(place, old + new, **options)
    assert after.keys() == {row[0] for row in old + new}
    assert before.items() <= after.items()
    sides = {}
    for identifier, _, image, *_ in old + new:
        assert sides.setdefault(image, after[identifier]) == after[identifier], (
            "duplicates together"
        )


@pytest.mark.fault(15)
@given(
    members=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 300)), min_size=150, max_size=250
    ),
    by_counts=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_groups_and_duplicates_stay_together(place, members, by_counts):
    rows = [
        (f"p{group}/{n}.png", "ab"[n % 2], f"image {n % 2} {image}", "", "")
        for n, (group, image) in enumerate(members)
    ]
    options = {"by": "counts", "train": 3, "validation": 2, "test": 1} if by_counts else {}
    try:
        parts = split(place, rows, group_by=r"^p([0-9]+)/", **options)
    except DataError as error:  # chains of duplicates may make one group of nearly everything
        assert "missing" in str(error) or "no validation examples" in str(error)  # noqa: PT017
        return
    for key in (lambda row: row[0].split("/")[0], lambda row: row[2]):
        sides = {}
        for row in rows:
            side = parts.get(row[0])
            assert sides.setdefault(key(row), side) == side
    if by_counts:
        for label in "ab":
            chosen = [parts[row[0]] for row in rows if row[1] == label and row[0] in parts]
            assert [chosen.count(part) for part in PARTS] == [3, 2, 1]


def test_a_group_keeps_its_side_when_it_grows(tmp_path):
    def patients(images):
        return [
            (f"{'ab'[n % 2]}/patient{n % 40:02}-{n}.png", "ab"[n % 2], f"image {n}", "", "")
            for n in range(images)
        ]  # fmt: skip

    options = {"group_by": "patient([0-9]+)", "train": 0.5, "validation": 0.25, "test": 0.25}
    before = split(tmp_path, patients(80), **options)
    assert len(set(before.values())) == 3
    assert before.items() <= split(tmp_path, patients(400), **options).items()


@pytest.mark.fault(15)
@given(
    counts=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9)),
    duplicates=st.integers(0, 12),
    order=st.sampled_from(["hash", "number"]),
)
@settings(max_examples=40, deadline=None)
def test_counts_are_exact_with_duplicates_together(place, counts, duplicates, order):
    rows = plain(120)
    rows += [(f"{row[1]}/copy{n}.png", *row[1:]) for n, row in enumerate(rows[:duplicates])]
    train, validation, test = counts
    parts = split(
        place, rows, by="counts", train=train, validation=validation, test=test, order=order
    )
    sides = {}
    for label in "ab":
        chosen = [parts[row[0]] for row in rows if row[1] == label and row[0] in parts]
        assert tuple(chosen.count(part) for part in PARTS) == counts
    for identifier, _, image, *_ in rows:
        side = parts.get(identifier)
        assert sides.setdefault(image, side) == side


def test_counts_in_the_order_of_the_number_are_the_subset_of_the_keras_book(tmp_path):
    rows = [
        (f"{kind}.{n}.jpg", kind, f"{kind} {n}", "", "")
        for n in range(30)
        for kind in ("cat", "dog")
    ]
    parts = split(tmp_path, rows, by="counts", train=10, validation=5, test=10, order="number")
    for number in range(30):
        expected = [*["train"] * 10, *["validation"] * 5, *["test"] * 10, *[None] * 5][number]
        assert parts.get(f"cat.{number}.jpg") == parts.get(f"dog.{number}.jpg") == expected


def own(images_per_part, **more):
    """Rows whose source has parts: {part: number of images per class}."""
    return [
        (f"{part or 'none'}/{label}/{n}.png", label, f"{part} {label} {n}", part, "")
        for part, count in images_per_part.items() for label in "ab" for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("by", ["auto", "source"])
def test_a_published_split_is_kept_as_it_is(tmp_path, by):
    rows = own({"train": 20, "validation": 7, "test": 9})
    assert split(tmp_path, rows, by=by) == {row[0]: row[3] for row in rows}


def test_a_lone_train_folder_is_no_split(tmp_path):
    assert set(split(tmp_path, own({"train": 200})).values()) == set(PARTS)


def test_what_a_published_split_leaves_open_is_filled_by_hash(tmp_path):
    rows = own({"train": 200, "test": 9})
    parts = split(tmp_path, rows)
    assert all(parts[row[0]] == "test" for row in rows if row[3] == "test")
    carved = [parts[row[0]] for row in rows if row[3] == "train"]
    assert carved.count("test") == 0
    assert 20 < carved.count("validation") < 75
    mixed = rows + own({"": 300})
    after = split(tmp_path, mixed)
    assert parts.items() <= after.items(), "ids that it has keep their side"
    assert set(after.values()) == set(PARTS)


@pytest.mark.fault(15)
def test_copies_across_a_published_split_are_judged_not_learnt(tmp_path, caplog):
    rows = own({"train": 20, "validation": 7, "test": 9})
    rows += [("train/a/leak.png", "a", "test a 0", "train", ""),
             ("validation/b/leak.png", "b", "test b 1", "validation", "")]  # fmt: skip
    parts = split(tmp_path, rows)
    assert "train/a/leak.png" not in parts
    assert "validation/b/leak.png" not in parts
    assert parts["test/a/0.png"] == "test"
    assert "2 examples left out" in caplog.text
    assert "train/a/leak.png" in caplog.text


def test_fractions_ignore_a_published_split_when_asked(tmp_path):
    parts = split(tmp_path, own({"train": 100, "test": 100}), by="fractions")
    assert any(side == "train" for name, side in parts.items() if name.startswith("test/"))


def test_a_source_without_a_split_of_its_own_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="split of its own"):
        split(tmp_path, plain(50), by="source")


def test_quarantined_examples_are_in_no_part(tmp_path):
    rows = [*plain(100), ("a/bad.jpg", "a", "bad", "", "empty file")]
    assert "a/bad.jpg" not in split(tmp_path, rows)
    with (tmp_path / "splits" / "counts.csv").open() as file:
        assert [row["quarantined"] for row in csv.DictReader(file)] == ["1", "0"]


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    ("rows", "classes", "message"),
    [
        (plain(50), ("a", "b", "tulip"), "class 'tulip' has no usable image"),
        ([*plain(50), ("rose/1", "rose", "r", "", "")], None, "class 'rose' has one usable image"),
        ([*plain(50), ("z/1", "z", "z1", "", "bad"), ("z/2", "z", "z2", "", "bad")], None,
         "class 'z' has no usable image"),
        (plain(50, "a"), None, "one class only, 'a'"),
    ],
)  # fmt: skip
def test_poor_classes_are_errors_that_name_them(tmp_path, rows, classes, message):
    with pytest.raises(DataError, match=message):
        split(tmp_path, rows, classes)


def long_tail(classes=400, images=(1, 2, 2, 3, 4, 5, 6)):
    """Rows of many classes with few images each."""
    return [
        (f"{k:03}/{n}.png", f"sp{k:03}", f"{k} {n}", "", "")
        for k in range(classes)
        for n in range(images[k % len(images)])
    ]


IN_TEST_ALONE = own({"train": 9, "validation": 4}) + [
    (f"test/c/{n}.png", "c", f"c {n}", "test", "") for n in range(5)
]
CARVED_AWAY = own({"train": 9, "test": 4}) + [
    (f"train/{k}/{n}.png", f"k{k}", f"{k} {n}", "train", "") for k in range(400) for n in range(2)
]
TOO_FEW = {
    "a class in test alone": (IN_TEST_ALONE, {}),
    "a class in test alone, by source": (IN_TEST_ALONE, {"by": "source"}),
    "train images all carved away": (CARVED_AWAY, {}),
    "a long tail": (long_tail(images=(2, 3, 4, 5, 6)), {}),
    "a long tail, by fractions": (long_tail(images=(2, 3)), {"by": "fractions", "seed": 3}),
    "one image": ([*plain(50), ("rose/1", "rose", "r", "", "")], {}),
    "one image, by counts": (
        [*plain(50), ("rose/1", "rose", "r", "", "")],
        {"by": "counts", "train": 5, "validation": 2, "test": 2},
    ),
    "fewer than the counts": (
        [*plain(50), ("c/1", "c", "c1", "", ""), ("c/2", "c", "c2", "", "")],
        {"by": "counts", "train": 5, "validation": 2, "test": 2},
    ),
}


@pytest.mark.fault(16)
@pytest.mark.parametrize("name", TOO_FEW)
def test_a_class_with_too_few_images_is_named_and_the_named_remedy_works(tmp_path, name):
    rows, options = TOO_FEW[name]
    with pytest.raises(DataError, match=r"class '\w+' (is missing from train|has)") as found:
        split(tmp_path, rows, **options)
    if section := re.search(r"split: \{(.*?)\}", str(found.value)):
        options, named = {}, re.findall(r"(\w+): (\w+)", section[1])
    else:
        named = re.findall(r"split\.(\w+): (\w+)", str(found.value))
    assert named
    options = options | {
        key: value == "true" if key == "stratify" else value for key, value in named
    }
    parts = split(tmp_path, rows, **options)
    training = {row[1] for row in rows if parts.get(row[0]) == "train"}
    assert training == {row[1] for row in rows}


@pytest.mark.fault(15, 16)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=30),
    copies=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 29)), max_size=30),
    seed=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_stratified_keeps_every_class_in_train_and_copies_together(place, sizes, copies, seed):
    rows = long_tail(len(sizes), sizes)
    for number, (image, label) in enumerate(copies):  # of any image, also in another class
        row = rows[image % len(rows)]
        rows.append((f"copy{number}.png", f"sp{label % len(sizes):03}", row[2], "", ""))
    shares = {"train": 0.6, "validation": 0.2, "test": 0.2}
    try:
        parts = split(place, rows, stratify=True, seed=seed, **shares)
    except DataError as error:
        assert "no validation examples" in str(error)  # noqa: PT017
        return
    assert parts.keys() == {row[0] for row in rows}
    sides = {}
    for identifier, _, image, *_ in rows:
        assert sides.setdefault(image, parts[identifier]) == parts[identifier]
    for label in {row[1] for row in rows}:
        assert any(parts[row[0]] == "train" for row in rows if row[1] == label)


def test_stratified_differs_from_fractions_by_stand_ins_alone_and_judges_every_larger_class(
    tmp_path,
):
    rows = long_tail(400, (6, 8, 12, 30))
    plain_parts, parts = split(tmp_path, rows), split(tmp_path, rows, stratify=True)
    moved = [row for row in rows if plain_parts[row[0]] != parts[row[0]]]
    assert 0 < len(moved) < 0.15 * len(rows)
    for label in {row[1] for row in rows}:
        those = [row[0] for row in rows if row[1] == label]
        assert {parts[one] for one in those} == set(PARTS)
        for part in PARTS:  # a part has a stand-in only where it had nothing
            before = [one for one in those if plain_parts[one] == part]
            stand_ins = [one for one in those if parts[one] == part and one not in before]
            assert len(stand_ins) <= (0 if before else 1)
    grown = [*rows, *((f"more{n}.png", rows[n][1], f"more {n}", "", "") for n in range(300))]
    after = split(tmp_path, grown, stratify=True)
    stood_in = {row[0] for row in moved}
    back = [one for one in parts if parts[one] != after[one]]
    assert set(back) <= stood_in | {one for one in back if plain_parts[one] == "train"}
    assert len(back) < 0.1 * len(rows)


def test_stratified_leaves_a_published_split_as_it_is(tmp_path):
    rows = own({"train": 20, "validation": 7, "test": 9})
    assert split(tmp_path, rows, stratify=True) == {row[0]: row[3] for row in rows}


def test_a_class_in_test_alone_is_told_where_it_stands(tmp_path):
    with pytest.raises(DataError, match=r"missing from train \(5 in test\); set split.stratify"):
        split(tmp_path, IN_TEST_ALONE)


@pytest.mark.fault(16)
def test_a_class_with_too_few_images_for_the_counts_is_named(tmp_path):
    rows = plain(60) + [(f"c/{n}.png", "c", f"c {n}", "", "") for n in range(9)]
    with pytest.raises(DataError, match=r"class 'c' has 9 usable images, split asks for 12"):
        split(tmp_path, rows, by="counts", train=6, validation=3, test=3)


def test_a_class_missing_from_validation_is_a_warning(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    rows = own({"train": 9, "validation": 4, "test": 2})
    rows += [(f"train/c/{n}.png", "c", f"c {n}", "train", "") for n in range(5)]
    split(tmp_path, rows)
    assert "classes without an example in validation: c" in caplog.text


def test_ids_without_number_or_group_are_errors_that_name_them(tmp_path):
    rows = [*plain(40), ("a/cat.png", "a", "cat", "", "")]
    with pytest.raises(DataError, match=r"a/cat\.png"):
        split(tmp_path, rows, by="counts", train=2, validation=1, test=1, order="number")
    for pattern in ("([0-9]+)", "([0-9]*)", "(x)?[a-z]"):
        with pytest.raises(ConfigError, match=r"split\.group_by: .* finds no group in 'a/"):
            split(tmp_path, rows, group_by=pattern)


@pytest.mark.parametrize(
    ("options", "key"),
    [({"train": 0.5}, "train, validation and test"), ({"validation": -0.1}, "validation"),
     ({"train": 0, "validation": 0.9}, "train"),
     ({"train": float("nan")}, "train"), ({"test": -0.1, "train": 1}, "test"),
     ({"by": "counts"}, "train"), ({"group_by": "("}, "group_by"), ({"order": "number"}, "order"),
     ({"stratify": True, "by": "counts", "train": 1, "validation": 1, "test": 1}, "stratify")],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(options, key):
    with pytest.raises(ValueError, match=f"^{key}:"):
        SplitConfig(**options)


def test_damaged_splits_are_named(tmp_path):
    with pytest.raises(DataError, match="cryobase split"):
        Splits.open(tmp_path)
    (tmp_path / "splits.npz").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(DataError, match=r"splits\.npz"):
        Splits.open(Path(tmp_path))
