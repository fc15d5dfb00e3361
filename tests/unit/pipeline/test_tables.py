"""What stands on a terminal: colours where one is, and nothing that a name could do."""

import io
from types import SimpleNamespace

import pytest

from cryobase.pipeline import tables

ROWS = [
    {"set": "a", "state": "done", "why": ""},
    {"set": "state", "state": "stale", "why": "stale \x1b[2J"},
    {"set": "b", "state": "odd", "why": "done"},
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    terminal = Terminal()
    monkeypatch.setattr(tables, "sys", SimpleNamespace(stdout=terminal))
    return terminal


def test_the_state_is_coloured_and_nothing_else(shown):
    tables.show(ROWS)
    assert shown.getvalue().splitlines() == [
        "set    state  why",
        "a      \x1b[32mdone\x1b[0m",
        "state  \x1b[33mstale\x1b[0m  stale \\x1b[2J",
        "b      odd    done",
    ]


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_who_asks_for_no_colour_has_none(shown, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    tables.show(ROWS)
    tables.line("wrong  x", mark="wrong")
    assert "\x1b" not in shown.getvalue()


def test_a_file_has_no_colours(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(tables, "sys", SimpleNamespace(stdout=file))
    tables.show(ROWS)
    tables.line("wrong  x", mark="wrong")
    assert "\x1b" not in file.getvalue()


def test_a_mark_is_coloured_and_the_rest_of_the_line_is_made_visible(shown):
    tables.line("wrong  \x1b[2J wrong", mark="wrong")
    tables.line("cryobase: x", mark="cryobase:")
    assert shown.getvalue() == "\x1b[31mwrong\x1b[0m  \\x1b[2J wrong\n\x1b[31mcryobase:\x1b[0m x\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"),
        (200, "3 min 20 s"), (3599.6, "1 h 0 min"), (7500, "2 h 5 min"),
    ],
)  # fmt: skip
def test_a_duration_as_people_read_it(seconds, text):
    assert tables.duration(seconds) == text
