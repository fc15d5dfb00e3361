"""Rows read from many places, by several threads, while files are cut or closed."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cryobase.store import FeatureSet, IntegrityError, Pool, StorageError
from tests.unit.store.samples import examples, fill, spec

ROWS, WIDTH = 1000, 700


@pytest.fixture
def table(tmp_path):
    pool = fill(Pool(tmp_path / "pool", spec()), range(500), shape=(WIDTH,))
    fill(pool, range(ROWS), shape=(WIDTH,))
    pool.publish(tmp_path / "set", examples(range(ROWS)))
    with FeatureSet.open(tmp_path / "set") as opened:
        yield opened.table


def shuffled(count=ROWS):
    return np.random.default_rng(0).permutation(ROWS)[:count]


def holds_in_child(check):
    """Whether `check` holds in a forked process."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    code = 1
    try:
        signal.alarm(30)
        code = 0 if check() else 1
    finally:
        os._exit(code)


def test_scattered_rows_are_those_of_their_numbers(table):
    in_order = np.concatenate([table.take(np.arange(n, n + 1)) for n in range(ROWS)])
    assert len(np.unique(in_order, axis=0)) == ROWS
    assert (table.take(shuffled()) == in_order[shuffled()]).all()
    assert (table.take(np.arange(ROWS)) == in_order).all()


@pytest.mark.fault(35)
def test_a_file_cut_while_scattered_rows_are_read_is_an_error_and_no_signal(table):
    path = table.shards[0].path
    path.chmod(0o644)
    os.truncate(path, 10_000)
    with pytest.raises(IntegrityError, match=path.name):
        table.take(shuffled())


def test_a_short_read_is_gone_on_with(table, monkeypatch):
    expected, read = table.take(shuffled()), os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: read(fd, [parts[0][:999]], at))
    assert (table.take(shuffled()) == expected).all()


def test_a_process_forked_while_a_thread_reads_can_read(table):
    with table._lock:  # as a thread that begins to read would
        assert holds_in_child(lambda: len(table.take(shuffled(600))) == 600)


def test_threads_that_read_at_once_do_not_disturb_each_other(table):
    expected = table.take(np.arange(ROWS))[shuffled()]

    def work(_):
        return np.concatenate(list(table.batches([shuffled()], 64)))

    with ThreadPoolExecutor(4) as pool:
        assert all((rows == expected).all() for rows in pool.map(work, range(8)))


def test_files_closed_while_batches_are_read_ahead_give_an_error_and_no_rows(table):
    batches = table.batches([np.resize(shuffled(), 100_000)], 256)
    next(batches)
    closer = threading.Thread(target=table.close)
    closer.start()
    with pytest.raises(StorageError, match="closed"):
        for _ in batches:
            pass
    closer.join()
    assert [shard.descriptor for shard in table.shards] == [-1, -1]


def test_files_are_closed_only_after_the_last_thread_has_read_in_them(table):
    """A number that is another file's by then could give other rows, or block for ever."""
    with table._held_open():
        table.close()
        assert all(shard.descriptor >= 0 for shard in table.shards)
    assert all(shard.descriptor < 0 for shard in table.shards)
    with pytest.raises(StorageError, match="closed"):
        table.take(shuffled())
