"""The views of a feature set that other libraries read."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import types

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import cryobase
from cryobase.pipeline import loaders
from cryobase.stages.data.splits import PARTS, Splits
from cryobase.stages.errors import DataError
from cryobase.store import Examples, Pool, UnknownExampleError
from tests.unit.store.samples import digests, examples, fill, spec

HIDDEN = {3, 30}


@pytest.fixture
def root(quick_path):
    """A checkout of 40 examples, two of them in quarantine, in views 0 to 2, and their splits."""
    pool = fill(Pool(quick_path / "pool", spec(augmentation="{}")), range(40), (2, 3), views=2)
    made = examples(range(40), HIDDEN)
    pool.publish(quick_path / "features" / "small", made, 2)
    part = np.arange(40, dtype=np.int8) % 4
    splits = Splits(made.ids[part < 3], part[part < 3])
    splits.write(quick_path / "data" / "splits", [{"class": "cat"}])
    return quick_path


@pytest.fixture
def features(root):
    with cryobase.open(root / "features" / "small") as found:
        yield found


def test_a_set_says_in_a_line_what_it_is(features):
    assert repr(features).startswith(
        f"{features.directory}: 38 images of 3 classes in views 0 to 2"
    )
    assert repr(features).endswith(f"2 × 3 float32 by vgg16, digest {features.digest[:12]}…")


def drained(batches) -> tuple[np.ndarray, np.ndarray]:
    rows, labels = zip(*batches, strict=True)
    return np.concatenate(rows), np.concatenate(labels)


def key(rows: np.ndarray) -> list[float]:
    return sorted(rows.reshape(len(rows), -1)[:, 0].tolist())


def test_scikit_learn_gets_a_part_with_groups_of_equal_images(root, features):
    train = features.to_sklearn("train")
    assert train.X.shape == (10, 6)
    ids = features.ids_of("train")
    assert (train.X.reshape(-1, 2, 3) == features.arrays(ids)[0]).all()
    assert train.y.tolist() == features.labels(ids).tolist()
    assert len(set(train.groups.tolist())) == 10
    parts = [features.to_sklearn(part, root / "data" / "splits") for part in PARTS]
    assert sum(len(part.y) for part in parts) == 29
    assert len(features.to_sklearn().y) == 38
    with pytest.raises(DataError, match="no part 'trian'; known: train, validation, test"):
        features.ids_of("trian")
    with pytest.raises(DataError, match="cryobase split"):
        features.ids_of("train", root)


def test_equal_images_are_one_group(quick_path):
    made = Examples.create([b"a", b"b", b"c"], digests([1, 0, 1]), [0, 1, 0], None, ("x", "y"))
    fill(Pool(quick_path / "pool", spec()), range(2)).publish(quick_path / "set", made)
    with cryobase.open(quick_path / "set") as found:
        a, b, c = found.to_sklearn().groups
    assert a == c != b


def test_a_library_that_speaks_arrow_takes_the_set_itself(root, features):
    frame = pd.DataFrame.from_arrow(features)
    assert list(frame.columns) == [
        "id", "label", "quarantined", "digest", "features", "features_1", "features_2",
    ]  # fmt: skip
    assert frame["id"].tolist() == [name.decode() for name in features.examples.ids]
    assert frame["label"].tolist()[:4] == ["cat", "dog", "emu", "cat"]
    assert frame["features"].isna().sum() == len(HIDDEN)
    assert len(pa.table(features)) == 40
    table = features.to_arrow(root / "data" / "splits").read_all()
    assert table["split"].to_pylist()[:4] == ["train", "validation", "test", None]
    rows = [one for one in table["features_2"].to_pylist() if one]
    assert (np.array(rows).reshape(-1, 2, 3) == features.arrays(view=2)[0]).all()


def test_a_map_style_dataset_gives_examples_alone_and_in_batches(features):
    dataset = features.to_torch(view=1)
    rows, labels = features.arrays(view=1)
    assert len(dataset) == 38
    for index in (0, 37, -1):
        row, label = dataset[index]
        assert (row == rows[index]).all()
        assert label == labels[index]
    with pytest.raises(IndexError):
        dataset[38]
    order = [5, 0, 37, 5]
    samples = dataset.__getitems__(order)
    assert [label for _, label in samples] == labels[order].tolist()
    x, y = dataset.collate(samples)
    assert (x == rows[order]).all()
    assert (y.dtype, y.tolist()) == (np.int64, labels[order].tolist())
    assert len(list(dataset)) == 38, "which ends by IndexError, as sequences do"
    chosen = features.to_torch(features.ids_of("test"))
    assert [label for _, label in chosen] == features.labels(features.ids_of("test")).tolist()
    with pytest.raises(UnknownExampleError):
        features.to_torch([b"00003.jpg"])


def test_batches_are_those_of_the_set_and_another_order_each_pass(features):
    in_order = features.to_torch_batches(size=16)
    assert len(in_order) == 3
    rows, labels = drained(in_order)
    assert (rows == features.arrays()[0]).all()
    assert (labels.dtype, labels.tolist()) == (np.int64, features.labels().tolist())
    mixed = features.to_torch_batches(size=16, shuffle=True, block=1, seed=5)
    first, second = drained(mixed), drained(mixed)
    assert key(first[0]) == key(second[0]) == key(rows)
    assert (first[0] != second[0]).any()
    mixed.set_epoch(1)
    once, again = drained(mixed), drained(mixed)
    assert (once[0] == again[0]).all()
    same = features.batches(None, 16, shuffle=True, seed=5, epoch=1)
    assert (once[0] == drained(same)[0]).all(), "an epoch has one order, whoever asks"


def test_views_are_drawn_anew_each_pass(features):
    batches = features.to_torch_batches(size=38, views=2)
    first, second = drained(batches)[0], drained(batches)[0]
    plain = features.arrays()[0]
    drawn = (first - plain)[:, 0, 0] * 2
    assert set(drawn.tolist()) == {0, 1, 2}
    assert (first != second).any()


def with_workers(monkeypatch, count: int, seed: int = 7):
    """`torch.utils.data` as a worker of a loader sees it."""
    infos = [
        types.SimpleNamespace(id=number, num_workers=count, seed=seed + number)
        for number in range(count)
    ]
    module = types.SimpleNamespace(get_worker_info=lambda: module.now, now=None)
    monkeypatch.setitem(sys.modules, "torch.utils.data", module)
    return module, infos


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("workers", "size"), [(1, 16), (2, 16), (3, 5), (5, 16), (2, 1)])
def test_workers_share_the_batches_of_a_pass_out(features, monkeypatch, workers, size, shuffle):
    module, infos = with_workers(monkeypatch, workers)
    batches = features.to_torch_batches(size=size, shuffle=shuffle)
    parts = []
    for info in infos:
        module.now = info
        parts += list(pickle.loads(pickle.dumps(batches)))
    assert len(parts) == len(batches)
    assert key(drained(parts)[0]) == key(features.arrays()[0])


def test_a_loader_that_starts_workers_anew_gets_another_order(features, monkeypatch):
    """Their copies all begin with pass 0; the loader's own seed is another one each time."""
    orders = []
    for seed in (7, 8):
        module, (module.now, *_) = with_workers(monkeypatch, 1, seed)
        fresh = features.to_torch_batches(size=38, shuffle=True, block=1)
        orders.append(drained(fresh)[0])
    assert (orders[0] != orders[1]).any()


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_an_epoch_out(features, ranks):
    parts = []
    for rank in range(ranks):
        batches = features.to_torch_batches(size=4, shuffle=True, rank=rank, ranks=ranks)
        batches.set_epoch(3)
        mine = list(batches)
        assert len(mine) == len(batches)
        parts += mine
    assert key(drained(parts)[0]) == key(features.arrays()[0])
    rows = []
    for rank in range(ranks):
        batches = features.to_torch_batches(size=4, rank=rank, ranks=ranks, drop_last=True)
        assert len(batches) == len(list(batches)) == 9 // ranks
        assert {len(x) for x, _ in batches} == {4}
        rows += drained(batches)[0][:, 0, 0].tolist()
    assert len(set(rows)) == len(rows) == 36 // (4 * ranks) * 4 * ranks
    for views in ({"views": 3}, {"views": -1}):
        with pytest.raises(UnknownExampleError, match="has views 0 to 2"):
            features.to_torch_batches(**views)
    with pytest.raises(UnknownExampleError, match="has views 0 to 2"):
        features.to_torch(view=3)
    for wrong in ({"size": 0}, {"rank": 2, "ranks": 2}, {"rank": -1}):
        with pytest.raises(ValueError, match="rank"):
            features.to_torch_batches(**wrong)


