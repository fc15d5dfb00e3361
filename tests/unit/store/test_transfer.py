import pytest

from cryobase.store import ConflictError, FeatureSet, IntegrityError, StoreNotFoundError, import_set
from tests.unit.store.samples import features, published, spec


def test_a_received_set_is_copied(tmp_path):
    source = published(tmp_path, range(20))
    (source / "evil.sh").write_text("not to be copied")
    imported = import_set(source, tmp_path / "mine")
    assert (imported.arrays()[0] == features(range(20))).all()
    assert imported.digest == FeatureSet.open(source).digest
    assert not (tmp_path / "mine" / "evil.sh").exists()
    for path in (tmp_path / "mine").iterdir():
        assert not path.samefile(source / path.name)


@pytest.mark.fault(25)
def test_of_an_altered_set_nothing_is_kept(tmp_path):
    source = published(tmp_path)
    path = FeatureSet.open(source).table.shards[1].path
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1] + b"x")
    with pytest.raises(IntegrityError, match=path.name):
        import_set(source, tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_neither_pools_nor_sets_of_the_same_name_are_touched(tmp_path):
    source = published(tmp_path)
    with pytest.raises(ConflictError, match="another name"):
        import_set(source, source)
    with pytest.raises(StoreNotFoundError, match="not a feature set"):
        import_set(tmp_path / "pool" / spec().fingerprint, tmp_path / "mine")
