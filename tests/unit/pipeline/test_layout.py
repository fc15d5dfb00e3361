"""Where caches lie: shared by every experiment of a checkout."""

import os

import pytest

from cryobase.pipeline.layout import Layout
from cryobase.pipeline.params import ParamsError


def test_the_pool_lies_at_the_git_root(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("CRYOBASE_POOL", raising=False)
    (tmp_path / ".git").mkdir()
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert Layout.here().pool == tmp_path / ".cryobase" / "pool"
    assert Layout.here().raw == inner / "data" / "raw"


def test_by_hand_the_pool_lies_where_dvc_would_have_it(tmp_path, monkeypatch):
    """A DVC repository of a sub-folder is nearer than Git's; one around somebody's is not his."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("CRYOBASE_POOL", raising=False)
    for name in ("mono/.git", "mono/vision/.dvc", "mono/vision/cryobase", "mono/text"):
        (tmp_path / name).mkdir(parents=True)
    for folder, root in (("vision/cryobase", "vision"), ("vision", "vision"), ("text", ".")):
        monkeypatch.chdir(tmp_path / "mono" / folder)
        assert Layout.here().pool == tmp_path / "mono" / root / ".cryobase" / "pool"
    (tmp_path / ".dvc").mkdir()
    assert Layout.here().pool == tmp_path / "mono" / ".cryobase" / "pool"
    (tmp_path / "mono" / ".git").rmdir()
    assert Layout.here().pool == tmp_path / ".cryobase" / "pool"


def test_an_experiment_in_a_temporary_copy_shares_the_main_checkout(tmp_path, monkeypatch):
    monkeypatch.delenv("CRYOBASE_POOL", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "main"))
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Layout.here().pool == tmp_path / "main" / ".cryobase" / "pool"
    assert Layout.here().head_cache == tmp_path / "main" / ".cryobase" / "heads"


def test_a_team_can_put_the_pool_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYOBASE_POOL", str(tmp_path / "disk"))
    assert Layout.here().pool == tmp_path / "disk"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_pool_that_may_only_be_read_lends_and_new_rows_stay_here(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    disk = tmp_path / "disk"
    (disk / "fingerprint").mkdir(parents=True)
    monkeypatch.setenv("CRYOBASE_POOL", str(disk))
    for locked in (disk, disk / "fingerprint"):
        locked.chmod(0o555)
        here = Layout.here()
        assert (here.pool, here.lender) == (tmp_path / ".cryobase" / "pool", disk)
        locked.chmod(0o755)
    assert (Layout.here().pool, Layout.here().lender) == (disk, None)


def test_whether_a_pool_may_be_written_is_asked_of_it_and_of_each_pool_in_it(tmp_path, monkeypatch):
    """As the last test, but for root, who may write anywhere."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    disk = tmp_path / "disk"
    (disk / "fingerprint").mkdir(parents=True)
    monkeypatch.setenv("CRYOBASE_POOL", str(disk))
    for locked in (disk, disk / "fingerprint"):
        monkeypatch.setattr("os.access", lambda path, _mode, locked=locked: path != locked)
        here = Layout.here()
        assert (here.pool, here.lender) == (tmp_path / ".cryobase" / "pool", disk)


@pytest.mark.parametrize("name", ["file", "file/pool", "n" * 300, "deep/" * 900])
def test_a_pool_that_can_be_no_directory_is_refused_in_one_line(tmp_path, monkeypatch, name):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CRYOBASE_POOL", str(tmp_path / name))
    with pytest.raises(ParamsError, match="no directory; name one, or unset") as refusal:
        Layout.here()
    assert len(str(refusal.value)) < 500


def test_a_pool_that_is_not_there_and_cannot_be_made_lends_nothing(tmp_path, monkeypatch):
    """A pool that may only be read lends; the parent of one that is missing has nothing to lend."""
    monkeypatch.setenv("CRYOBASE_POOL", str(tmp_path / "mistyped" / "pool"))
    assert Layout.here().pool == tmp_path / "mistyped" / "pool"
    monkeypatch.setattr("os.access", lambda path, _mode: path != tmp_path)
    with pytest.raises(ParamsError, match="no directory; name one, or unset"):
        Layout.here()
