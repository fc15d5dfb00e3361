import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from cryobase.stages.heads import plots
from tests.unit.stages.heads.test_history import history

HISTORY = history([*np.linspace(1, 0.5, 8), *np.linspace(0.52, 0.9, 12)])
PLOTS = {
    "learning_curves": lambda path: plots.learning_curves(path, HISTORY, "a head"),
    "all_curves": lambda path: plots.all_curves(path, {"a": HISTORY, "b": HISTORY}, "b"),
    "many_curves": lambda path: plots.all_curves(path, {f"h{k}": HISTORY for k in range(40)}, "h7"),
    "confusion": lambda path: plots.confusion_matrix(
        path, np.arange(9).reshape(3, 3), ("a", "b", "ü"), "a head"
    ),
    "confusion_of_many": lambda path: plots.confusion_matrix(
        path, np.eye(50, dtype=int), [f"c{k}" for k in range(50)], "a head"
    ),
    "data": lambda path: plots.data_curve(path, [(10, 0.5), (20, 0.7), (40, 0.75)]),
    "reliability": lambda path: plots.reliability_plot(
        path, [{"images": 5, "confidence": 0.7, "accuracy": 0.6}], 0.1
    ),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_svg_and_the_same_bytes_each_time(tmp_path: Path, name):
    PLOTS[name](tmp_path / "one.svg")
    PLOTS[name](tmp_path / "two.svg")
    text = (tmp_path / "one.svg").read_text()
    assert ET.fromstring(text).tag.endswith("svg")
    assert text == (tmp_path / "two.svg").read_text()
    assert "date" not in text.lower()
