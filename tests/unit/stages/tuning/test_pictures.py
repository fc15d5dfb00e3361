import re

import numpy as np
import pytest

from cryobase.stages.tuning import pictures

NONE = float("nan")
ROWS = [
    {"phase": 1 if k < 5 else 2, "epoch": k, "loss": 1 / k if k else NONE,
     "accuracy": k / 9 if k else NONE, "val_loss": 1 / (k + 1), "val_accuracy": k / 10}
    for k in range(9)
]  # fmt: skip
OPTIONS = {"phase_starts": [5], "kept": 7, "overfitting_from": 8, "smoothing": 0.0}


def lines(axes):
    return {line.get_label(): np.asarray(line.get_ydata()) for line in axes.get_lines()}


@pytest.fixture
def drawn(monkeypatch):
    """The axes of every figure, kept when it is written."""
    kept = []
    original = pictures.figure

    def figure(*arguments, **options):
        context = original(*arguments, **options)
        axes = context.__enter__()
        kept.append(axes)

        class Again:
            def __enter__(self):
                return axes

            def __exit__(self, *error):
                return context.__exit__(*error)

        return Again()

    monkeypatch.setattr(pictures, "figure", figure)
    return kept


def test_curves_show_both_phases_in_one_figure(tmp_path, drawn):
    pictures.curves(tmp_path / "a.svg", ROWS, **OPTIONS)
    accuracy, loss = drawn[0]
    assert lines(accuracy)["validation"] == pytest.approx([row["val_accuracy"] for row in ROWS])
    assert lines(loss)["training"][1:] == pytest.approx([row["loss"] for row in ROWS[1:]])
    for axis in drawn[0]:
        shown = {line.get_label(): line.get_xdata()[0] for line in axis.get_lines()}
        assert shown["fine-tuning starts"] == 4.5
        assert shown["kept: epoch 7"] == 7
        assert any("overfitting from epoch 8" in patch.get_label() for patch in axis.patches)


def test_smoothed_curves_begin_anew_with_a_phase_and_leave_epoch_0_out(tmp_path, drawn):
    pictures.curves(tmp_path / "a.svg", ROWS, **{**OPTIONS, "smoothing": 0.8})
    _, loss = drawn[0]
    expected = []
    for row in ROWS[1:]:
        first = row["epoch"] in {1, 5}
        value = row["val_loss"]
        expected.append(value if first else 0.8 * expected[-1] + 0.2 * value)
    assert lines(loss)["validation"] == pytest.approx(expected)


def test_a_grid_titles_every_image(tmp_path, drawn):
    images = [np.full((200, 200, 3), k, np.float32) for k in (0, 128, 300)]
    colors = [pictures.BLUE, pictures.RED, pictures.BLUE]
    names = ["a", "b\n(c)", "$d^2$ is no formula $"]
    pictures.grid(tmp_path / "a.svg", images, names, colors, columns=2)
    titles = [(axis.get_title(), axis.title.get_color()) for axis in drawn[0]][:3]
    assert titles == list(zip(names, colors, strict=True))
    values = [int(axis.get_images()[0].get_array()[0, 0, 0]) for axis in drawn[0][:3]]
    assert values == [0, 128, 255]
    assert drawn[0][0].get_images()[0].get_array().shape[0] == pictures.THUMBNAIL


def test_no_images_are_said_so(tmp_path, drawn):
    pictures.grid(tmp_path / "a.svg", [], [], [], empty="no mistakes")
    assert [text.get_text() for text in drawn[0][0].texts] == ["no mistakes"]


def test_the_ladder_has_a_bar_for_each_rung(tmp_path, drawn):
    rows = [
        {"rung": name, "accuracy": k / 4, "seconds": 10.0 * k, "bought": k / 8,
         "at_frozen_seconds": None if k else 0.125}
        for k, name in enumerate("abc")
    ]  # fmt: skip
    pictures.ladder(tmp_path / "a.svg", rows)
    accuracy, seconds = drawn[0]
    assert [text.get_text() for text in accuracy.texts] == [
        "0.000",
        "0.250 (+0.125)",
        "0.500 (+0.250)",
    ]
    assert [list(line.get_xdata()) for line in accuracy.get_lines()] == [[0.125, 0.125]]
    assert [bar.get_width() for bar in accuracy.patches] == [0, 0.25, 0.5]
    assert [bar.get_width() for bar in seconds.patches] == [0, 10, 20]


def test_equal_numbers_give_equal_bytes(tmp_path):
    for name in ("a.svg", "b.svg"):
        pictures.curves(tmp_path / name, ROWS, **OPTIONS)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert not re.search(r"<dc:date>", text)
