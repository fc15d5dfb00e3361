"""Estimates come from the last run of the same spec, and from nothing else."""

from stages.backbones import estimate


def test_a_rate_is_kept_per_spec(tmp_path):
    assert estimate.seconds(tmp_path, "a", 10) is None
    estimate.remember(tmp_path, "a", 100, 4.0)
    estimate.remember(tmp_path, "b", 10, 1.0)
    assert estimate.seconds(tmp_path, "a", 50) == 2.0
    assert estimate.seconds(tmp_path, "b", 50) == 5.0


def test_damage_costs_an_estimate_and_nothing_else(tmp_path):
    (tmp_path / estimate.FILE).write_text("[")
    assert estimate.seconds(tmp_path, "a", 10) is None
    estimate.remember(tmp_path / "nowhere", "a", 1, 1.0)