def total_in_child(dataset, queue) -> None:
    rows, _ = drained(dataset)
    queue.put((len(rows), float(rows.astype(np.float64).sum())))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_processes_read_while_the_parent_does(features, start):
    """Forked amid reading, as loaders do; nobody's place in a file moves with another's."""
    context = multiprocessing.get_context(start)
    batches = features.to_torch_batches(size=4, shuffle=True, block=1)
    expected = float(features.arrays()[0].astype(np.float64).sum())
    over = threading.Event()

    def read_on() -> None:
        while not over.is_set():
            drained(features.batches(None, 3, shuffle=True))

    reader = threading.Thread(target=read_on)
    reader.start()
    queue = context.Queue()
    children = [context.Process(target=total_in_child, args=(batches, queue)) for _ in range(3)]
    try:
        for child in children:
            child.start()
        answers = [queue.get(timeout=120) for _ in children]
    finally:
        over.set()
        reader.join()
        for child in children:
            child.join(20)
            child.kill()
    assert answers == [(38, pytest.approx(expected))] * 3


def test_a_closed_parent_does_not_close_a_forked_child(features):
    """Files are each process' own once it has been forked."""
    batches = features.to_torch_batches(size=8)
    ours, theirs = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.read(ours[0], 1)  # until the parent has closed the set
        os.write(theirs[1], b"%d" % len(drained(batches)[0]))
        os._exit(0)
    features.close()
    os.write(ours[1], b"x")
    assert os.read(theirs[0], 10) == b"38"
    os.waitpid(child, 0)
    for descriptor in (*ours, *theirs):
        os.close(descriptor)


