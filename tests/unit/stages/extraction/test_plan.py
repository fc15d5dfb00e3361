"""What a plan names, whatever the listing holds, how much memory that takes, and estimates."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from cryobase.stages import download
from cryobase.stages.extract import SetConfig, spec_of
from cryobase.stages.extraction import plan as planning
from cryobase.stages.extraction.plan import Images, Target, plan
from cryobase.store import Pool
from tests.images import write_folder
from tests.unit.stages.extraction.listing import write_listing
from tests.unit.stages.heads.sets import SPEC

COUNT = 5000


@pytest.fixture(autouse=True)
def many_blocks(monkeypatch):
    monkeypatch.setattr(planning, "BLOCK", 700)


@pytest.fixture
def images(tmp_path):
    write_listing(tmp_path / "raw", COUNT)
    return Images(tmp_path / "raw")


def firsts(images):
    """{digest: position of its first example}, without those in quarantine."""
    examples = images.raw.examples
    found = {}
    for position, digest in enumerate(examples.digests):
        if not examples.quarantined[position]:
            found.setdefault(digest.tobytes(), position)
    return found


def test_each_good_image_has_one_position_its_first(images):
    wanted = firsts(images)
    assert len(wanted) < (~images.raw.examples.quarantined).sum(), "some are there twice"
    assert images.positions.tolist() == sorted(wanted.values())
    assert np.concatenate(images.blocks()).tolist() == images.positions.tolist()
    assert images.digest(7) == images.raw.examples.digests[7].tobytes()


def test_a_plan_names_every_row_that_a_pool_lacks_and_no_other(images, tmp_path):
    there, views = images.positions[3::5], 2
    pools = [
        Pool(tmp_path / "pool", replace(SPEC, dtype=dtype)) for dtype in ("float32", "float16")
    ]
    with pools[0].writer() as writer:
        digests = images.raw.digests(there)
        writer.append(np.zeros((len(there), 1)), digests, np.full(len(there), 1, "u2"))
    found = {
        tuple(target.spec.dtype for target in each.targets): list(
            zip(each.positions.tolist(), each.views.tolist(), strict=True)
        )
        for each in plan([Target(pool, views) for pool in pools], images)
    }
    rows = [(position, view) for position in images.positions.tolist() for view in range(3)]
    have = [(position, 1) for position in there.tolist()]
    assert found == {
        ("float32", "float16"): sorted(set(rows) - set(have)),
        ("float16",): have,
    }


def test_an_empty_pool_is_filled_in_the_order_of_the_images(images, tmp_path):
    (whole,) = plan([Target(Pool(tmp_path / "pool", SPEC), 0)], images)
    assert whole.positions.tolist() == images.positions.tolist()
    assert not whole.views.any()


def test_planning_takes_less_than_a_hundred_bytes_per_image(images, tmp_path, monkeypatch):
    """So that ten million are planned in less than 1 GiB."""
    monkeypatch.setattr(planning, "BLOCK", 1 << 12)
    count, targets = 100_000, [Target(Pool(tmp_path / "pool", SPEC), 0)]
    write_listing(tmp_path / "large", count)
    plan(targets, images)  # imports what it needs
    tracemalloc.start()
    plan(targets, Images(tmp_path / "large"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 90 * count


def test_a_rate_is_kept_per_spec(tmp_path):
    assert planning.seconds_for(tmp_path, "a", 10) is None
    planning.remember_rate(tmp_path, "a", 100, 4.0)
    planning.remember_rate(tmp_path, "b", 10, 1.0)
    assert planning.seconds_for(tmp_path, "a", 50) == 2.0
    assert planning.seconds_for(tmp_path, "b", 50) == 5.0


def test_damage_costs_an_estimate_and_nothing_else(tmp_path):
    (tmp_path / planning.RATES).write_text("[")
    assert planning.seconds_for(tmp_path, "a", 10) is None
    planning.remember_rate(tmp_path / "nowhere", "a", 1, 1.0)


@pytest.mark.parametrize(("output", "expected"), [("avg", 1280 * 2), ("flatten", None)])
def test_bytes_of_pooled_rows_are_known_before_any_is_computed(
    tmp_path, monkeypatch, output, expected
):
    monkeypatch.setattr(planning, "BLOCK", 4)
    write_folder(tmp_path / "images", 3)
    source = download.DownloadConfig(source="folder", path=str(tmp_path / "images"))
    download.run(source, output=tmp_path / "raw")
    config = SetConfig(backbone="efficientnet_lite0", weights="none", output=output)
    found = planning.estimate(spec_of(config), 0, raw=tmp_path / "raw", pool=tmp_path / "pool")
    assert found.existing == 0
    assert found.missing == 9
    assert found.bytes == (expected and expected * found.missing)
    assert found.seconds is None
