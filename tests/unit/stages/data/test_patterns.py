"""Patterns that users write: everyday ones as Python reads them, odd ones refused in a line."""

import pytest

from cryobase.stages.data.patterns import MAX_LENGTH, PatternReader
from cryobase.stages.download import DownloadConfig
from cryobase.stages.errors import ConfigError
from cryobase.stages.split import SplitConfig
from tests.unit.stages.test_download import add, fetch

NAMES = ["cat.0.jpg", "Kätzchen_12.jpg", "\udcfc.png", "a" * 40 + "!", ""]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (r"^(\w+)\.", ["cat", "Kätzchen_12", "", "", ""]),
        (r"(?P<x>.)(?P<label>[a-zä]+)", ["at", "ätzchen", "png", "a" * 39, ""]),
        (r"[a-z]+(?=\.[0-9])", ["cat", "", "", "", ""]),
        (r"(?<=_)(\d+)", ["", "12", "", "", ""]),
        (r"^(.)\.", ["", "", "\udcfc", "", ""]),
        (r"cat(_x)?\.", ["", "", "", "", ""]),
        (r"x*", ["", "", "", "", ""]),
    ],
)
def test_everyday_patterns_find_what_python_finds(pattern, found):
    with PatternReader("key", pattern, group="label") as reader:
        assert reader.read(NAMES) == found
        assert reader.read(NAMES[:1]) == found[:1], "a second time"


@pytest.mark.parametrize(
    "pattern",
    ["(", r"\q", "[[a]", "a{99999999999}", "(" * 500 + ")" * 500, r"\1(a)", "(?<=a+)b", "(?R)",
     "(?P<x>a)(?P<x>b)", "a**", "x(?i)y", "(?P<1>a)", "[a&&b]", "", "a" * (MAX_LENGTH + 1)],
)  # fmt: skip
def test_what_is_no_pattern_is_refused_with_its_key_and_reason(pattern):
    for config, key in ((DownloadConfig, "pattern"), (SplitConfig, "group_by")):
        with pytest.raises(ValueError, match=f"^{key}: .+") as caught:
            config(**{key: pattern})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "pattern", [r"^(a+)+$", r"^(a|aa)*$", r"^(\w*)*$", r"(?P<label>(a*)*b)", r"(.*)*(.*)*(.*)*x$"]
)
def test_patterns_that_would_never_end_are_given_up(pattern, monkeypatch):
    monkeypatch.setattr("cryobase.stages.data.patterns.SECONDS", 0.5)
    with (
        PatternReader("download.pattern", pattern, group="label") as reader,
        pytest.raises(ConfigError, match=r"download\.pattern: .*takes too long") as caught,
    ):
        reader.read(["b", "a" * 200 + "!"])
    assert "\n" not in str(caught.value)


def test_a_pattern_that_finds_no_label_anywhere_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("cryobase.stages.data.patterns.SECONDS", 0.5)
    add(tmp_path / "images", "1.png", 1)
    for pattern in ("^(cat)", "x*", r"(cat)?\d"):
        with pytest.raises(ConfigError, match="finds no label in any of the 1 file names"):
            fetch(tmp_path / "images", tmp_path / "raw", pattern=pattern)
    add(tmp_path / "images", "a" * 60 + ".png", 2)
    with pytest.raises(ConfigError, match="takes too long"):
        fetch(tmp_path / "images", tmp_path / "raw", pattern="^(a+)+$")
