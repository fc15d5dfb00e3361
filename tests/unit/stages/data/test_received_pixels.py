"""Pixels that a child hands over are those of `pixels.load`, and a child is not believed."""

import signal
from contextlib import closing

import numpy as np
import pytest

from cryobase.stages.data import pixels, received_pixels
from cryobase.stages.data.isolation import IsolatedDecoder
from cryobase.stages.data.pixels import ASPECTS, RESIZES, PixelSpec, UndecodableImageError
from cryobase.stages.data.png import encode_png
from cryobase.stages.data.received_pixels import ReceivedPixels
from tests.unit.stages.data import faulty_decoder, faulty_pixels


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.setattr(received_pixels, "pixel_bytes", faulty_pixels.pixel_bytes)


def image(seed=0, height=5, width=9):
    return encode_png(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("aspect", ASPECTS)
def test_pixels_are_those_that_a_base_was_given(resize, aspect):
    spec = PixelSpec(image_size=7, resize=resize, aspect=aspect, decode="fast")
    with closing(ReceivedPixels(spec)) as received:
        for data in (image(0), image(1, 40, 3), image(2, 1, 1)):
            assert np.array_equal(received.load(data), pixels.load(data, spec))
        with pytest.raises(UndecodableImageError) as expected:
            pixels.load(image()[:50], spec)
        with pytest.raises(UndecodableImageError) as refusal:
            received.load(image()[:50])
        assert str(refusal.value) == str(expected.value)
        assert received.load(image()).dtype == np.float32


@pytest.mark.fault(8)
def test_a_crash_costs_one_image(faulty):
    with closing(ReceivedPixels(PixelSpec(image_size=4))) as received:
        before = received.load(image())
        with pytest.raises(UndecodableImageError, match=f"signal {signal.SIGSEGV.value}"):
            received.load(image() + b"crash")
        with pytest.raises(MemoryError):
            received.load(image() + b"memory")
        assert np.array_equal(received.load(image()), before)


@pytest.mark.fault(8)
@pytest.mark.parametrize("number", range(len(faulty_decoder.SAID)))
def test_a_child_that_was_taken_over_is_not_believed(faulty, number):
    order = b"say:%d" % number
    with closing(ReceivedPixels(PixelSpec(image_size=4))) as received:
        with pytest.raises(UndecodableImageError, match="the decoder crashed"):
            received.load(image() + order)
        assert received.load(image()).shape == (4, 4, 3)
    if len(faulty_decoder.SAID[number]) > 1 or number == TRUE_REMARK:
        return
    with closing(IsolatedDecoder(faulty_decoder.examine)) as decoder:
        ((reason, remark),) = decoder.examine([image() + order])
        assert (reason[:19], remark) == ("the decoder crashed", "")


TRUE_REMARK = faulty_decoder.SAID.index((b'[["", ""]]',))  # what a decoder that is sound may say


def test_a_child_imports_no_framework(monkeypatch):
    monkeypatch.setattr(received_pixels, "pixel_bytes", faulty_pixels.pixel_bytes)
    with (
        closing(ReceivedPixels(PixelSpec(image_size=4))) as received,
        pytest.raises(UndecodableImageError) as told,
    ):
        received.load(image() + b"modules")
    loaded = set(str(told.value).split())
    assert "cryobase.stages.data.pixels" in loaded
    assert loaded.isdisjoint({"tensorflow", "keras", "pydantic", "cryobase.pipeline"})
