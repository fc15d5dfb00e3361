"""The flow from images to rows: order, failures, bounds, errors of every part."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryobase.stages.data.decoding import UndecodableImageError
from cryobase.stages.extraction.flow import DEPTH, Flow


class Sums:
    """An engine whose feature is the sum of the pixels."""

    name, streams, shapes = "sums", 2, [(1,)]

    def __init__(self, delay=lambda: None):
        self.delay, self.sizes = delay, []

    def __call__(self, batch):
        self.delay()
        self.sizes.append(len(batch))
        return [batch.sum(axis=(1, 2, 3))[:, None]]


def image(index):
    return np.full((2, 2, 3), index, np.float32)


def collect(flow):
    indices, features, failures = [], [], {}
    for batch in flow:
        indices += batch.indices.tolist()
        features += batch.features[0][:, 0].tolist() if len(batch.indices) else []
        failures |= batch.failures
    return indices, features, failures


def make(load=image, engine=None, count=100, **kwargs):
    settings = {"image_size": 2, "batch_size": 8, "threads": 3, **kwargs}
    return Flow(load, engine or Sums, count=count, **settings)


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(0, 70),
    batch_size=st.integers(1, 20),
    threads=st.integers(1, 4),
    bad=st.sets(st.integers(0, 69)),
)
def test_every_image_gives_its_own_row_in_order(count, batch_size, threads, bad):
    def load(index):
        if index in bad:
            raise UndecodableImageError(f"image {index}")
        return image(index)

    flow = make(load, count=count, batch_size=batch_size, threads=threads)
    indices, features, failures = collect(flow)
    assert indices == [index for index in range(count) if index not in bad]
    assert features == [12 * index for index in indices]
    assert failures == {index: f"image {index}" for index in range(count) if index in bad}


def test_without_a_good_image_no_engine_is_made():
    def load(index):
        raise UndecodableImageError("bad")

    assert collect(make(load, engine=lambda: pytest.fail("made"), count=20))[2].keys() == set(
        range(20)
    )


def test_one_engine_is_made_and_no_batch_is_larger_than_asked():
    made = []

    def engine():
        made.append(Sums(lambda: time.sleep(0.002)))
        return made[-1]

    collect(make(engine=engine, count=99))
    assert len(made) == 1
    assert sum(made[0].sizes) == 99
    assert max(made[0].sizes) == 8


@pytest.mark.fault(62)
def test_decoding_waits_for_a_slow_writer():
    loaded = []
    lock = threading.Lock()

    def load(index):
        with lock:
            loaded.append(index)
        return image(index)

    batches = iter(make(load, count=10_000))
    for _ in range(3):
        next(batches)
    time.sleep(0.1)
    assert len(loaded) <= 8 * (DEPTH + 3)
    batches.close()


@pytest.mark.parametrize("part", ["load", "make", "engine", "write"])
def test_an_error_of_any_part_ends_the_flow_and_its_threads(part):
    def load(index):
        if part == "load" and index == 50:
            raise OSError("load")
        return image(index)

    def fail():
        if part == "engine":
            raise OSError("engine")

    def engine():
        if part == "make":
            raise OSError("make")
        return Sums(fail)

    before = threading.active_count()

    def write():
        for batch in make(load, engine, count=1000):
            if part == "write" and batch.indices[0] > 40:
                raise OSError("write")

    with pytest.raises(OSError, match=part):
        write()
    assert threading.active_count() == before
