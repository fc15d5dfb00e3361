"""`predict` tries images out in a child: one that ends its decoder costs a line."""

import signal

import numpy as np
import pytest

from cryobase.pipeline import predictions
from cryobase.stages.backbones import labels
from cryobase.stages.data import decoding, pixels, received_pixels
from cryobase.stages.data.pixels import PixelSpec
from cryobase.stages.data.png import encode_png
from cryobase.stages.errors import DataError
from cryobase.stages.predict import Classifier
from tests.unit.stages.data import faulty_pixels

REASON = f"the decoder crashed (signal {signal.SIGSEGV.value})"


class Even:
    """A model that finds two classes equally likely."""

    @staticmethod
    def predict_on_batch(pixels):
        return np.full((len(pixels), 2), 0.5, np.float32)


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """A good image, one that ends its decoder, no image, and a good one."""
    monkeypatch.setattr(received_pixels, "pixel_bytes", faulty_pixels.pixel_bytes)
    good = encode_png(np.full((3, 4, 3), 7, np.uint8))
    found = []
    for number, data in enumerate((good, good + b"crash", b"no image", good)):
        found.append(tmp_path / f"{number}.png")
        found[-1].write_bytes(data)
    return found


@pytest.mark.fault(8)
def test_an_image_that_ends_its_decoder_has_a_reason_and_the_others_an_answer(paths):
    model = Classifier(Even(), ("a", "b"), PixelSpec(image_size=4))
    answers = list(model.predict(paths))
    assert [answer.path for answer in answers] == paths
    assert [answer.probabilities is None for answer in answers] == [False, True, True, False]
    assert answers[1].reason == REASON
    assert answers[2].reason


@pytest.mark.fault(8)
def test_a_base_is_not_asked_about_an_image_that_ends_its_decoder(paths, monkeypatch):
    monkeypatch.setattr(labels, "top_labels", lambda _name, found, top: [[]] * len(found))
    with pytest.raises(DataError) as refusal:
        predictions.of_backbone("efficientnet_lite0", paths[:2], top=1)
    assert str(refusal.value) == f"{paths[1]}: {REASON}"
    assert len(predictions.of_backbone("efficientnet_lite0", paths[:1], top=1).rows) == 1


@pytest.mark.fault(8)
def test_no_image_is_decoded_where_the_model_is(paths, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("decoded in the process itself")

    for name in ("load", "decode"):
        monkeypatch.setattr(pixels, name, refuse)
    monkeypatch.setattr(decoding, "decode", refuse)
    model = Classifier(Even(), ("a", "b"), PixelSpec(image_size=4))
    assert [answer.probabilities is None for answer in model.predict(paths)] == [0, 1, 1, 0]
