"""`params.yaml` is checked to the last key, and the message names the key."""

import contextlib
import copy
import dataclasses
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from cryobase.pipeline.params import STAGES, Params, ParamsError, load, one_or_all
from tests.scale import rounds

ROOT = Path(__file__).parents[3]


def write(directory: Path, text: str) -> Path:
    path = directory / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_committed_params_are_valid():
    params = load(ROOT / "params.yaml")
    assert params.extract.sets["lite0-160"].backbone == "efficientnet_lite0"
    assert set(params.train.heads) == {"linear", "mlp"}


def test_an_empty_file_means_defaults(tmp_path):
    assert load(write(tmp_path, "")) == Params()


def test_every_section_is_a_stage():
    sections = [field.name for field in dataclasses.fields(Params)]
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    assert ["watch", *sections] == [
        name for name in stages if not name.endswith(("_pair", "_foreign"))
    ]


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("download: {sauce: folder}", ["download.sauce", "unknown key", "source", "path"]),
        ("trian: {}", ["trian", "unknown key", "train"]),
        ("extract: {sets: {a: {backbone: vgg16, size: 3}}}", ["extract.sets.a.size", "image_size"]),
        ("train: {heads: {a: {kind: linear, lr: 1}}}", ["train.heads.a", "lr", "learning_rate"]),
        ("finetune: {runs: {a: {set: s, head: h, epoch: 1}}}", ["finetune.runs.a.epoch", "epochs"]),
        ("split: {seed: one}", ["split.seed", "integer"]),
        ("split: {seed: '1'}", ["split.seed", "integer"]),
        ("download: {in_place: 1}", ["download.in_place", "boolean"]),
        ("finetune: {runs: {a: {set: s, head: h, epochs: 0}}}", ["finetune.runs.a", "epochs"]),
        ("download: [folder]", ["download", "a map"]),
        ("download: {pattern: '('}", ["download.pattern: no regular expression", "not '('"]),
        ("split: {train: 0.5}", ["split: train, validation and test: sum to 1, not 0.7"]),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path, text, found):
    with pytest.raises(ParamsError) as caught:
        load(write(tmp_path, text))
    for part in found:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("units: many", "units: input should be a valid integer or a list, not 'many'"),
        ("units: [64, [8, many]]", "units.1.1: input should be a valid integer, not 'many'"),
        ("units: {int: 3}", "units: input should be a valid integer or a list, not {'int': 3}"),
        ("dropout: high", "dropout: input should be a valid number or a list, not 'high'"),
        (
            "class_weights: even",
            "class_weights: input should be 'none' or 'balanced' or a map, not 'even'",
        ),
        (
            "class_weights: {7: much}",
            "class_weights.7: input should be a valid number, not 'much'",
        ),
    ],
)
def test_a_value_that_may_be_of_several_types_is_complained_of_once(tmp_path, text, complaint):
    path = write(tmp_path, f"train: {{heads: {{a: {{kind: mlp, {text}}}}}}}")
    with pytest.raises(ParamsError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: train.heads.a.{complaint}"


@pytest.mark.fault(21)
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "1e999", "2026-11-22"])
def test_only_what_json_can_hold_is_taken(tmp_path, value):
    text = f"finetune: {{runs: {{a: {{set: s, head: h, learning_rate: {value}}}}}}}"
    with pytest.raises(ParamsError, match=r"use finite numbers|valid number, not '2026"):
        load(write(tmp_path, text))


@pytest.mark.fault(22)
@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("a: &x [1]\nb: *x", "aliases"),  # the seed of an alias bomb
        ("a: !!python/object/apply:os.system ['true']", "tags"),
        ("download: !!map {}", "tags"),
        ("a: !x 1", "tags"),
        ("a: 1\na: 2", "not valid YAML"),
        ("a: [", "not valid YAML"),
        ("[" * 200_000, "nested too deeply"),
        ("a: " + "{b: " * 200, "nested too deeply"),
        ("- " * 5_000, "nested too deeply"),
        ("? " * 5_000, "nested too deeply"),
        ("\n".join(f"{' ' * depth}a:" for depth in range(500)), "nested too deeply"),
        ("a: [" + "[]," * 100_000 + "]", "values"),
        ("a: [" + "1," * 200_000 + "]", "values"),
        ("a: " + "9" * 100_000, "not valid YAML"),
        ("split: {seed: " + "9" * 30 + "}", "64 bits"),
        ("split: {1: a, '1': b}", "key twice"),
        ("a: '" + "x" * (1 << 20) + "'", "bytes, which are the most"),
        ("a: 2024-13-45", "not valid YAML|valid"),
    ],
)
def test_yaml_that_does_more_than_hold_values_is_refused(tmp_path, text, fact):
    with pytest.raises(ParamsError, match=fact):
        load(write(tmp_path, text))


