"""Estimates come from the last run of the same spec, and from nothing else."""

import pytest

from cryobase.stages import download
from cryobase.stages.backbones import estimate, plan
from cryobase.stages.extract import SetConfig, spec_of
from tests.images import write_folder


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


@pytest.mark.parametrize(("output", "expected"), [("avg", 1280 * 2), ("flatten", None)])
def test_bytes_of_pooled_rows_are_known_before_any_is_computed(
    tmp_path, monkeypatch, output, expected
):
    monkeypatch.setattr(plan, "BLOCK", 4)
    write_folder(tmp_path / "images", 3)
    source = download.DownloadConfig(source="folder", path=str(tmp_path / "images"))
    download.run(source, output=tmp_path / "raw")
    config = SetConfig(backbone="efficientnet_lite0", weights="none", output=output)
    found = estimate.estimate(spec_of(config), 0, raw=tmp_path / "raw", pool=tmp_path / "pool")
    assert found.existing == 0
    assert found.missing == 9
    assert found.bytes == (expected and expected * found.missing)
    assert found.seconds is None
