"""TensorFlow Datasets as a source: really built ones, prepared directories, and mocked names."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cryobase.stages.data.pixels import decode
from cryobase.stages.data.png import encode_png
from cryobase.stages.data.raw import RawImages
from cryobase.stages.download import DownloadConfig, run
from cryobase.stages.errors import ConfigError, DataError, NetworkError
from cryobase.stages.sources import network
from tests.unit.stages.sources.test_fetch import good, server, silent  # noqa: F401 - fixtures

tfds = pytest.importorskip("tensorflow_datasets")

pytestmark = [
    pytest.mark.filterwarnings("ignore:::tensorflow_datasets.*"),
    pytest.mark.filterwarnings("ignore:::etils.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(data_dir, directory of one version) of both datasets, by name."""
    from tests.unit.stages.sources.flowers_dataset import MadeArrays, MadeFlowers

    data_dir = tmp_path_factory.mktemp("tfds")
    builders = [made(data_dir=data_dir) for made in (MadeFlowers, MadeArrays)]
    for builder in builders:
        builder.download_and_prepare()
    return data_dir, {builder.name: str(builder.data_path) for builder in builders}


def fetch(output, **options):
    run(DownloadConfig(source="tfds", **options), output=output)
    return RawImages.open(output)


def test_a_built_dataset_by_name_keeps_bytes_names_labels_and_parts(prepared, tmp_path):
    from tests.unit.stages.sources.flowers_dataset import PER_SPLIT, jpeg

    images = fetch(tmp_path, name="made_flowers", data_dir=str(prepared[0]))
    assert images.examples.classes == ("tulip", "daisy"), "in the dataset's order"
    expected = {
        f"{split}/{['tulip', 'daisy'][n % 2]}/{split}_{n}.jpg": jpeg(split, n)
        for split, count in PER_SPLIT.items() for n in range(count)
    }  # fmt: skip
    found = {
        identifier.decode(): images.read(position)
        for position, identifier in enumerate(images.examples.ids)
    }
    assert found == expected
    for identifier, part, label in zip(
        images.examples.ids, images.parts, images.examples.labels, strict=True
    ):
        assert identifier.startswith(part + b"/" + images.examples.classes[label].encode())


def test_split_expressions(prepared, tmp_path):
    splits = {"train": "train[:50%]", "validation": "train[50%:75%]", "test": "test"}
    images = fetch(tmp_path, data_dir=prepared[1]["made_flowers"], splits=splits)
    parts, counts = np.unique(images.parts, return_counts=True)
    assert dict(zip(parts.tolist(), counts.tolist(), strict=True)) == {
        b"train": 4, b"validation": 2, b"test": 4,
    }  # fmt: skip
    together = fetch(
        tmp_path / "all", data_dir=prepared[1]["made_flowers"], splits={"all": "train+test"}
    )
    assert len(together) == 12
    assert set(together.parts.tolist()) == {b""}


def test_raw_arrays_become_png_once_and_copies_get_ids_of_their_own(prepared, tmp_path, caplog):
    images = fetch(tmp_path, data_dir=prepared[1]["made_arrays"], label="kind")
    assert len(images) == 8, "one of nine has no label"
    assert "left out: no label: 1 (" in caplog.text
    assert len(images.index.digest) == 7, "two of them are the same image"
    for position in range(8):
        pixels = decode(images.read(position))
        assert images.read(position) == encode_png(pixels)
    copies = [identifier for identifier in images.examples.ids if identifier.endswith(b"~2")]
    assert len(copies) == 1
    assert set(images.parts.tolist()) == {b""}, "a lone split is no split"


def test_the_same_again_decodes_nothing(prepared, tmp_path):
    options = {"source": "tfds", "data_dir": prepared[1]["made_flowers"]}
    assert run(DownloadConfig(**options), output=tmp_path).new == 12
    assert run(DownloadConfig(**options), output=tmp_path).new == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "tf_flower"}, "'tf_flower'; names like it: tf_flowers"),
        ({"name": "qqqq"}, "names like it: none"),
        ({"data_dir": "/nowhere"}, "nowhere"),
        ({"data_dir": "made_arrays"}, "set download.label"),
        ({"data_dir": "made_arrays", "label": "colour"}, "'kind', 'side'"),
        ({"data_dir": "made_flowers", "splits": {"train": "dev"}}, "known: .*train"),
    ],
)
def test_what_cannot_be_read_is_an_error_in_one_line(prepared, tmp_path, options, message):
    directory = prepared[1].get(options.get("data_dir"))
    options |= {"data_dir": directory} if directory else {}
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        fetch(tmp_path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "classes"), [("cats_vs_dogs", 2), ("tf_flowers", 5)])
def test_datasets_that_people_use_by_name(tmp_path, name, classes):
    with tfds.testing.mock_data(num_examples=20):
        images = fetch(tmp_path, name=name, data_dir=str(tmp_path))
    assert len(images) == 20
    assert len(images.examples.classes) == classes
    assert not images.examples.quarantined.any()
    for position in range(20):
        data = images.read(position)
        assert decode(data).shape[2] == 3
        assert hashlib.sha256(data).digest() == images.examples.digests[position].tobytes()


@pytest.mark.fault(59)
@pytest.mark.parametrize(
    ("answer", "kind"),
    [(404, DataError), (403, DataError), (500, NetworkError), (503, NetworkError),
     ("silent", NetworkError), ("refused", NetworkError), ("unknown", NetworkError),
     ("proxy", NetworkError), ("cut", NetworkError)],
)  # fmt: skip
def test_a_server_or_network_that_fails_is_one_line(
    server, silent, tmp_path, monkeypatch, answer, kind  # noqa: F811
):  # fmt: skip
    from tests.unit.stages.sources.flowers_dataset import MadeRemote

    monkeypatch.setattr(network, "SILENCE", 0.2)
    monkeypatch.setattr(network, "RETRIES", network.RETRIES.new(backoff_factor=0))
    address = {
        "silent": silent, "refused": "http://127.0.0.1:9/x", "unknown": "http://localhost.invalid/x",
        "proxy": "http://example.invalid/x",
    }.get(answer, server.url)  # fmt: skip
    if answer == "proxy":
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.behaviours = [lambda handler: handler.head(answer, 0)]
    if answer == "cut":
        server.behaviours = [lambda handler: good(handler, until=1000)]
    # more than there are threads: what waits in the queue must fail at once, too
    monkeypatch.setattr(
        MadeRemote,
        "urls",
        [f"{address}?{number}" for number in range(2 if answer == "cut" else 60)],
    )
    with pytest.raises(kind, match="tfds made_remote: ") as caught:
        fetch(tmp_path / "raw", name="made_remote", data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)
    assert ("check the network" in str(caught.value)) == (kind is NetworkError)
    assert network.HTTPAdapter.send is not network._send
    with network.bounded():
        pass
    assert network.HTTPAdapter.send is network._send


def test_requests_of_others_go_on_after_a_failure(server):  # noqa: F811
    with pytest.raises(ZeroDivisionError), network.bounded():
        raise ZeroDivisionError
    server.behaviours = [good]
    assert network.requests.get(server.url).status_code == 200
    with ThreadPoolExecutor(1) as later:  # a thread that begins afterwards is nobody's
        answers = list(later.map(network.requests.get, [server.url] * 3))
    assert [answer.status_code for answer in answers] == [200] * 3
