"""Which head `cryobase predict` takes: the one that `evaluate` would choose, over all sets."""

import json

import numpy as np
import pytest
from ruamel.yaml import YAML

from cryobase.pipeline.layout import Layout
from cryobase.pipeline.predictions import of_head
from cryobase.stages.errors import DataError
from cryobase.stages.heads.standing import ranked
from cryobase.stages.predict import Classifier, Prediction

BASE = {"backbone": "efficientnet_lite0", "weights": "none", "image_size": 32}


def scores(accuracy, f1_macro, log_loss):
    return {"accuracy": accuracy, "f1_macro": f1_macro, "log_loss": log_loss}


# Every score has another winner; on the test images, `dull` would win in all of them.
HEADS = {
    ("first", "exact"): scores(0.9, 0.7, 0.5),
    ("first", "dull"): scores(0.5, 0.4, 2.0),
    ("second", "fair"): scores(0.8, 0.8, 0.6),
    ("second", "sure"): scores(0.7, 0.6, 0.2),
}
WINNERS = {
    "accuracy": ("first", "exact"),
    "f1_macro": ("second", "fair"),
    "log_loss": ("second", "sure"),
}


@pytest.fixture
def layout(tmp_path, monkeypatch):
    (tmp_path / "image.png").write_bytes(b"an image")
    monkeypatch.chdir(tmp_path)
    return Layout.here()


@pytest.fixture
def opened(monkeypatch):
    """The directories of the models that were asked for; they answer alike."""
    asked = []

    class Answering:
        classes = ("a", "b")

        @staticmethod
        def predict(files):
            return [Prediction(path, np.array([0.25, 0.75], np.float32)) for path in files]

    monkeypatch.setattr(
        Classifier, "open", lambda directory, weights: asked.append(directory) or Answering
    )
    return asked


def write(layout, heads, select, part="validation"):
    """Params with `evaluate.select`, and what `evaluate` would have written of each set."""
    sets = dict.fromkeys(name for name, _ in heads)
    params = {
        "download": {"source": "folder", "path": "images"},
        "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
        "extract": {"sets": {name: dict(BASE) for name in sets}},
        "train": {"heads": {head: {"kind": "linear"} for _, head in heads}},
        "evaluate": {"select": select},
    }
    YAML().dump(params, layout.params)
    for name in sets:
        found = {head: {part: own} for (one, head), own in heads.items() if one == name}
        best = ranked(found, select)[0]
        if "dull" in found:
            found["dull"]["test"] = scores(1.0, 1.0, 0.0)
        layout.results(name).mkdir(parents=True, exist_ok=True)
        text = json.dumps({"best": best, "heads": found})
        (layout.results(name) / "metrics.json").write_text(text)


@pytest.mark.parametrize("part", ["validation", "train"])
@pytest.mark.parametrize("select", WINNERS)
def test_the_best_head_is_the_one_that_the_asked_score_chooses(layout, opened, select, part):
    write(layout, HEADS, select, part)
    answers = of_head(layout, [layout.root / "image.png"], model=None, top=1)
    assert opened == [layout.head(*WINNERS[select])]
    assert answers.rows[0]["classes"] == [{"class": "b", "probability": 0.75}]


def test_of_equal_scores_the_lower_log_loss_decides_then_the_name(layout, opened):
    heads = {
        ("first", "a"): scores(0.9, 0.9, 0.5),
        ("second", "b"): scores(0.9, 0.9, 0.4),
        ("second", "a"): scores(0.9, 0.9, 0.4),
    }
    write(layout, heads, "accuracy")
    of_head(layout, [layout.root / "image.png"], model=None, top=1)
    assert opened == [layout.head("second", "a")]


def test_a_named_model_is_taken_and_none_is_an_error(layout, opened):
    write(layout, HEADS, "accuracy")
    model = layout.head("second", "sure")
    of_head(layout, [layout.root / "image.png"], model=model, top=1)
    assert opened == [model]
    for name in ("first", "second"):
        (layout.results(name) / "metrics.json").unlink()
    with pytest.raises(DataError, match="no evaluated head"):
        of_head(layout, [layout.root / "image.png"], model=None, top=1)
