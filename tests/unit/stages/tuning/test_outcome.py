import numpy as np
import pytest

from cryobase.stages.data.augment import Augmentation
from cryobase.stages.data.splits import Splits
from cryobase.stages.finetune import FinetuneRun
from cryobase.stages.tuning import outcome, pictures
from cryobase.stages.tuning.config import Network
from tests.unit.stages.tuning import tuning_data as data

POLICY = Augmentation(rotation=40, zoom=0.2, horizontal_flip=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return data.prepare(tmp_path_factory.mktemp("outcome"), per_class=8)


@pytest.fixture
def sheet(root, tmp_path, monkeypatch):
    """Draws a contact sheet; gives its images, titles and number of columns."""
    drawn = []

    def grid(path, images, titles, colors, *, columns):
        drawn.append((np.stack(images), titles, columns))

    monkeypatch.setattr(pictures, "grid", grid)

    def draw(run):
        stream = data.stream(root, augmentation=run.augmentation, seed=run.seed)
        outcome._contact_sheet(tmp_path / "a.svg", run, stream, Splits.open(root / "splits"))
        return drawn[-1]

    return draw


def scratch(**options):
    return FinetuneRun(start="scratch", network=Network(kind="book-digits"), **options)


def test_live_views_are_those_that_the_first_nine_epochs_see(root, sheet):
    images, titles, columns = sheet(scratch(augmentation=POLICY, seed=3))
    assert (titles[0], titles[-1], len(titles), columns) == ("epoch 1", "epoch 9", 9, 3)
    first = Splits.open(root / "splits").ids("train")[:1]
    stream = data.stream(root, augmentation=POLICY, seed=3)
    seen = [next(stream.batches(first, epoch))[0][0] for epoch in range(1, 10)]
    assert np.array_equal(images, np.stack(seen))
    assert len({image.tobytes() for image in images}) == 9


def test_stored_views_are_shown_as_they_are_stored(root, sheet):
    run = FinetuneRun(set="s", head="h", augmentation=POLICY, views=2, trunk="auto")
    images, titles, _ = sheet(run)
    assert titles == ["view 1", "view 2"]
    live, *_ = sheet(scratch(augmentation=POLICY))
    assert not any(np.array_equal(one, other) for one in images for other in live)


def test_without_augmentation_the_image_is_shown_once(root, sheet):
    images, titles, _ = sheet(scratch())
    assert (len(images), titles) == (1, ["no augmentation"])