def with_name(name: object, table: str) -> dict:
    """Params that are right but for a name of a set, pair, run or head."""
    sets = {"a": {"backbone": "vgg16"}, "b": {"backbone": "vgg19"}}
    document = {
        "extract": {"sets": sets},
        "train": {"pairs": {}, "foreign": {}},
        "finetune": {"runs": {}},
    }
    section, key = table.split(".")
    entry = {
        "sets": {"backbone": "vgg16"},
        "heads": {"kind": "linear"},
        "pairs": ["a", "b"],
        "foreign": "dino@1234567",
        "runs": {"set": "a", "head": "h"},
    }[key]
    document[section].setdefault(key, {})[name] = entry
    return document


@pytest.mark.parametrize(
    "table", ["extract.sets", "train.heads", "train.pairs", "train.foreign", "finetune.runs"]
)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "not a usable name; DVC takes letters") for name in (
            "../x", "a/b", ".hidden", "", "tuned", "none", "a\nb", "lite0-v1.5", "64", "1e3", "a=b",
            "-x", "con", "NUL", "é", "a b", "x" * 65, "x@y", "x:y", "$x", "a\x1bb",
        )),
        (64, "in YAML this is a number, which DVC makes no stage of"),
        (1.5, "in YAML this is a number"),
        (True, "in YAML this is true or false"),
        (None, "in YAML this is nothing"),
    ],
)  # fmt: skip
def test_names_that_dvc_or_a_disk_cannot_take_are_refused(tmp_path, table, name, reason):
    path = tmp_path / "params.yaml"
    YAML().dump(with_name(name, table), path)
    with pytest.raises(ParamsError) as caught:
        load(path)
    assert table in str(caught.value)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "table", ["extract.sets", "train.heads", "train.pairs", "train.foreign", "finetune.runs"]
)
def test_two_names_that_differ_in_case_alone_are_refused(tmp_path, table):
    document = with_name("Name", table)
    section, key = table.split(".")
    document[section][key]["nAme"] = copy.deepcopy(document[section][key]["Name"])
    path = tmp_path / "params.yaml"
    YAML().dump(document, path)
    with pytest.raises(ParamsError, match=f"{table}.nAme: Name is there too"):
        load(path)


@pytest.mark.parametrize("section", ["finetune:", "extract: {sets: }", "train: {pairs: null}"])
def test_an_empty_section_is_refused_as_dvc_does(tmp_path, section):
    with pytest.raises(ParamsError, match="empty; write its keys, or leave it out"):
        load(write(tmp_path, section))


@pytest.mark.parametrize("section", ["download", "split", "train", "evaluate", "report"])
def test_beside_dvc_yaml_what_stages_depend_on_must_stand_there(tmp_path, section):
    document = YAML(typ="safe").load(ROOT / "params.yaml")
    del document[section]
    YAML().dump(document, tmp_path / "params.yaml")
    load(tmp_path / "params.yaml", *STAGES)
    (tmp_path / "dvc.yaml").touch()
    load(tmp_path / "params.yaml", *(stage for stage in STAGES if stage != section))
    with pytest.raises(ParamsError, match="missing, and stages") as caught:
        load(tmp_path / "params.yaml", section)
    [line] = re.findall("write `(.*)`", str(caught.value))
    with (tmp_path / "params.yaml").open("a") as file:
        file.write(f"\n{line}\n")
    load(tmp_path / "params.yaml", *STAGES)


@pytest.mark.parametrize("text", ["0" * 64, "2024", "007", "1.10", "1e3", "2024-01-31", "0x1F"])
def test_what_looks_like_a_number_is_the_text_that_was_written(tmp_path, text):
    archive = "download: {source: archive, url: 'https://host/a.zip', sha256: %s}"
    folder = "download: {source: folder, path: %s}"
    key, document = ("sha256", archive) if len(text) == 64 else ("path", folder)
    assert getattr(load(write(tmp_path, document % text)).download, key) == text
    weights = f"extract: {{sets: {{s: {{backbone: vgg16, weights: {text}}}}}}}"
    assert load(write(tmp_path, weights)).extract.sets["s"].weights == text
    with pytest.raises(ParamsError, match="split"):
        load(write(tmp_path, f"split: {{seed: '{text}'}}"))


