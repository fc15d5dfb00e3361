import numpy as np

from cryobase.store import Examples, FeatureSet, Pool, compare
from tests.unit.store.samples import CLASSES, digests, examples, features, fill, spec


def opened(root, made, pool=None):
    pool = pool or fill(Pool(root / "pool", spec()), range(30))
    pool.publish(root, made)
    return FeatureSet.open(root)


def test_equal_sets_do_not_differ(tmp_path):
    made = opened(tmp_path / "a", examples(range(20)))
    difference = compare(made, made)
    assert not difference
    assert difference.largest == 0


def test_every_kind_of_difference_is_named(tmp_path):
    a = opened(tmp_path / "a", examples(range(20), quarantined={7}))
    changed = digests(range(2, 22)).copy()
    changed[1] = digests([25])  # 00003.jpg has another image now
    labels = [number % 3 for number in range(2, 22)]
    labels[2] = (labels[2] + 1) % 3
    ids = [b"%05d.jpg" % number for number in range(2, 22)]
    b = opened(tmp_path / "b", Examples.create(ids, changed, labels, None, CLASSES))
    difference = compare(a, b)
    assert difference.removed.tolist() == [b"00000.jpg", b"00001.jpg"]
    assert difference.added.tolist() == [b"00020.jpg", b"00021.jpg"]
    assert difference.replaced.tolist() == [b"00003.jpg"]
    assert difference.relabelled.tolist() == [b"00004.jpg"]
    assert difference.quarantined.tolist() == [b"00007.jpg"]
    assert len(difference.features) == 0
    assert difference


def test_reordered_classes_relabel_nothing(tmp_path):
    a = opened(tmp_path / "a", examples(range(6)))
    turned = [2 - number % 3 for number in range(6)]
    b = opened(
        tmp_path / "b", Examples.create(a.ids, digests(range(6)), turned, None, CLASSES[::-1])
    )
    difference = compare(a, b)
    assert difference.classes == (CLASSES, CLASSES[::-1])
    assert len(difference.relabelled) == 0


def test_features_that_drifted_are_found(tmp_path):
    a = opened(tmp_path / "a", examples(range(6)))
    drifted = Pool(tmp_path / "drifted", spec())
    rows = features(range(6))
    rows[4, 2] += 0.25
    with drifted.writer() as writer:
        writer.append(rows, digests(range(6)), np.zeros(6))
    difference = compare(a, opened(tmp_path / "b", examples(range(6)), drifted))
    assert difference.features.tolist() == [b"00004.jpg"]
    assert difference.largest == 0.25


def test_specs_are_compared(tmp_path):
    a = opened(tmp_path / "a", examples(range(6)))
    pool = fill(Pool(tmp_path / "other", spec(output="max")), range(6))
    assert compare(a, opened(tmp_path / "b", examples(range(6)), pool)).spec == {
        "output": ("avg", "max")
    }
