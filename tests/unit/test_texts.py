"""Texts from somebody else × every way out: shown in full where people look, exact for programs."""

import csv
import html
import io
import json
import logging
import re
import unicodedata
import xml.etree.ElementTree as ET
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest

from cryobase.pipeline import logs, tables
from cryobase.pipeline.cli import _one_line
from cryobase.stages import report
from cryobase.stages.errors import DataError
from cryobase.stages.heads import plots
from cryobase.stages.heads.export import plain
from cryobase.stages.heads.history import History
from cryobase.stages.outputs import write_json, write_table
from cryobase.stages.tuning import pictures
from cryobase.store.text import below, cell_text, component, counted, visible, width
from tests.hostile_texts import TEXTS

every_text = pytest.mark.parametrize("name", TEXTS)


class Capture(io.StringIO):
    """What a program reads, or with `tty` a terminal."""

    encoding = "utf-8"

    def __init__(self, *, tty: bool = False) -> None:
        super().__init__()
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


def harmless(shown: str) -> bool:
    """Whether a terminal shows it and does nothing else."""
    return all(
        character in "\u200c\u200d" or unicodedata.category(character)[0] != "C"
        for character in shown
    ) and not set("\u2028\u2029") & set(shown)


def said(write, *, tty: bool = True) -> str:
    """What something writes on stdout."""
    with redirect_stdout(Capture(tty=tty)) as stream:
        write()
    return stream.getvalue()


@every_text
def test_a_table_shows_it_in_one_line_that_ends_where_its_column_does(name):
    rows = [{"class": TEXTS[name], "score": 0.5}, {"class": "a" * 60, "score": 0.25}]
    lines = said(lambda: tables.show(rows)).split("\n")
    assert len(lines) == 4
    assert all(map(harmless, lines))
    if len(TEXTS[name]) < 1000:
        assert len({width(line.rstrip("0123456789.")) for line in lines[1:3]}) == 1
    assert all(map(harmless, said(lambda: tables.show([{TEXTS[name]: 1}])).split("\n")))


@every_text
def test_an_error_a_log_record_and_a_line_are_one_line(name):
    text = TEXTS[name]
    with redirect_stderr(Capture()) as errors:
        logs.configure()
        logging.getLogger("cryobase.test").warning("class %s", text)
        tables.line(f"cryobase: {_one_line(DataError(f'class {text}: none'))}", error=True)
    shown = said(lambda: tables.line(text)) + errors.getvalue()
    assert shown.count("\n") == 3
    assert all(map(harmless, shown.split("\n")))
    shown.encode()


@every_text
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_json_is_exact_and_harmless(name, monkeypatch, encoding):
    monkeypatch.setattr(Capture, "encoding", encoding)
    text = said(lambda: tables.show([{"class": TEXTS[name]}], as_json=True))
    assert json.loads(text) == [{"class": TEXTS[name]}]
    assert all(map(harmless, text.split("\n")))
    text.encode(encoding)


def formula(read: str) -> bool:
    return read[:1] in tuple("=+-@\t\r\n＝＋－＠")


@every_text
def test_csv_files_run_no_formula_and_give_the_text_back(name, tmp_path):
    text = TEXTS[name]
    path = tmp_path / "table.csv"
    write_table(path, ("id", text), [(text, -0.5), ("plain", -1)])
    with path.open(newline="", encoding="utf-8") as file:
        header, first, second = csv.reader(file)
    encoded = text.encode("utf-8", "backslashreplace").decode()
    assert cell_text(header[1]) == cell_text(first[0]) == encoded
    assert not formula(first[0])
    assert (first[1], second) == ("-0.5", ["plain", "-1"])


@every_text
@pytest.mark.parametrize("tty", [True, False])
def test_csv_on_stdout_is_exact_for_programs_and_harmless_on_a_terminal(name, tty):
    text = said(lambda: tables.show([{"class": TEXTS[name]}], as_csv=True), tty=tty)
    [_, [found]] = csv.reader(io.StringIO(text, newline=""))
    assert not formula(found)
    if tty:
        assert harmless(found)
    else:
        assert cell_text(found) == TEXTS[name]


def history() -> History:
    found = History()
    for _ in range(3):
        found.append(dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), 0.5))
    return found


@every_text
def test_pictures_show_it_as_it_is(name, tmp_path):
    """Nothing of it is set as mathematics, no font stops it, and the SVG is well formed."""
    text, image = TEXTS[name], np.zeros((8, 8, 3), np.float32)
    names = (text, "dog")
    drawn = {
        "curves": lambda path: plots.learning_curves(path, history(), text),
        "all": lambda path: plots.all_curves(path, dict.fromkeys(names, history()), text),
        "confusion": lambda path: plots.confusion_matrix(path, np.eye(2, dtype=int), names, text),
        "grid": lambda path: pictures.grid(path, [image], [plots.label(text)], ["black"]),
    }
    for kind, draw in drawn.items():
        path = tmp_path / f"{kind}.svg"
        draw(path)
        found = path.read_text(encoding="utf-8")
        assert ET.fromstring(found).tag.endswith("svg")
        assert "<script" not in found
        assert harmless(found.replace("\n", ""))


@every_text
def test_a_page_of_markdown_shows_it(name):
    """No markup of it is left: without escapes and entities it is the text again."""
    found = plain(TEXTS[name])
    assert harmless(found)
    assert not re.search(r"(?<!\\)[`*_\[\]|<>#$]", found.replace("\\\\", ""))
    assert html.unescape(re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", found)) == visible(TEXTS[name])


@every_text
def test_a_report_shows_the_title_and_refuses_a_head_of_a_hostile_name(name, tmp_path):
    text = TEXTS[name]
    entry = {"validation": {"accuracy": 0.5}}
    write_json(tmp_path / "s" / "metrics.json", {"best": "a", "heads": {"a": entry}})
    config = report.ReportConfig(title=text)
    report.run(config, sets={"s": tmp_path / "s"}, runs={}, output=tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "<img src=x" not in page
    write_json(tmp_path / "s" / "metrics.json", {"best": text, "heads": {text: entry}})
    try:
        component(text)
    except ValueError:
        with pytest.raises(DataError, match="not what Cryobase writes"):
            report.run(config, sets={"s": tmp_path / "s"}, runs={}, output=tmp_path / "out")
    else:
        report.run(config, sets={"s": tmp_path / "s"}, runs={}, output=tmp_path / "out")
        assert "<script>" not in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


@every_text
def test_as_a_name_it_stays_where_it_belongs(name, tmp_path):
    try:
        path = below(tmp_path, TEXTS[name])
    except ValueError as error:
        message = str(error)
        assert harmless(message)
    else:
        assert path.parent == tmp_path
        assert path.resolve() == path
        assert harmless(path.name)


def test_what_is_visible_stays_as_it_is():
    for text in ("cat", "猫", "e\u0301", "🐈‍⬛", "חתול", "café", r"a\b", "$x$", "a  b"):
        assert visible(text) == text
    assert visible("\x1b\x9b\u202e\udce9\n\U000e0001") == r"\x1b\x9b\u202e\xe9\n\U000e0001"


def test_wide_and_combining_characters_are_counted_as_terminals_do():
    assert [width(text) for text in ("cat", "猫", "e\u0301", "🐈", "")] == [3, 2, 1, 2, 0]


def test_things_are_counted_in_the_singular_and_the_plural():
    said = [counted(count, "row") for count in (0, 1, 2, 12_345)]
    assert said == ["0 rows", "1 row", "2 rows", "12,345 rows"]
    assert [counted(count, "class") for count in (1, 3)] == ["1 class", "3 classes"]
