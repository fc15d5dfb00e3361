import numpy as np

from cryobase.store import FeatureSet
from tests.unit.store.samples import features, published


def test_a_dask_array_gives_the_same_rows(tmp_path):
    opened = FeatureSet.open(published(tmp_path, range(20)))
    array = opened.to_dask(chunk=7)
    assert (array.shape, array.dtype, array.numblocks) == ((20, 5), np.float32, (3, 1))
    assert (array.compute(scheduler="synchronous") == features(range(20))).all()
    chosen = opened.to_dask([b"00007.jpg", b"00002.jpg"])
    assert (chosen.compute(scheduler="synchronous") == features([7, 2])).all()
    assert opened.to_dask([]).shape == (0, 5)


def test_nothing_is_read_before_compute(tmp_path, monkeypatch):
    opened = FeatureSet.open(published(tmp_path, range(20)))
    reads = []
    monkeypatch.setattr(type(opened), "arrays", lambda *args: reads.append(args))
    opened.to_dask()
    assert reads == []
