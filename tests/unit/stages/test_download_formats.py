"""New formats from a folder to data/raw; reasons that no longer hold; what is dark."""

import tarfile
from dataclasses import replace

import numpy as np
import pytest

from cryobase.stages.data import decoding, index
from cryobase.stages.data.pixels import decode
from cryobase.stages.data.png import encode_png
from cryobase.stages.data.raw import RawImages
from cryobase.stages.download import DownloadConfig, DownloadSummary, run
from tests.unit.stages.data.test_decoding import encoded, photo
from tests.unit.stages.data.test_formats import heic

DARK = encode_png(np.full((4, 5, 1), 4_095, np.uint16))


def fetch(root, contents, **options):
    for name, data in contents.items():
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    config = DownloadConfig(source="folder", path=str(root / "images"), **options)
    return run(config, output=root / "raw")


@pytest.mark.parametrize("in_place", [False, True])
def test_tiff_avif_and_heic_are_images_like_others(tmp_path, in_place):
    contents = {
        "a/1.TIF": encoded(photo(20, 30), "TIFF"),
        "a/2.avif": encoded(photo(22, 31), "AVIF"),
        "b/3.HEIC": heic(photo(24, 32)),
        "b/4.jpg": heic(photo(26, 33)),  # as phones and messengers name them
    }
    assert fetch(tmp_path, contents, in_place=in_place) == DownloadSummary(4, 2, 4, 0)
    images = RawImages.open(tmp_path / "raw")
    assert (images.index.height.tolist(), images.index.width.tolist()) == (
        [20, 22, 24, 26], [30, 31, 32, 33],
    )  # fmt: skip
    for position, data in enumerate(contents.values()):
        assert images.read(position) == data
        assert decode(images.read(position)).shape[0] == images.index.height[position]
    extensions = []
    for pack in (tmp_path / "raw").glob("*.tar"):
        with tarfile.open(pack) as opened:
            extensions += [name.partition(".")[2] for name in opened.getnames()]
    assert extensions == ([] if in_place else ["tiff", "avif", "heic", "heic"])


@pytest.mark.parametrize("in_place", [False, True])
def test_a_heic_without_the_extra_is_quarantined_until_it_is_there(
    tmp_path, monkeypatch, caplog, in_place
):
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "pillow_heif.py").write_text("raise ImportError")
    contents = {"a/1.heic": heic(photo(9, 8)), "b/2.png": encoded(photo(9, 8), "PNG")}
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path / "shadow")  # the decoders' processes have it too
        assert fetch(tmp_path, contents, in_place=in_place).quarantined == 1
    assert "pip install 'cryobase[heif]'" in caplog.text
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "find_spec", lambda name: None)
        assert fetch(tmp_path, {}, in_place=in_place) == DownloadSummary(2, 2, 0, 1)
    assert fetch(tmp_path, {}, in_place=in_place) == DownloadSummary(2, 2, 1, 0)


@pytest.mark.parametrize("reason", sorted(decoding.READ_SINCE))
def test_what_an_older_version_did_not_read_is_tried_again(tmp_path, reason):
    raw = tmp_path / "raw"
    fetch(tmp_path, {"a/1.tif": b"words", "b/2.png": encoded(photo(9, 8), "PNG")})
    old = index.read(raw)
    index.write(raw, replace(
        index.Index.empty(),
        **{name: getattr(old, name) for name in index.COLUMNS},
        classes=old.classes, packs=old.packs, reasons=("", reason),
    ))  # fmt: skip
    assert RawImages.open(raw).reasons.tolist() == [reason, ""]
    assert fetch(tmp_path, {}) == DownloadSummary(2, 2, 1, 1)
    assert RawImages.open(raw).reasons.tolist() == ["text, not an image", ""]
    assert fetch(tmp_path, {}).new == 0


def test_dark_images_are_counted_in_one_line(tmp_path, caplog):
    more = {f"b/{n}.png": encode_png(np.full((4, 5, 3), n, np.uint16)) for n in range(1, 12)}
    fetch(tmp_path, {"a/scan.png": DARK, "a/photo.png": encoded(photo(9, 8), "PNG")} | more)
    (line,) = [line for line in caplog.messages if "look wrong" in line]
    assert f"{decoding.DARK}: 12 (a/scan.png, …)" in line
    assert len(RawImages.open(tmp_path / "raw")) == 13