@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "loop", "large", "unreadable"])
def test_a_params_file_that_is_none_is_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "params.yaml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(1 << 30)
    else:
        path.write_bytes(b"a: \xff")
    with pytest.raises(ParamsError, match=r"regular|directory|symbolic|bytes|not UTF-8"):
        load(path)


def test_a_run_of_an_unknown_set_is_refused(tmp_path):
    with pytest.raises(ParamsError, match="no set 's'"):
        load(write(tmp_path, "finetune: {runs: {a: {set: s, head: h}}}"))


def test_inputs_of_heads_are_sets_foreign_ones_and_pairs(tmp_path):
    sets = "extract: {sets: {a: {backbone: vgg16}, b: {backbone: vgg19}}}"
    train = "train: {foreign: {d: dino@1234567}, pairs: {c: [b, d]}}"
    params = load(write(tmp_path, f"{sets}\n{train}"))
    assert params.inputs == {"a": ("a",), "b": ("b",), "d": ("d",), "c": ("b", "d")}


@pytest.mark.parametrize(
    ("foreign", "message"),
    [
        ("{a: dino@1234567}", "train.foreign.a: extract.sets has this name too"),
        ("{d: dino}", "foreign.d: MODEL@DIGEST"),
        ("{d: 'dino@12 34567'}", "foreign.d: MODEL@DIGEST"),
        ("{../d: dino@1234567}", "train.foreign.../d: not a usable name"),
    ],
)
def test_a_foreign_set_that_is_none_is_refused(tmp_path, foreign, message):
    sets = "extract: {sets: {a: {backbone: vgg16}}}"
    with pytest.raises(ParamsError, match=re.escape(message)):
        load(write(tmp_path, f"{sets}\ntrain: {{foreign: {foreign}}}"))


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("{c: [a, x]}", "train.pairs.c: no set 'x'; known: a, b"),
        ("{c: [a, a]}", "pairs.c: two different feature sets"),
        ("{c: [a]}", "train.pairs.c"),
        ("{c: [a, b, a]}", "train.pairs.c"),
        ("{a: [a, b]}", "train.pairs.a: extract.sets has this name too"),
        ("{../c: [a, b]}", "train.pairs.../c: not a usable name"),
    ],
)
def test_a_pair_that_is_none_is_refused(tmp_path, pairs, message):
    sets = "extract: {sets: {a: {backbone: vgg16}, b: {backbone: vgg19}}}"
    with pytest.raises(ParamsError, match=re.escape(message)):
        load(write(tmp_path, f"{sets}\ntrain: {{pairs: {pairs}}}"))


@pytest.mark.fault(21)
@settings(max_examples=rounds(1000), deadline=None)
@given(
    document=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["download", "extract", "sets", "train", "heads", "kind", "a"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_document_is_taken_or_refused_by_a_params_error(tmp_path_factory, document):
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    YAML().dump(document, path)
    with contextlib.suppress(ParamsError):
        assert isinstance(load(path), Params)


def test_one_or_all():
    assert one_or_all({"a": 1, "b": 2}, None, "k") == ["a", "b"]
    assert one_or_all({"a": 1}, "a", "k") == ["a"]
    with pytest.raises(ParamsError, match="known: a"):
        one_or_all({"a": 1}, "c", "k")


def test_home_directories_are_put_in_place_wherever_a_path_stands(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    path = tmp_path / "params.yaml"
    path.write_text("""
download: {source: tfds, path: ~/x, data_dir: "~root/y"}
extract:
  scheduler_file: "~"
  sets: {a: {backbone: mobilenet, weights: ~/w.h5}, b: {backbone: mobilenet, weights: x/~/w.h5}}
""")
    params = load(path)
    assert params.download.path == "/home/me/x"
    assert params.download.data_dir == f"{os.path.expanduser('~root')}/y"
    assert params.extract.scheduler_file == "/home/me"
    assert [one.weights for one in params.extract.sets.values()] == ["/home/me/w.h5", "x/~/w.h5"]
    path.write_text("download: {path: ~no such user/x}")
    with pytest.raises(ParamsError, match=r"download\.path: no home directory is known"):
        load(path)
    for odd in ("[1]", "download: 1", "extract: {sets: [1]}", "extract: {sets: {a: 1}}"):
        path.write_text(odd)
        with pytest.raises(ParamsError):
            load(path)
