"""An image that crashes or stalls its decoder is quarantined, and nothing else happens."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from cryobase.stages.data import decoding, isolation
from cryobase.stages.data.isolation import IsolatedDecoder
from cryobase.stages.data.png import encode_png
from cryobase.stages.errors import StageError
from cryobase.stages.sources import ingest as ingest_module
from cryobase.stages.sources.ingest import Ingest
from cryobase.stages.sources.source import SourceExample
from tests.unit.stages.data import faulty_decoder


@pytest.fixture(autouse=True)
def faulty(monkeypatch):
    monkeypatch.setattr(decoding, "examine", faulty_decoder.examine)


@pytest.fixture
def started(monkeypatch):
    """The processes that were started."""
    found, original = [], subprocess.Popen

    def start(*arguments, **options):
        found.append(original(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(isolation.subprocess, "Popen", start)
    return found


def image(number, order=b""):
    """A PNG, and behind it what the decoder is to do."""
    return encode_png(np.full((3, 4, 3), number, np.uint8)) + order


class Images:
    """A source of images, some of which are orders to the decoder, and what comes after them."""

    classes = ("a",)

    def __init__(self, *orders, end=lambda: None):
        self.images = [image(number, order) for number, order in enumerate(orders)]
        self.end = end

    def examples(self):
        for number, data in enumerate(self.images):
            yield SourceExample(f"a/{number:03}.png", "a", None, data)
        self.end()


@pytest.fixture
def alone(monkeypatch):
    """No image waits for others to come."""
    monkeypatch.setattr(ingest_module, "GROUP", 1)


def ingest(directory, *orders, workers=2, **options):
    """(the reason of every image in order, the rows that were decoded)."""
    run = Ingest(directory, workers=workers)
    found = run.run(Images(*orders, **options))
    assert found.ids.tolist() == [b"a/%03d.png" % number for number in range(len(orders))]
    return [found.reasons[found.reason[row]] for row in found.images], run.decoded


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (b"crash", f"the decoder crashed (signal {signal.SIGSEGV.value})"),
        (b"stall", "the decoder took longer than 3 s"),
    ],
)
def test_only_the_image_that_ends_its_decoder_is_quarantined(
    tmp_path, monkeypatch, started, order, reason
):
    if order == b"stall":
        monkeypatch.setattr(isolation, "SECONDS", 3.0)  # a busy machine starts a decoder in two
    reasons, decoded = ingest(tmp_path, *[b""] * 3, order, *[b""] * 40, order, b"")
    assert reasons == ["", "", "", reason, *[""] * 40, reason, ""]
    assert decoded == 46
    assert len(started) <= 2 + 2 * 2
    assert all(process.returncode for process in started)


@pytest.mark.fault(8)
def test_a_child_that_is_killed_from_outside_costs_no_image(tmp_path):
    order = b"killed once:" + os.fsencode(tmp_path / "marker")
    assert ingest(tmp_path, b"", order, b"") == (["", "", ""], 3)
    assert (tmp_path / "marker").exists()


def test_what_is_undecodable_in_a_child_has_its_own_reason(tmp_path):
    cut = encode_png(np.zeros((90, 90, 3), np.uint8))[:60]
    with pytest.raises(decoding.UndecodableImageError) as here:
        faulty_decoder.real(cut)
    decoder = IsolatedDecoder(decoding.examine)
    try:
        assert decoder.examine([image(1), cut, image(2)]) == [
            ("", ""),
            (str(here.value), ""),
            ("", ""),
        ]
        with pytest.raises(MemoryError, match="decoding images of up to"):
            decoder.examine([image(1), image(1, b"memory")])
        assert decoder.examine([image(1)]) == [("", "")]
    finally:
        decoder.close()


def test_children_are_few_and_only_for_new_images_with_a_header(tmp_path, started):
    run = Ingest(tmp_path, workers=2)
    (tmp_path / "words").write_bytes(b"words, words, words")
    words = SourceExample("a/words.png", "a", None, tmp_path / "words")
    source = Images()
    source.examples = lambda: iter([words])
    assert run.run(source).reasons == ("", "text, not an image")
    assert started == []
    ingest(tmp_path, *[b""] * 60)
    assert 1 <= len(started) <= 2


def test_a_second_run_starts_no_child(tmp_path, started):
    from cryobase.stages.data import index

    run = Ingest(tmp_path, workers=2)
    index.write(tmp_path, run.run(Images(b"", b"crash", b"")))
    del started[:]
    reasons, decoded = ingest(tmp_path, b"", b"crash", b"")
    assert [bool(reason) for reason in reasons] == [False, True, False]
    assert (decoded, started) == (0, [])


def test_children_import_what_decoding_needs():
    decoder = IsolatedDecoder(decoding.examine)
    try:
        ((modules, _),) = decoder.examine([image(0, b"modules")])
    finally:
        decoder.close()
    loaded = set(modules.split())
    assert "cryobase.stages.data.decoding" in loaded
    assert loaded.isdisjoint({"tensorflow", "keras", "pydantic", "pytest"})
    assert loaded.isdisjoint({"cryobase.pipeline", "cryobase.store"})


def test_children_that_do_not_start_end_the_run_and_quarantine_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "examine", lambda data: data)
    with pytest.raises(StageError, match=r"does not start as a decoder.*\(.*exit status 1\)"):
        ingest(tmp_path, b"", b"")


@pytest.mark.fault(8)
@pytest.mark.parametrize("where", ["source", "index"])
def test_an_interrupted_run_waits_for_no_decoder(tmp_path, monkeypatch, started, alone, where):
    def interrupt(*_):
        while len(started) < 2:
            time.sleep(0.01)
        raise KeyboardInterrupt

    if where == "index":
        monkeypatch.setattr(Ingest, "_take", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ingest(tmp_path, b"", b"stall", b"stall", end=interrupt if where == "source" else int)
    assert all(process.returncode for process in started)


PROGRAM = """
import signal, sys
from pathlib import Path
from cryobase.stages.data import decoding, isolation
from cryobase.stages.sources import ingest
from tests.unit.stages.data import faulty_decoder, test_isolation
decoding.examine = faulty_decoder.examine
isolation.SECONDS = 6.0
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
ingest.GROUP = 1
def wait():
    print("waiting", flush=True)
    sys.stdin.read()
test_isolation.ingest(Path(sys.argv[1]), b"", b"", b"stall", b"", end=wait)
"""


@pytest.mark.fault(8)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_child_outlives_the_run(tmp_path, number):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as parent:  # fmt: skip
        assert parent.stdout.readline() == b"waiting\n"
        process = psutil.Process(parent.pid)
        while len(children := process.children()) < 2:
            time.sleep(0.01)
        parent.send_signal(number)
        parent.wait()
        _, alive = psutil.wait_procs(children, timeout=120)
    assert alive == []