def test_nothing_is_imported_before_it_is_asked_for(root):
    code = (
        "import sys, cryobase; f = cryobase.open(sys.argv[1]); next(iter(f.to_torch_batches()));"
        "f.to_torch()[0];"
        "assert not {'tensorflow', 'pyarrow', 'pandas', 'keras', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(root / "features/small")], check=True)


def test_tensors_share_their_memory_where_pytorch_is(monkeypatch):
    made = []
    torch = types.SimpleNamespace(from_numpy=lambda array: made.append(array) or len(made))
    monkeypatch.setitem(sys.modules, "torch", torch)
    rows, labels = np.zeros((2, 3), np.float32), np.zeros(2, np.int64)
    assert loaders.tensors(rows, labels) == (1, 2)
    assert made[0] is rows
    assert made[1] is labels


def test_tensorflow_gets_batches_epoch_by_epoch(features):
    dataset = features.to_tensorflow(size=16, shuffle=True, block=1)
    assert int(dataset.cardinality()) == 3
    passes = [drained((x.numpy(), y.numpy()) for x, y in dataset) for _ in range(2)]
    assert key(passes[0][0]) == key(passes[1][0]) == key(features.arrays()[0])
    assert (passes[0][0] != passes[1][0]).any()
    assert dataset.element_spec[0].shape == (None, 2, 3)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_pytorch_itself_takes_both(features, workers):
    """Its wheel is too large for the lock; without it the tests above follow its contract."""
    data = pytest.importorskip("torch.utils.data", reason="PyTorch is not installed")
    rows, labels = features.arrays()
    dataset = features.to_torch()
    options = {"num_workers": workers, "multiprocessing_context": "fork" if workers else None}
    fast = data.DataLoader(dataset, 16, collate_fn=dataset.collate, **options)
    for loader in (fast, data.DataLoader(dataset, 16, **options)):
        x, y = drained((x.numpy(), y.numpy()) for x, y in loader)
        assert (x == rows).all()
        assert y.tolist() == labels.tolist()
    batches = features.to_torch_batches(size=4, shuffle=True, block=1)
    loader = data.DataLoader(batches, batch_size=None, **options)
    assert len(loader) == 10
    passes = [drained((x.numpy(), y.numpy()) for x, y in loader)[0] for _ in range(2)]
    assert key(passes[0]) == key(passes[1]) == key(rows)
    assert (passes[0] != passes[1]).any()
