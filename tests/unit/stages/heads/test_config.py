import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryobase.stages.heads.config import (
    DEFAULTS,
    EVERY,
    KEYS,
    HeadConfig,
    HeadParams,
    expand,
    keys_of,
)
from cryobase.stages.heads.kinds import HEADS

PAGE = (Path(__file__).parents[4] / "docs" / "heads.md").read_text(encoding="utf-8")


def test_every_kind_has_a_trainer_and_every_key_a_kind():
    assert set(HEADS) == EVERY
    assert set().union(*map(keys_of, HEADS)) == set(KEYS)


def test_the_page_says_what_the_table_of_keys_says():
    rows = re.findall(r"^\| `(\w+)`( \(grid\))? \| (\S+) \| ([a-z, ]+) \|", PAGE, re.MULTILINE)
    assert [row[0] for row in rows] == list(KEYS)
    for name, grid, default, kinds in rows:
        key = KEYS[name]
        assert bool(grid) == bool(key.mark), name
        assert key.kinds == (EVERY if kinds == "all" else set(kinds.split(", "))), name
        shown = "Keras'" if DEFAULTS[name] is None else f"{DEFAULTS[name]}".removesuffix(".0")
        assert default.lower() == shown.lower(), name
    marks = ", ".join(f"`{key.mark}`" for key in KEYS.values() if key.mark)
    assert marks.replace(", `s`", " and `s`") in PAGE


def test_without_lists_an_entry_is_one_head_of_its_own_name():
    assert list(expand({"linear": HeadConfig()})) == ["linear"]


def test_lists_span_a_grid_whose_names_say_its_values():
    heads = expand({"a": HeadConfig(learning_rate=(1e-3, 1e-5), weight_decay=(0.0, 0.01))})
    assert list(heads) == ["a-lr0.001-wd0", "a-lr0.001-wd0.01", "a-lr1e-05-wd0", "a-lr1e-05-wd0.01"]
    assert heads["a-lr1e-05-wd0.01"].learning_rate == 1e-5
    assert heads["a-lr1e-05-wd0.01"].weight_decay == 0.01


def test_adding_a_value_renames_no_head():
    one = expand({"a": HeadConfig(seed=(1,))})
    two = expand({"a": HeadConfig(seed=(1, 2))})
    assert one.items() <= two.items()


def test_units_in_a_list_are_a_grid_and_in_a_list_of_lists_layers():
    heads = expand({"m": HeadConfig(kind="mlp", units=(64, (128, 32)))})
    assert {name: params.units for name, params in heads.items()} == {
        "m-u64": (64,),
        "m-u128x32": (128, 32),
    }


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": (0.1, -1.0)}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"dropout": 1.0}, "dropout"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"patience": -1}, "patience"),
        ({"momentum": 2.0}, "momentum"),
        ({"seed": ()}, "seed"),
        ({"seed": (1, 1)}, "seed"),
        ({"seed": 1 << 32}, "seed"),
        ({"class_weights": {"cat": -1.0}}, "class_weights"),
        ({"kind": "mlp", "units": 0}, "units"),
        ({"kind": "mlp", "units": ((),)}, "units"),
        ({"units": 64}, "units"),
    ],
)
def test_a_value_that_means_nothing_is_refused_by_its_key(values, key):
    with pytest.raises(ValueError, match=key):
        HeadConfig(**values)


def test_two_entries_may_not_make_heads_of_one_name():
    with pytest.raises(ValueError, match="a-s1"):
        expand({"a": HeadConfig(seed=(1,)), "a-s1": HeadConfig()})


def test_weight_decay_is_keras_default_where_not_given():
    assert expand({"a": HeadConfig()})["a"].weight_decay == 0
    assert expand({"a": HeadConfig(optimizer="adamw")})["a"].weight_decay == 0.004


@pytest.mark.parametrize("kind", HEADS)
def test_params_survive_json(kind):
    (params,) = expand({"a": HeadConfig(kind=kind)}).values()
    assert HeadParams.from_json(params.to_json()) == params


@given(st.sampled_from(sorted(keys_of("mlp") - {"units", "class_weights"})))
def test_the_fingerprint_covers_every_key_that_the_kind_reads(key):
    (params,) = expand({"a": HeadConfig(kind="mlp")}).values()
    value = getattr(params, key)
    other = "other" if isinstance(value, str) else not value if value in (0, True) else value * 2
    changed = dataclasses.replace(params, **{key: other})
    assert changed.fingerprint("set") != params.fingerprint("set")


def test_the_fingerprint_covers_the_data_and_nothing_that_is_not_read():
    (params,) = expand({"a": HeadConfig()}).values()
    assert params.fingerprint("set", "split") != params.fingerprint("set", "other")
    unread = dataclasses.replace(params, activation="linear")
    assert unread.fingerprint("set") == params.fingerprint("set")


def test_a_grid_is_counted_before_it_is_made():
    values = tuple(1e-6 * (1 + number) for number in range(300))
    grid = {"learning_rate": values, "weight_decay": values, "dropout": values}
    head = HeadConfig(kind="mlp", units=tuple(range(1, 301)), **grid)
    assert head.count() == 300**4
    with pytest.raises(ValueError, match="8,100,000,000 heads; at most"):
        expand({"a": head})
    with pytest.raises(ValueError, match="a grid of 8,100,000,000 heads"):
        head.points()
    many = {f"h{number}": HeadConfig(seed=tuple(range(4096))) for number in range(20)}
    with pytest.raises(ValueError, match="81,920 heads"):
        expand(many)


@pytest.mark.parametrize(
    "key",
    [{"epochs": 10**18}, {"batch_size": 10**18}, {"units": 10**18}, {"units": ((1,) * 100,)}],
)
def test_a_size_that_no_machine_has_is_refused(key):
    with pytest.raises(ValueError, match=f"{min(key)}: at most"):
        HeadConfig(kind="mlp", **key)


def test_every_value_of_a_grid_is_checked():
    with pytest.raises(ValueError, match="dropout: must be"):
        HeadConfig(kind="mlp", learning_rate=(1e-3, 1e-4), dropout=(0.1, 0.2, 1.5))
