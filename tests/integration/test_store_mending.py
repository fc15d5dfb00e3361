"""Whatever is damaged: the command that the message names mends it."""

import os
import re
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from cryobase.store import FeatureSet, StoreError
from cryobase.store.manifest import load, manifest_path
from cryobase.store.shard import build_shard
from tests.integration.store_checkout import compute, cryobase, features_of, make, pool_of
from tests.integration.store_forgery import MANIFEST_KINDS, write_manifest
from tests.scale import RUN_ALL

PROBES = (
    ("store", "verify", "--full"),
    ("store", "verify", "small"),
    ("store", "show", "small"),
    ("store", "export", "small", "--npz", "small.npz"),
    ("store", "diff", "small", "small"),
    ("store", "why", "small"),
    ("store", "plan"),
    ("store", "ls"),
    ("store", "gc"),
    ("extract",),
    ("extract", "small"),
    ("python",),
)


@pytest.fixture(autouse=True)
def place(quick_path, monkeypatch):
    monkeypatch.chdir(quick_path)
    monkeypatch.delenv("CRYOBASE_POOL", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr("cryobase.stages.extract._computed", compute)
    return quick_path


@pytest.mark.parametrize("name", ["received", "features/received", "./features/received/"])
def test_of_a_set_that_nobody_here_can_compute_no_command_is_named(place, name):
    build(place, "linked")
    shutil.copytree("features/small", name)
    (path,) = Path(name).glob("shard-*")
    alter(path)
    shown = name if "/" in name else f"./{name}"
    for command in (("verify", shown), ("verify", shown, "--full"), ("import", name, "again")):
        code, said = cryobase("store", *command)
        assert code == 4
        assert "SHA-256" in said
        assert "get it from where it came again" in said
        assert "`" not in said
    code, said = cryobase("store", "repair", shown)
    assert (code, "damaged, and no set of" in said) == (0, False)  # the pool has its rows
    assert cryobase("store", "verify", shown, "--full")[0] == 0
    alter(path)
    shutil.rmtree(".cryobase")
    shutil.rmtree("features/small")
    code, said = cryobase("store", "repair", shown)
    assert (code, "damaged, and no set of" in said) == (4, True)
    assert cryobase("store", "verify", shown)[0] == 4


def test_repair_of_a_set_that_dvc_removed_uses_what_is_sound_in_its_cache(place):
    """`extract` verifies the last version before it takes its rows."""
    build(place, "empty")
    (path,) = place.glob(FILES["set-shard"])
    alter(path)
    Path("features/small").rename("before")
    from cryobase.pipeline.params import load
    from cryobase.stages import extract as stage

    config = load(Path("params.yaml")).extract
    places = {"raw": Path("data/raw"), "pool": Path(".cryobase/pool")}
    with pytest.raises(StoreError, match="`cryobase store repair small`"):
        stage.run(config, "small", output=Path("features/small"), before=Path("before"), **places)
    assert cryobase("store", "repair", "small")[0] == 0
    stage.run(config, "small", output=Path("features/small"), before=Path("before"), **places)


def alter(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


def lose(path):
    path.unlink()


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def directory(path):
    path.unlink()
    path.mkdir()


HOW = {work.__name__: work for work in (alter, cut, lose, link, directory)}
FILES = {
    "set-shard": "features/small/shard-*",
    "set-examples": "features/small/examples-*",
    "set-canary": "features/small/canary-*",
    "pool-shard": ".cryobase/pool/*/shard-*",
    "pool-canary": ".cryobase/pool/*/canary-*",
}
MANIFESTS = {"set": "features/small", "pool": ".cryobase/pool/[0-9a-f]*"}
POOLS = ("linked", "copied", "empty")  # what the pool has of the set


def build(place, pool_has):
    """A checkout with a canary, whose set was linked to the pool, copied, or is all there is."""
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    make(place)
    pool = pool_of(place)
    pool.record_canary(features_of(np.arange(64, dtype="u1").reshape(2, 32)))
    found = FeatureSet.open(place / "features/small")
    pool.publish(place / "features/small", found.examples)
    if pool_has == "copied":
        shutil.copytree("features", "copies")
        shutil.rmtree("features")
        Path("copies").rename("features")
    if pool_has == "empty":
        shutil.rmtree(".cryobase")


def damage_file(place, which, how):
    (path,) = place.glob(FILES[which])
    HOW[how](path)


def damage_manifest(place, which, how):
    (found,) = place.glob(MANIFESTS[which])
    version, _ = load(found)
    path = manifest_path(found, 999_999_999 if how == "copy" else version)
    data = manifest_path(found, version).read_bytes()
    path.unlink(missing_ok=True)
    MANIFEST_KINDS[how](path, data)


def double_rows(place, which, how):
    """A shard more, with a row that another shard has."""
    (found,) = place.glob(MANIFESTS[which])
    _, manifest = load(found)
    digests, views = FeatureSet.open(place / "features/small").table.shards[0].keys()
    more = features_of(digests[:2]).astype(manifest.spec.dtype) + 1
    info, data = build_shard(more, digests[:2], views[:2])
    (found / info.name).write_bytes(data)
    for path in found.glob("manifest-*"):
        path.rename(found / "manifest-1.json")
    write_manifest(found, replace(manifest, shards=(*manifest.shards, info)))


SITUATIONS = [
    *((damage_file, *one) for one in product(FILES, HOW, POOLS)),
    *((damage_manifest, *one) for one in product(MANIFESTS, MANIFEST_KINDS, POOLS)),
    *((double_rows, *one) for one in product(MANIFESTS, ("",), POOLS)),
]
SITUATIONS = [one for one in SITUATIONS if not (one[1].startswith("pool") and one[3] == "empty")]
STRIDE = 1 if RUN_ALL else 4


def probe(*command):
    if command != ("python",):
        return cryobase(*command)
    try:
        FeatureSet.open(Path("features/small"), full=True).arrays()
    except StoreError as error:
        return 4, str(error)
    return 0, ""


@pytest.mark.timeout(300)
@pytest.mark.fault(25)
@pytest.mark.parametrize(("damage", "which", "how", "pool_has"), SITUATIONS[::STRIDE])
def test_what_the_message_names_mends(place, damage, which, how, pool_has):
    def damaged():
        build(place, pool_has)
        damage(place, which, how)

    damaged()
    commands = set()
    for command in PROBES:
        code, said = probe(*command)
        if code:
            assert (code, said.count("\n")) == (4, 0), (command, said)
            (named,) = re.findall(r"`cryobase ([^`]+)`", said)
            commands.add(named)
    for command in commands:
        damaged()
        code, said = cryobase(*command.split())
        assert code == 0, (command, said)
        for again in PROBES:
            assert probe(*again)[0] == 0, (command, again)
        found = FeatureSet.open(place / "features/small", full=True)
        digests = found.examples.digests
        assert (found.arrays()[0] == features_of(digests).astype("f2")).all()
    if which == "set-shard" or (which == "pool" and how not in ("copy", "")):
        assert commands
