"""Feature sets whose manifest fits whatever has been done to their files."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from cryobase.store.manifest import FileInfo, Manifest, ShardInfo, load, manifest_path
from cryobase.store.shard import COLUMNS, Shard
from cryobase.store.spec import canonical_json


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


def _is_directory(path: Path, data: bytes) -> None:
    path.mkdir()
    (path / "inside").write_bytes(data)


def _is_fifo(path: Path, _: bytes) -> None:
    os.mkfifo(path)


def _is_link(path: Path, data: bytes) -> None:
    path.with_name("elsewhere").write_bytes(data)
    path.symlink_to("elsewhere")


MANIFEST_NAMES = (
    "manifest-999999999.json",
    "manifest-999999998.json",
    "manifest-1000000000.json",
    "manifest-99999999999999999999999.json",
    "manifest-0.json",
    "manifest-1.json",
    "manifest--1.json",
    "manifest-007.json",
    "manifest-7.json",
    "manifest-\u0667.json",
    "manifest-\uff17.json",
    "manifest-7.json\n",
    "manifest-1e9.json",
)
MANIFEST_KINDS: dict[str, Callable[[Path, bytes], object]] = {
    "copy": Path.write_bytes,
    "empty": lambda path, _: path.write_bytes(b""),
    "junk": lambda path, _: path.write_bytes(b"{" * 1000),
    "directory": _is_directory,
    "fifo": _is_fifo,
    "link": _is_link,
}


def plant_manifest(directory: Path, name: str, kind: str) -> Path:
    """Put something called like a manifest into a pool or set; a copy has the newest one's text."""
    version, _ = load(directory)
    path, data = directory / name, manifest_path(directory, version).read_bytes()
    path.unlink(missing_ok=True)
    MANIFEST_KINDS[kind](path, data)
    return path


def _bit(shard: Shard, _: np.random.Generator) -> dict[str, np.ndarray]:
    features = shard.read(0, shard.info.rows)
    features.reshape(-1).view(np.uint8)[features.nbytes // 2] ^= 1
    return {"features": features}


def _swap(shard: Shard, _: np.random.Generator) -> dict[str, np.ndarray]:
    features = shard.read(0, shard.info.rows)
    features[[0, 1]] = features[[1, 0]]
    return {"features": features}


def _shuffle(shard: Shard, random: np.random.Generator) -> dict[str, np.ndarray]:
    return {"features": random.permutation(shard.read(0, shard.info.rows))}


def _foreign(shard: Shard, random: np.random.Generator) -> dict[str, np.ndarray]:
    features = shard.read(0, shard.info.rows)
    features[3] = random.normal(size=features.shape[1:])
    return {"features": features}


def _keys(shard: Shard, _: np.random.Generator) -> dict[str, np.ndarray]:
    digests, _views = shard.keys()
    return {"digest": digests[::-1]}


def _views(shard: Shard, _: np.random.Generator) -> dict[str, np.ndarray]:
    _digests, views = shard.keys()
    return {"view": views + 1}


ALTERATIONS: dict[str, Callable[[Shard, np.random.Generator], dict[str, np.ndarray]]] = {
    "a bit": _bit,
    "two rows swapped": _swap,
    "all rows shuffled": _shuffle,
    "another set's row": _foreign,
    "digests swapped": _keys,
    "views changed": _views,
}


@contextmanager
def altered(path: Path, how: str) -> Iterator[None]:
    """Alter a file in place, under all the names that it has; its size and times stay. Undone last.

    Args:
        path: a shard, or another file of the store for "a bit".
        how: a key of `ALTERATIONS`.
    """
    original, before = path.read_bytes(), path.stat()
    data = bytearray(original)
    if path.name.startswith("shard-"):
        _, manifest = load(path.parent)
        info = next(info for info in manifest.shards if info.name == path.name)
        shape = manifest.feature_shape or ()
        shard = Shard(path.parent, info, manifest.spec.dtype, shape)
        offsets = dict(zip(COLUMNS, shard._offsets, strict=True))
        for name, values in ALTERATIONS[how](shard, np.random.default_rng(1)).items():
            raw = np.ascontiguousarray(values).tobytes()
            data[offsets[name] : offsets[name] + len(raw)] = raw
    else:
        data[len(data) // 2] ^= 1
    assert len(data) == len(original)
    assert data != original
    _overwrite(path, data, before)
    try:
        yield
    finally:
        _overwrite(path, original, before)


def _overwrite(path: Path, data: bytes, times: os.stat_result) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def sign(value: dict) -> bytes:
    """The text of a manifest with the right checksum, whatever it says."""
    value = json.loads(json.dumps(value))
    value.pop("checksum", None)
    value["checksum"] = sha256(canonical_json(value)).hexdigest()
    return canonical_json(value) + b"\n"


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    """An HDF5 file with bytes of an object header changed, and its checksum made right again."""
    changed = bytearray(data)
    place = changed.index(old)
    header = changed.rindex(b"OHDR", 0, place)
    width = 1 << (changed[header + 5] & 3)  # of the field that has the header's length
    messages = header + 6 + width
    end = messages + int.from_bytes(changed[header + 6 : messages], "little")
    changed[place : place + len(new)] = new
    changed[end : end + 4] = lookup3(bytes(changed[header:end])).to_bytes(4, "little")
    return bytes(changed)


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hash, the checksum of HDF5's metadata (lookup3.c, hashlittle)."""

    def rotated(value: int, count: int) -> int:
        return (value << count | value >> (32 - count)) & 0xFFFFFFFF

    a = b = c = (0xDEADBEEF + len(data)) & 0xFFFFFFFF
    blocks = [data[start : start + 12] for start in range(0, len(data), 12)]
    for number, block in enumerate(blocks, 1):
        words = [int.from_bytes(block[k : k + 4], "little") for k in (0, 4, 8)]
        a, b, c = ((v + word) & 0xFFFFFFFF for v, word in zip((a, b, c), words, strict=True))
        if number < len(blocks):
            for count in (4, 6, 8, 16, 19, 4):
                a = (a - c) & 0xFFFFFFFF ^ rotated(c, count)
                c = (c + b) & 0xFFFFFFFF
                a, b, c = b, c, a
        else:
            for count in (14, 11, 25, 16, 4, 14, 24):
                c = ((c ^ b) - rotated(b, count)) & 0xFFFFFFFF
                a, b, c = b, c, a
    return b  # the c of the last step
