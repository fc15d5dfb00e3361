"""`cryobase store …` on a small checkout with features written by hand: no Keras is needed."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from cryobase.pipeline.cli import app
from cryobase.pipeline.params import ParamsError
from cryobase.stages import download, extract
from cryobase.store import FeatureSet, Pool, StoreError
from tests.images import write_folder
from tests.integration.store_checkout import WIDTH, features_of, make


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CRYOBASE_POOL", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return make(tmp_path)


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["store", *arguments], catch_exceptions=code == 0)
    if code == 0 and result.exception:
        raise result.exception
    return result.stdout


def test_ls_and_show(checkout):
    rows = json.loads(run("ls", "--json"))
    assert [(row["name"][:5], row["rows"]) for row in rows] == [("small", 30), ("pool ", 30)]
    shown = json.loads(run("show", "small"))
    assert shown["images"] == 30
    assert shown["feature_shape"] == [WIDTH]
    assert shown["spec"]["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()


def test_plan_counts_rows_before_anything_is_computed(checkout):
    write_folder(checkout / "images", 2, first=10)
    config = download.DownloadConfig(source="folder", path="images")
    download.run(config, output=checkout / "data/raw")
    (plan,) = json.loads(run("plan", "--json"))
    row_bytes = WIDTH * 2
    assert (plan["existing"], plan["missing"]) == (30, 6)
    assert plan["bytes"] == 6 * row_bytes


def test_a_plan_of_weights_that_are_not_here_downloads_none(checkout, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(checkout / "keras"))
    params = YAML().load(checkout / "params.yaml")
    params["extract"]["sets"]["other"] = {"backbone": "vgg16", "views": 0}
    YAML().dump(params, checkout / "params.yaml")
    _, plan = json.loads(run("plan", "--json"))
    assert (plan["existing"], plan["missing"], plan["bytes"]) == (0, 30, 30 * 512 * 2)
    assert not (checkout / "keras").exists()


def test_a_plan_counts_the_rows_of_a_set_that_was_pulled(checkout):
    shutil.rmtree(checkout / ".cryobase")
    (plan,) = json.loads(run("plan", "--json"))
    assert (plan["existing"], plan["missing"]) == (30, 0)


def test_why_names_the_part_that_changed(checkout):
    assert "nothing" in run("why", "small")
    params = YAML().load(checkout / "params.yaml")
    params["extract"]["sets"]["small"]["image_size"] = 64
    YAML().dump(params, checkout / "params.yaml")
    assert run("why", "small").splitlines()[1].split() == ["image_size", "32", "64"]


def test_diff_counts_what_changed(checkout):
    found = FeatureSet.open(checkout / "features/small")
    pool = Pool(checkout / ".cryobase/pool", found.spec)
    from cryobase.store import Examples

    fewer = Examples.create(
        ids=found.examples.ids[1:].tolist(),
        digests=found.examples.digests[1:],
        labels=found.examples.labels[1:],
        quarantined=None,
        classes=found.classes,
    )
    pool.publish(checkout / "features/fewer", fewer)
    assert json.loads(run("diff", "small", "fewer", "--json"))["removed"] == 1
    assert json.loads(run("diff", "small", "small", "--json"))["removed"] == 0


def test_export_and_import_hold_the_same_rows(checkout):
    run("export", "small", "--npz", "small.npz", "--csv", "small.csv")
    with np.load("small.npz", allow_pickle=False) as arrays:
        found = FeatureSet.open(checkout / "features/small")
        np.testing.assert_array_equal(arrays["features"], found.rows())
    assert len(Path("small.csv").read_text().splitlines()) == 31
    run("export", "small", "--projector", "logs/small")
    assert len(Path("logs/small/tensors.tsv").read_text().splitlines()) == 30
    assert "every byte right" in run("import", "features/small", "received")
    assert FeatureSet.open(checkout / "features/received").digest == found.digest


@pytest.mark.parametrize("command", ["verify", "show", "repair", "diff small", "export --csv=x"])
def test_a_set_that_nobody_knows_is_refused_with_the_known_names(checkout, command):
    shutil.copytree(checkout / "features/small", checkout / "features/received")
    with pytest.raises(ParamsError, match="no feature set 'other'; known: received, small"):
        CliRunner().invoke(app, ["store", *command.split(), "other"], catch_exceptions=False)


def test_a_set_of_params_that_is_not_there_yet_is_told_to_be_made(checkout):
    shutil.rmtree(checkout / "features")
    with pytest.raises(StoreError, match="run `cryobase extract`"):
        CliRunner().invoke(app, ["store", "verify", "small"], catch_exceptions=False)


def test_where_no_set_is_the_commands_say_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CRYOBASE_POOL", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert run("verify") == "no feature set here, so nothing was checked\n"
    assert run("ls") == "no feature set and no pool here\n"
    assert json.loads(run("verify", "--json")) == json.loads(run("ls", "--json")) == []


def test_a_damaged_set_is_refused_and_repair_drops_its_rows(checkout, monkeypatch):
    assert "structure right" in run("verify")
    (shard,) = (checkout / ".cryobase/pool").glob("*/shard-*.h5")
    data = bytearray(shard.read_bytes())
    position = data.index(features_of(FeatureSet.open(checkout / "features/small").examples.digests)
                          .astype("<f2")[:1].tobytes()[:6])  # fmt: skip
    data[position] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(data)  # the set's hard link sees it too
    with pytest.raises(Exception, match=r"sha256|SHA-256"):
        run("verify", "small", "--full")
    asked = []
    monkeypatch.setattr(extract, "run", lambda config, name, **paths: asked.append(name))
    assert "dropped 30 rows" in run("repair")
    assert asked == ["small"]


def test_gc_removes_only_what_no_manifest_names(checkout):
    (pool,) = (checkout / ".cryobase/pool").glob("*/")
    leftover = pool / ("shard-" + "0" * 64 + ".h5")
    leftover.write_bytes(b"x")
    os.utime(leftover, (0, 0))
    assert str(leftover.name) in run("gc", "--dry-run")
    assert leftover.exists()
    run("gc")
    assert not leftover.exists()
    assert "every byte right" in run("verify", "--full")


RATES = (b"[", b'{"%s":1e-300}', b'{"%s":NaN}', b'{"%s":"fast"}', b'{"%s":true}', b'{"%s":1e999}')


@pytest.mark.parametrize("kind", [*RATES, "fifo", "directory", "endless"])
def test_whatever_a_shared_pool_says_of_rates_costs_no_more_than_the_estimate(checkout, kind):
    (pool,) = (checkout / ".cryobase/pool").glob("*/")
    path = pool.parent / "rates.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "endless":
        path.touch()
        os.truncate(path, 1 << 40)
    else:
        path.write_bytes(kind.replace(b"%s", pool.name.encode()))
    (plan,) = json.loads(run("plan", "--json"))
    assert (plan["existing"], plan["seconds"]) in {(30, None), (30, 0.0)}
