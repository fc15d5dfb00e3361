"""Archives from disk and from a server, read as folders into data/raw."""

import hashlib
import logging

import pytest

from cryobase.stages.data import index
from cryobase.stages.data.raw import RawImages
from cryobase.stages.download import DownloadConfig, DownloadSummary, run
from cryobase.stages.errors import DataError
from tests.unit.stages.data.test_decoding import encoded, photo
from tests.unit.stages.sources.test_fetch import Handler, good, server  # noqa: F401 - a fixture
from tests.unit.stages.sources.test_unpack import tar_of, zip_of

FLOWERS = [
    (f"flower_photos/{label}/{number}.jpg", encoded(photo(20, 24, seed=number), "JPEG"))
    for number in range(6)
    for label in ("daisy", "tulip")
] + [("flower_photos/LICENSE.txt", b"CC-BY")]


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "data" / "raw"


@pytest.mark.parametrize("build", [tar_of, zip_of])
def test_a_local_archive_is_read_as_the_folder_it_wraps(tmp_path, raw, build):
    data = build(FLOWERS)
    path = tmp_path / "flowers"
    path.write_bytes(data)
    config = DownloadConfig(
        source="archive", path=str(path), sha256=hashlib.sha256(data).hexdigest()
    )
    assert run(config, output=raw) == DownloadSummary(12, 2, 6, 0)
    images = RawImages.open(raw)
    contents = dict(FLOWERS)
    for position, identifier in enumerate(images.examples.ids):
        assert images.read(position) == contents[f"flower_photos/{identifier.decode()}"]
    assert [path.name for path in raw.parent.iterdir()] == ["raw"], "nothing is left behind"


def test_an_archive_that_is_in_is_not_fetched_again(raw, server):  # noqa: F811
    data = tar_of(FLOWERS)
    server.behaviours = [lambda handler: good(handler, data)]
    sha256 = hashlib.sha256(data).hexdigest()
    options = {"source": "archive", "url": server.url, "sha256": sha256}
    run(DownloadConfig(**options), output=raw)
    assert run(DownloadConfig(**options), output=raw) == DownloadSummary(12, 2, 0, 0)
    assert len(server.requests) == 1
    by_name = run(DownloadConfig(**options, pattern="^([0-9]+)"), output=raw)
    assert by_name == DownloadSummary(12, 6, 0, 0), "other labels, the same images"
    next(raw.glob("*.tar")).unlink()
    assert run(DownloadConfig(**options), output=raw).new == 6


@pytest.mark.fault(14, 61)
def test_a_local_archive_must_be_pinned_and_match(tmp_path, raw):
    data = tar_of(FLOWERS)
    path = tmp_path / "flowers.tgz"
    path.write_bytes(data)
    value = hashlib.sha256(data).hexdigest()
    with pytest.raises(DataError, match=f"set download.sha256: {value}"):
        run(DownloadConfig(source="archive", path=str(path)), output=raw)
    with pytest.raises(DataError, match=value):
        run(DownloadConfig(source="archive", path=str(path), sha256="0" * 64), output=raw)
    with pytest.raises(DataError, match=r"missing\.tgz"):
        run(DownloadConfig(source="archive", path="missing.tgz", sha256=value), output=raw)
    assert not (raw / index.RECORD).exists()


@pytest.mark.fault(59)
def test_an_archive_from_a_server_that_breaks_off(tmp_path, raw, server, caplog):  # noqa: F811
    caplog.set_level(logging.INFO)
    data = tar_of(FLOWERS, "w")
    server.behaviours = [
        lambda handler: good(handler, data, until=9_000),
        lambda handler: good(handler, data),
    ]
    assert issubclass(server.RequestHandlerClass, Handler)
    config = DownloadConfig(
        source="archive", url=server.url, sha256=hashlib.sha256(data).hexdigest()
    )
    assert run(config, output=raw) == DownloadSummary(12, 2, 6, 0)
    assert server.requests[1]["Range"] == "bytes=9000-"
    assert "found 12 images of 2 classes" in caplog.text


@pytest.mark.fault(9)
def test_a_hostile_archive_changes_nothing(tmp_path, raw):
    good_data = tar_of(FLOWERS)
    path = tmp_path / "flowers.tgz"
    path.write_bytes(good_data)
    options = {"source": "archive", "path": str(path)}
    run(DownloadConfig(**options, sha256=hashlib.sha256(good_data).hexdigest()), output=raw)
    before = {file: file.read_bytes() for file in raw.rglob("*")}
    path.write_bytes(good_data[:-1])
    with pytest.raises(DataError, match=r"sha256 says"):
        run(DownloadConfig(**options, sha256=hashlib.sha256(good_data).hexdigest()), output=raw)
    hostile = tar_of([*FLOWERS, ("../../evil.jpg", b"x")])
    path.write_bytes(hostile)
    with pytest.raises(DataError, match="leads out"):
        run(DownloadConfig(**options, sha256=hashlib.sha256(hostile).hexdigest()), output=raw)
    assert {file: file.read_bytes() for file in raw.rglob("*")} == before
    assert not list(tmp_path.rglob("evil*"))
    assert not list(tmp_path.rglob("unpacked"))
