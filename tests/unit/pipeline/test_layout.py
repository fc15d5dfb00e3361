"""Where caches lie: shared by every experiment of a checkout."""

from pipeline.layout import Layout


def test_the_pool_lies_at_the_git_root(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("CRYOBASE_POOL", raising=False)
    (tmp_path / ".git").mkdir()
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert Layout.here().pool == tmp_path / ".cryobase" / "pool"
    assert Layout.here().raw == inner / "data" / "raw"


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
