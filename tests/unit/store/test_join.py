import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from cryobase.store import Examples, FeatureSet, IntegrityError, Pool, examples, reader
from cryobase.store.manifest import FileInfo, Manifest, load, manifest_path
from cryobase.store.shard import build_shard
from tests.unit.store.samples import CLASSES, digests, features, fill, published, spec
from tests.unit.store.samples import examples as examples_of


@pytest.fixture
def in_parts(monkeypatch):
    """Sixteen parts and many slices, for few rows too."""
    monkeypatch.setattr(reader, "BLOCK", 1)
    monkeypatch.setattr(examples, "_PART", 200)


def forged(root, keys, of_examples, order=None):
    """A set whose only shard has the rows of `keys`, as they come or in `order`."""
    values = features(range(len(keys)))
    info, data = build_shard(values, keys, np.zeros(len(keys), np.uint16), order)
    _, old = load(published(root, range(2)))
    mine = FileInfo.of("examples", of_examples.to_bytes())
    directory = root / "forged"
    directory.mkdir()
    (directory / info.name).write_bytes(data)
    (directory / mine.name).write_bytes(of_examples.to_bytes())
    assert old.published
    changed = replace(
        old, shards=(info,), published=replace(old.published, examples=mine, count=len(of_examples))
    )
    manifest_path(directory, 1).write_bytes(changed.to_bytes())
    return directory


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("alike", [False, True], ids=["digests", "digests that begin alike"])
def test_rows_are_found_in_whatever_order_a_shard_has_them(tmp_path, alike):
    keys = digests(range(300)).copy()
    keys[:, 0] = 7 if alike else keys[:, 0]
    listed = Examples.create([b"%05d" % n for n in range(300)], keys, [0] * 300, None, CLASSES)
    for name, order in {
        "sorted": None,
        "shuffled": np.random.default_rng(0).permutation(300),
    }.items():
        (tmp_path / name).mkdir()
        opened = FeatureSet.open(forged(tmp_path / name, keys, listed, order))
        assert np.array_equal(opened.arrays()[0], features(range(300)))


@pytest.mark.usefixtures("in_parts")
def test_a_key_twice_and_an_example_without_row_are_found_in_any_part(tmp_path):
    keys = digests(range(40))
    listed = examples_of(range(40))
    for number in range(40):
        root = tmp_path / str(number)
        root.mkdir()
        with pytest.raises(IntegrityError, match="1 rows of its examples are missing"):
            FeatureSet.open(forged(root, np.delete(keys, number, axis=0), listed))
    doubled = np.concatenate([keys, keys[13:14]])
    with pytest.raises(IntegrityError, match="comes twice"):
        FeatureSet.open(forged(tmp_path, doubled, listed))


@pytest.mark.usefixtures("in_parts")
def test_ids_out_of_order_between_two_slices_are_refused(tmp_path):
    directory = published(tmp_path, range(60))
    file = examples.ExamplesFile(directory, load(directory)[1].published.examples, CLASSES)
    swapped = examples_of(range(60))
    first = next(file.slices()).stop
    swapped.ids[[first - 1, first]] = swapped.ids[[first, first - 1]]
    root = tmp_path / "swapped"
    root.mkdir()
    with pytest.raises(IntegrityError, match="not in order"):
        FeatureSet.open(forged(root, digests(range(60)), swapped))


@pytest.mark.usefixtures("in_parts")
def test_views_quarantine_and_images_that_are_equal(tmp_path):
    pool = fill(Pool(tmp_path / "pool", spec()), range(50), views=2)
    made = examples_of(range(50), quarantined={3, 49})
    twice = np.concatenate([made.digests, made.digests[:1]])
    hidden = np.append(made.quarantined, False)
    ids, labels = [*made.ids.tolist(), b"twin"], [*made.labels, 2]
    pool.publish(tmp_path / "set", Examples.create(ids, twice, labels, hidden, CLASSES), views=2)
    opened = FeatureSet.open(tmp_path / "set", full=True)
    numbers = [*(n for n in range(50) if n not in (3, 49)), 0]
    for view in range(3):
        assert np.array_equal(opened.arrays(view=view)[0], features(numbers, view=view))
    assert opened.labels().tolist() == [*(n % 3 for n in numbers[:-1]), 2]


def test_examples_are_read_when_they_are_asked_for_and_stay_what_was_opened(tmp_path):
    directory = published(tmp_path, range(20))
    opened = FeatureSet.open(directory)
    list(opened.batches(None, 4, shuffle=True))
    assert "examples" not in vars(opened)
    pool = fill(Pool(tmp_path / "pool", spec()), range(20, 40))
    pool.publish(directory, examples_of(range(20, 40)))
    opened.close()
    assert opened.ids.tolist() == examples_of(range(20)).ids.tolist()
    assert opened.examples.digest == examples_of(range(20)).digest


def peak(work) -> int:
    tracemalloc.start()
    work()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_memory_barely_grows_with_the_set(tmp_path):
    """Five bytes an example are kept and four are shuffled; an id and a digest would be fifty."""
    few, many = 100_000, 400_000
    peaks = []
    for count in (few, many):
        directory = of_zeros(tmp_path / str(count), count)

        def one_pass(directory=directory):
            for _ in FeatureSet.open(directory).batches(None, 4096, shuffle=True):
                pass

        peaks.append(peak(one_pass))
    assert (peaks[1] - peaks[0]) / (many - few) < 16


def of_zeros(root, count):
    """A set of many narrow rows, in eight shards."""
    chance = np.random.default_rng(0)
    keys = chance.integers(0, 256, (count, 32), np.uint8)
    keys = keys[np.argsort(keys.view(">u8")[:, 0])]
    root.mkdir()
    shards = []
    for part in np.array_split(np.arange(count), 8):
        none = np.zeros((len(part), 1), np.float16)
        info, data = build_shard(none, keys[part], np.zeros(len(part), np.uint16))
        (root / info.name).write_bytes(data)
        shards.append(info)
    listed = Examples.create(
        np.char.mod("%07d", np.arange(count)).astype("S7").tolist(),
        keys[chance.permutation(count)],
        np.zeros(count, np.int32),
        None,
        CLASSES,
    )
    mine = FileInfo.of("examples", listed.to_bytes())
    (root / mine.name).write_bytes(listed.to_bytes())
    _, old = load(published(root / "small", range(2)))
    assert old.published
    made = Manifest(
        spec=spec(dtype="float16"),
        feature_shape=(1,),
        shards=tuple(shards),
        published=replace(old.published, examples=mine, count=count),
    )
    manifest_path(root, 1).write_bytes(made.to_bytes())
    return root
