import numpy as np
import pytest

from cryobase.stages.data.augment import Augmentation
from cryobase.stages.data.pixels import load
from cryobase.stages.data.stream import live_view
from cryobase.store.epochs import shuffled
from tests.unit.stages.tuning import tuning_data as data


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return data.prepare(tmp_path_factory.mktemp("stream"), per_class=7)


def collected(stream, ids, epoch=0):
    batches = list(stream.batches(ids, epoch))
    sizes = [len(labels) for _, labels in batches]
    return sizes, *(np.concatenate(parts) for parts in zip(*batches, strict=True))


def test_batches_are_the_pixels_of_extraction_in_the_order_asked_for(root):
    stream = data.stream(root, batch_size=4)
    examples = stream.images.examples
    ids = shuffled(examples.ids, 0, 1)
    sizes, pixels, labels = collected(stream, ids)
    assert sizes == [4, 4, 4, 4, 4, 1]
    for identifier, image, label in zip(ids, pixels, labels, strict=True):
        (position,) = examples.positions(np.array([identifier]))
        assert np.array_equal(image, load(stream.images.read(int(position)), stream.pixels))
        assert label == examples.labels[position]


def test_every_epoch_has_its_own_order_and_every_example_once():
    ids = np.arange(50)
    first, second = shuffled(ids, 0, 1), shuffled(ids, 0, 2)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, shuffled(ids, 0, 1))
    assert np.array_equal(np.sort(second), ids)


def test_augmented_images_change_by_epoch_and_seed_and_are_reproducible(root):
    policy = Augmentation(rotation=40, zoom=0.2, horizontal_flip=True)
    one, other = (data.stream(root, augmentation=policy, seed=seed) for seed in (0, 1))
    ids = one.images.examples.ids[:5]
    (_, a, _), (_, again, _), (_, b, _), (_, c, _) = (
        collected(one, ids, 1),
        collected(one, ids, 1),
        collected(one, ids, 2),
        collected(other, ids, 1),
    )
    assert np.array_equal(a, again)
    assert not np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_what_judges_is_never_augmented(root):
    policy = Augmentation(rotation=40)
    stream, plain = data.stream(root, augmentation=policy), data.stream(root)
    ids = stream.images.examples.ids
    assert np.array_equal(collected(stream.plain, ids, 3)[1], collected(plain, ids)[1])
    given = data.examples(root, augmentation=policy)
    judged = np.concatenate([pixels for pixels, _ in given.validation()])
    expected = np.concatenate([pixels for pixels, _ in data.examples(root).validation()])
    assert np.array_equal(judged, expected)
    learnt = np.concatenate([pixels for pixels, _ in given.train(1)])
    assert not np.array_equal(learnt, np.concatenate([p for p, _ in data.examples(root).train(1)]))


def test_live_views_are_none_of_those_that_are_stored():
    views = {live_view(seed, epoch) for seed in range(20) for epoch in range(100)}
    assert len(views) == 2000
    assert min(views) > 1 << 16
    assert max(views) < 1 << 32
