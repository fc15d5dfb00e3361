import os

import numpy as np
import pytest

from store import FeatureSet, IntegrityError, Pool
from store.scatter import SUPPORTED, Scatter
from tests.unit.store.samples import examples, fill, spec

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="needs memory files, which Linux has")


@pytest.fixture
def table(tmp_path):
    pool = fill(Pool(tmp_path / "pool", spec()), range(1500), shape=(700,))
    fill(pool, range(3000), shape=(700,))
    pool.publish(tmp_path / "set", examples(range(3000)))
    return FeatureSet.open(tmp_path / "set").table


def scattered(table, positions):
    """The rows at `positions`, if `Scatter` did it alone."""
    rows = np.empty((len(positions), 700), np.float32)
    (runs,) = table._runs(positions, len(positions))
    return rows if Scatter(table.shards).read(*runs, rows) else None


def test_more_rows_than_a_call_or_the_buffer_takes(table):
    positions = np.random.default_rng(0).permutation(3000)
    assert (scattered(table, positions) == table.take(np.arange(3000))[positions]).all()


def test_scattered_rows_take_this_way_and_runs_do_not(table, monkeypatch):
    taken = []
    monkeypatch.setattr(Scatter, "read", lambda self, *runs: taken.append(runs) or False)
    table.take(np.arange(100))
    assert taken == []
    expected = table.take(np.arange(100))[::-1]
    assert (table.take(np.arange(100)[::-1].copy()) == expected).all()  # and back to `preadv`
    assert len(taken) == 1


@pytest.mark.fault(35)
def test_a_file_cut_while_it_is_mapped_is_an_error_and_no_signal(table):
    positions = np.random.default_rng(0).permutation(3000)
    scatter = Scatter(table.shards)
    path = table.shards[0].path
    path.chmod(0o644)
    os.truncate(path, 10_000)
    (runs,) = table._runs(positions, len(positions))
    assert not scatter.read(*runs, np.empty((3000, 700), np.float32))
    with pytest.raises(IntegrityError, match=path.name):
        table.take(positions)


def test_a_forked_process_gets_its_own_memory(table):
    positions = np.random.default_rng(0).permutation(3000)[:600]
    scatter = Scatter(table.shards)
    (runs,) = table._runs(positions, 600)
    rows = np.empty((600, 700), np.float32)
    scatter.read(*runs, rows)
    before = os.fstat(scatter._memory()).st_ino
    pid = os.fork()
    if pid == 0:
        os._exit(os.fstat(scatter._memory()).st_ino == before)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
