"""Estimates come from the last run of the same spec, and from nothing else."""

from stages.backbones import rates


def test_a_rate_is_kept_per_spec(tmp_path):
    assert rates.seconds(tmp_path, "a", 10) is None
    rates.remember(tmp_path, "a", 100, 4.0)
    rates.remember(tmp_path, "b", 10, 1.0)
    assert rates.seconds(tmp_path, "a", 50) == 2.0
    assert rates.seconds(tmp_path, "b", 50) == 5.0


def test_damage_costs_an_estimate_and_nothing_else(tmp_path):
    (tmp_path / rates.FILE).write_text("[")
    assert rates.seconds(tmp_path, "a", 10) is None
    rates.remember(tmp_path / "nowhere", "a", 1, 1.0)
