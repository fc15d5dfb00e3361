"""Feature sets whose manifest fits whatever has been done to their files."""

import json
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

from store.manifest import FileInfo, Manifest, ShardInfo, load, manifest_path
from store.spec import canonical_json


def replace_shard(directory: Path, data: bytes, number: int = 0) -> Path:
    """Put `data` in place of a shard and let the manifest name it, hash and size included."""
    _, manifest = load(directory)
    old = manifest.shards[number]
    (directory / old.name).unlink()
    facts = asdict(FileInfo.of("shard", data))
    new = ShardInfo(**facts, rows=old.rows, digest=old.digest)
    (directory / new.name).write_bytes(data)
    shards = tuple(new if shard == old else shard for shard in manifest.shards)
    write_manifest(directory, replace(manifest, shards=shards))
    return directory / new.name


def replace_examples(directory: Path, data: bytes) -> Path:
    """Put `data` in place of the examples and let the manifest name it."""
    _, manifest = load(directory)
    assert manifest.published
    (directory / manifest.published.examples.name).unlink()
    new = FileInfo.of("examples", data)
    (directory / new.name).write_bytes(data)
    published = replace(manifest.published, examples=new)
    write_manifest(directory, replace(manifest, published=published))
    return directory / new.name


def replace_canary(directory: Path, data: bytes) -> Path:
    """Give a set `data` as its canary file and let the manifest name it."""
    _, manifest = load(directory)
    new = FileInfo.of("canary", data)
    (directory / new.name).write_bytes(data)
    write_manifest(directory, replace(manifest, canary=new))
    return directory / new.name


def write_manifest(directory: Path, manifest: Manifest) -> None:
    path = manifest_path(directory, 1)
    path.unlink()
    path.write_bytes(manifest.to_bytes())


def sign(value: dict) -> bytes:
    """The text of a manifest with the right checksum, whatever it says."""
    value = json.loads(json.dumps(value))
    value.pop("checksum", None)
    value["checksum"] = sha256(canonical_json(value)).hexdigest()
    return canonical_json(value) + b"\n"
