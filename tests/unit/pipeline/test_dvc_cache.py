"""What DVC's cache still has of an output that DVC has removed."""

import json
from hashlib import md5
from pathlib import Path

import pytest

from cryobase.pipeline.dvc_cache import last_version


def cached(cache: Path, data: bytes, suffix: str = "") -> str:
    """Put a file into a cache of DVC; its name there."""
    digest = md5(data, usedforsecurity=False).hexdigest() + suffix
    path = cache / "files" / "md5" / digest[:2] / digest[2:]
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return digest


@pytest.mark.parametrize("folder", [".", "cryobase", "team/vision"])
def test_it_is_looked_for_where_the_dvc_repository_is(tmp_path, folder):
    """A pipeline may lie in a sub-folder of somebody's DVC repository."""
    root = tmp_path / folder
    root.mkdir(parents=True, exist_ok=True)
    cache = tmp_path / ".dvc" / "cache"
    entries = [{"md5": cached(cache, b"rows"), "relpath": "shard.h5"}]
    listing = cached(cache, json.dumps(entries).encode(), ".dir")
    out = {"path": "../features/small", "md5": listing}
    lock = {"schema": "2.0", "stages": {"extract@small": {"cmd": "x", "outs": [out]}}}
    (root / "dvc.lock").write_text(json.dumps(lock))
    with last_version(root, root / "features" / "small") as before:
        assert (before / "shard.h5").read_bytes() == b"rows"
