import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from store import FeatureSet, IntegrityError, Pool, StorageError, ring
from store.ring import ENTRIES, thread_ring
from tests.unit.store.samples import examples, fill, spec

ROWS, WIDTH = 3000, 700


@pytest.fixture
def table(tmp_path):
    pool = fill(Pool(tmp_path / "pool", spec()), range(1500), shape=(WIDTH,))
    fill(pool, range(ROWS), shape=(WIDTH,))
    pool.publish(tmp_path / "set", examples(range(ROWS)))
    return FeatureSet.open(tmp_path / "set").table


@pytest.fixture
def mine():
    if thread_ring() is None:
        pytest.skip("io_uring is not there, or forbidden")
    return thread_ring()


def shuffled(count=ROWS):
    return np.random.default_rng(0).permutation(ROWS)[:count]


def read(mine, table, positions):
    """The rows at `positions`, if the ring did it alone."""
    rows = np.empty((len(positions), WIDTH), np.float32)
    (runs,) = table._runs(positions, len(positions))
    return rows if mine.read(*runs, rows) else None


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


PROGRAM = """
import sys
from pathlib import Path
from store import FeatureSet
from tests.unit.store import test_ring
getattr(test_ring, sys.argv[1])(FeatureSet.open(Path(sys.argv[2])).table)
"""


def run_alone(check, table):
    """Run `check` in a new process, whose only thread gets all of its signals.

    Where there are others, one may wake with a signal when its handler is no longer in place.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, check.__name__, table.shards[0].path.parent],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_more_rows_than_the_ring_has_entries(mine, table):
    assert ENTRIES < ROWS
    for _ in range(3):  # the counters go on, the entries come round again
        assert (read(mine, table, shuffled()) == table.take(np.arange(ROWS))[shuffled()]).all()


def test_scattered_rows_take_this_way_and_runs_do_not(mine, table, monkeypatch):
    taken = []
    monkeypatch.setattr(ring.Ring, "read", lambda self, *runs: taken.append(runs) or False)
    table.take(np.arange(100))
    assert taken == []
    expected = table.take(np.arange(100))[::-1]
    assert (table.take(np.arange(100)[::-1].copy()) == expected).all()  # and back to `preadv`
    assert len(taken) == 1


@pytest.mark.parametrize("forbidden", [ring._SETUP, ring._ENTER])
def test_where_it_is_forbidden_preadv_reads_the_same(table, monkeypatch, forbidden):
    expected, call, asked = table.take(np.arange(ROWS))[shuffled()], ring._call, []

    def refuse(number, *arguments):
        asked.append(number)
        if number == forbidden:
            raise PermissionError(1, "forbidden, as in many containers")
        return call(number, *arguments)

    monkeypatch.setattr(ring, "_call", refuse)
    found = np.concatenate(list(table.batches([shuffled()], 256)))  # in threads, so with new rings
    assert (found == expected).all()
    assert asked.count(ring._SETUP) <= 2  # once a thread


@pytest.mark.fault(35)
def test_a_file_cut_while_it_is_read_is_an_error_and_no_signal(mine, table):
    path = table.shards[0].path
    path.chmod(0o644)
    os.truncate(path, 10_000)
    assert read(mine, table, shuffled()) is None
    with pytest.raises(IntegrityError, match=path.name):
        table.take(shuffled())


def test_a_forked_process_gets_a_ring_of_its_own(mine, table):
    expected = read(mine, table, shuffled(600))

    def its_own():
        other = thread_ring()
        return other is not mine and (read(other, table, shuffled(600)) == expected).all()

    assert holds_in_child(its_own)
    assert (read(mine, table, shuffled(600)) == expected).all()


def test_a_process_forked_while_a_thread_reads_can_read(table):
    with table._lock:  # as a thread that begins to read would
        assert holds_in_child(lambda: len(table.take(shuffled(600))) == 600)


def signals_while_it_reads(table):
    expected, mine = table.take(np.arange(ROWS))[shuffled()], thread_ring()
    assert (read(mine, table, shuffled()) == expected).all()
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    for _ in range(30):
        found = read(mine, table, shuffled())
        assert found is not None, np.unique(mine._cqes["result"])
        assert (found == expected).all()
    signal.setitimer(signal.ITIMER_REAL, 0)


def exceptions_while_it_reads(table):
    class AlarmError(Exception):
        pass

    def ring_the_bell(*_):
        raise AlarmError

    expected, mine, caught = table.take(np.arange(ROWS))[shuffled()], thread_ring(), 0
    signal.signal(signal.SIGALRM, ring_the_bell)
    for number in range(200):
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-4 * (1 + number % 40))
            read(mine, table, shuffled())
            signal.setitimer(signal.ITIMER_REAL, 0)
        except AlarmError:
            caught += 1
    assert caught
    found = read(mine, table, shuffled())
    assert found is not None, np.unique(mine._cqes["result"])
    assert (found == expected).all()


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("check", [signals_while_it_reads, exceptions_while_it_reads])
def test_signals_change_nothing(table, check):
    run_alone(check, table)


def test_an_exception_while_a_ring_is_made_leaves_none(mine, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    def of_another_thread():
        with monkeypatch.context() as patch:
            patch.setattr(ring, "_call", interrupt)
            with pytest.raises(KeyboardInterrupt):
                thread_ring()
        return thread_ring()

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(of_another_thread).result() not in (None, mine)


def test_reads_that_an_exception_kept_from_the_kernel_are_dropped(mine, table):
    """Their files may be closed by then, and their numbers a pipe's, which would never answer."""
    expected = table.take(np.arange(ROWS))[shuffled()]
    end, other = os.pipe()
    try:
        entry = int(mine._asked[0]) % ENTRIES
        mine._sqes["fd"][entry], mine._sqes["length"][entry] = end, 8
        mine._asked[0] += 1
        assert (read(mine, table, shuffled()) == expected).all()
    finally:
        os.close(end)
        os.close(other)


def test_threads_that_read_at_once_each_have_their_own(table, mine):
    expected = table.take(np.arange(ROWS))[shuffled()]

    def work(_):
        return thread_ring(), np.concatenate(list(table.batches([shuffled()], 64)))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(8)))
    assert all((rows == expected).all() for _, rows in found)
    assert mine not in [each for each, _ in found]


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
