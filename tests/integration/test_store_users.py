"""A pool shared by several Unix users: group permissions, and copies where links are forbidden."""

import os
import stat
import traceback
from pathlib import Path

import pytest

from cryobase.store import FeatureSet, Pool, StorageError
from cryobase.store.pool_files import ELSEWHERE
from tests.unit.store.samples import digests, examples, features, fill, spec

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root to become other users")

TEAM, ANNE, BOB, MALLORY = 54000, 54001, 54002, 54003


def as_user(user, group, work):
    """Run `work` in a child as another user."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(group)
            os.setuid(user)
            os.umask(0o022)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.fixture
def shared(quick_path):
    os.chmod(quick_path, 0o755)
    root = quick_path / "team"
    root.mkdir()
    os.chown(root, 0, TEAM)
    os.chmod(root, 0o2770)
    for user in (ANNE, BOB):
        (quick_path / str(user)).mkdir()
        os.chown(quick_path / str(user), user, TEAM)
    return root


@pytest.mark.fault(49)
def test_a_team_shares_a_pool(shared, quick_path):
    def anne():
        fill(Pool(shared / "pool", spec()), range(10))

    def bob():
        pool = Pool(shared / "pool", spec())
        assert len(pool.missing(digests(range(15)))[0]) == 5
        fill(pool, range(10, 15))
        pool.publish(quick_path / str(BOB) / "set", examples(range(15)))
        pool.sweep(lease=-1)

    as_user(ANNE, TEAM, anne)
    as_user(BOB, TEAM, bob)
    as_user(ANNE, TEAM, lambda: fill(Pool(shared / "pool", spec()), range(20)))
    opened = FeatureSet.open(quick_path / str(BOB) / "set", full=True)
    assert (opened.arrays()[0] == features(range(15))).all()
    for path in (shared / "pool").rglob("*"):
        assert path.stat().st_gid == TEAM
        assert not path.stat().st_mode & stat.S_IRWXO


@pytest.mark.skipif(
    not Path("/proc/sys/fs/protected_hardlinks").exists()
    or Path("/proc/sys/fs/protected_hardlinks").read_text().strip() != "1",
    reason="needs fs.protected_hardlinks",
)
def test_files_of_another_user_are_copied(shared, quick_path):
    as_user(ANNE, TEAM, lambda: fill(Pool(shared / "pool", spec()), range(10)))

    def bob():
        directory = quick_path / str(BOB) / "set"
        pool = Pool(shared / "pool", spec())
        (shard,) = pool.publish(directory, examples(range(10))).shards
        assert not (directory / shard.name).samefile(pool.directory / shard.name)
        inode = (directory / shard.name).stat().st_ino
        pool.publish(directory, examples(range(10)))
        assert (directory / shard.name).stat().st_ino == inode

    as_user(BOB, TEAM, bob)
    assert len(FeatureSet.open(quick_path / str(BOB) / "set", full=True)) == 10


@pytest.mark.fault(49)
def test_others_are_kept_out_and_nothing_changes(shared, quick_path):
    as_user(ANNE, TEAM, lambda: fill(Pool(shared / "pool", spec()), range(10)))

    def mallory():
        with pytest.raises(StorageError):
            fill(Pool(shared / "pool", spec()), range(20))

    as_user(MALLORY, MALLORY, mallory)
    assert len(Pool(shared / "pool", spec())) == 10


@pytest.mark.fault(49)
def test_a_directory_that_may_not_be_written(quick_path):
    pool = fill(Pool(quick_path / "pool", spec()), range(10))
    target = quick_path / "set"
    target.mkdir(mode=0o555)

    def work():
        with pytest.raises(StorageError):
            fill(Pool(quick_path / "pool", spec()), range(20))
        for root in (quick_path / "new", target / "pool" / "of all"):
            with pytest.raises(StorageError) as refusal:
                Pool(root, spec()).make_root()
            first = root if root.name == "new" else root.parent
            assert str(refusal.value) == f"{first}: permission denied; {ELSEWHERE}"

    os.chmod(quick_path, 0o755)
    as_user(MALLORY, MALLORY, work)
    assert len(pool) == 10


@pytest.mark.fault(49)
def test_a_lender_with_a_torn_manifest_lends_nothing(quick_path):
    lender = fill(Pool(quick_path / "lender", spec()), range(10))
    (manifest,) = lender.directory.glob("manifest-*")
    manifest.unlink()
    manifest.write_text("{}")
    pool = Pool(quick_path / "pool", spec())
    assert pool.plan(digests(range(15)), lender=lender).existing == 0
    assert pool.borrow(lender, digests(range(15))) == 0


@pytest.mark.fault(49)
@pytest.mark.parametrize("damaged", [False, True])
def test_a_pool_that_may_only_be_read_lends_its_rows(quick_path, damaged):
    lender = fill(Pool(quick_path / "lender", spec()), range(10))
    (shard,) = lender.directory.glob("shard-*")
    if damaged:
        data = shard.read_bytes()
        shard.chmod(0o644)
        shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.chmod(quick_path, 0o755)
    own = quick_path / str(MALLORY)
    own.mkdir()
    os.chown(own, MALLORY, MALLORY)
    before = {path: path.stat().st_ctime_ns for path in lender.root.rglob("*")}

    def mallory():
        pool = Pool(own / "pool", spec())
        assert pool.borrow(Pool(lender.root, spec()), digests(range(15))) == (0 if damaged else 10)
        fill(pool, range(15))
        pool.publish(own / "set", examples(range(15)))

    as_user(MALLORY, MALLORY, mallory)
    found = FeatureSet.open(own / "set", full=True)
    assert (found.arrays()[0] == features(range(15))).all()
    if Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "1":
        assert before == {path: path.stat().st_ctime_ns for path in lender.root.rglob("*")}
