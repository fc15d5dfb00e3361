"""Hostile feature sets and pools, each met by a command that reads them; see `attacks`."""

import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cryobase.store import Examples, FeatureSet, Pool
from cryobase.store.manifest import set_digest
from cryobase.store.shard import build_shard
from tests.hostile_texts import TEXTS
from tests.integration import test_store_attack as crafted
from tests.integration.attacks import Command, Run, add_row, attack, special
from tests.integration.store_forgery import (
    MANIFEST_KINDS,
    plant_manifest,
    replace_canary,
    replace_examples,
    replace_shard,
    sign,
    write_manifest,
)
from tests.unit.stages.heads.sets import blobs, publish, split
from tests.unit.store.samples import digests, examples, features, fill, published, spec

PARAMS = """
extract: {sets: {small: {backbone: efficientnet_lite0, weights: none, image_size: 32}}}
train: {heads: {linear: {kind: linear, epochs: 2}}}
"""
VERIFY = ("store", "verify", "small", "--full")
LOOK = ("store", "verify", "small")
SHOW = ("store", "show", "small")
LIST = ("store", "ls")
TRAIN = ("train", "small")
CSV = ("store", "export", "small", "--csv", "out.csv")
IMPORT = ("store", "import", "features/small", "mine")


def checkout(place: Path, values: np.ndarray | None = None) -> Path:
    """A checkout with one set of thirty images and its splits, and the directory of the set."""
    found, labels = blobs(30, 5, 3)
    if values is not None:
        found[: len(values)] = values
    rows = publish(place / "made", found, labels, classes=("cat", "dog", "emu"))
    split(place / "data", rows)
    directory = place / "features" / "small"
    directory.parent.mkdir()
    (place / "made" / "features").rename(directory)
    (place / "params.yaml").write_text(PARAMS)
    return directory


# Manifests: whatever they say, their checksum is right


def say(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Let a manifest say something else."""
    path = directory / "manifest-1.json"
    value = json.loads(path.read_bytes())
    change(value)
    path.unlink()
    path.write_bytes(sign(value))


def at(path: str, value: Any) -> Callable[[dict[str, Any]], object]:
    """Put a value into a manifest, at keys or numbers with dots between them."""
    *keys, last = [int(key) if key.isdigit() else key for key in path.split(".")]

    def change(document: Any) -> None:
        for key in keys:
            document = document[key]
        document[last] = value

    return change


LIES = {
    "rows as a truth value": ("shards.0.rows", True),
    "rows below zero": ("shards.0.rows", -1),
    "rows of 2^53": ("shards.0.rows", 1 << 53),
    "rows in a text": ("shards.0.rows", "30"),
    "a shard of an exabyte": ("shards.0.size", 1 << 60),
    "a shard that is a path": ("shards.0.name", "../../../../etc/passwd"),
    "a shard that is no text": ("shards.0.name", ["shard"]),
    "one more key of a shard": ("shards.0.path", "/etc/passwd"),
    "no shards": ("shards", []),
    "shards in a map": ("shards", {}),
    "shards of nothing": ("shards", [None]),
    "classes in a text": ("published.classes", "abc"),
    "equal classes": ("published.classes", ["cat", "cat", "emu"]),
    "classes that are numbers": ("published.classes", [1, 2, 3]),
    "fewer classes than labels": ("published.classes", ["cat"]),
    "no classes": ("published.classes", []),
    "half of a character as a class": ("published.classes", ["\ud83d", "dog", "emu"]),
    "65,535 views": ("published.views", 65_535),
    "a view more than there is": ("published.views", 1),
    "more quarantined than there are": ("published.quarantined", 31),
    "some quarantined that are not": ("published.quarantined", 3),
    "examples of an exabyte": ("published.examples.size", 1 << 60),
    "a count of 2^52": ("published.count", 1 << 52),
    "a pool": ("published", None),
    "nothing as a feature's shape": ("feature_shape", []),
    "a shape of forty sides": ("feature_shape", [1] * 40),
    "a shape of 10^18 values": ("feature_shape", [10**9, 10**9]),
    "another shape of as many values": ("feature_shape", [5, 1]),
    "an image size of 2^50": ("spec.image_size", 1 << 50),
    "an image size below zero": ("spec.image_size", -32),
    "a dtype that is none": ("spec.dtype", "object"),
    "a wider dtype": ("spec.dtype", "float64"),
    "a backbone that is a path": ("spec.backbone", "../../etc"),
    "an output that is a command": ("spec.output", "$(touch pwned)"),
    "one more key of the spec": ("spec.__class__", "os"),
    "a spec that is a list": ("spec", []),
    "weights of another length": ("spec.weights_sha256", "ab"),
    "another fingerprint": ("fingerprint", "0" * 64),
    "schema 2": ("schema", 2),
    "schema 2^60": ("schema", 1 << 60),
    "a schema in a text": ("schema", "1"),
    "a canary that is a shard": ("canary", {"name": "shard-1.h5", "size": 1, "sha256": "1"}),
    "a canary that is not there": (
        "canary",
        {"name": f"canary-{'a' * 64}.npy", "size": 1, "sha256": "a" * 64},
    ),
    "the digest of another set": ("published.digest", "0" * 64),
}


def _add_lies() -> None:
    commands = [VERIFY, SHOW, LIST, TRAIN, CSV, IMPORT]
    sure = ("the digest of another set",)  # which --full alone computes
    for number, (name, (path, value)) in enumerate(LIES.items()):
        command = VERIFY if name in sure else commands[number % len(commands)]

        def write(
            place: Path, path: str = path, value: Any = value, command: Command = command
        ) -> Command:
            say(checkout(place), at(path, value))
            return command

        add_row(f"a manifest with {name}", write, 4)


_add_lies()


@attack(3)
def a_manifest_of_a_hundred_thousand_classes(place):
    """Most of them have no image."""
    say(checkout(place), at("published.classes", [str(number) for number in range(100_000)]))
    return TRAIN


@attack(
    4,
    deep=lambda text: b'{"a":' * 10_000 + text + b"}" * 10_000,
    a_byte_order_mark=lambda text: b"\xef\xbb\xbf" + text,
    carriage_returns=lambda text: text.replace(b"\n", b"\r\n"),
    blanks=lambda text: text.replace(b",", b", "),
    two_documents=lambda text: text + text,
    a_key_twice=lambda text: text.replace(b"{", b'{"schema":1,', 1),
    nothing=lambda _: b"",
    zeros=lambda text: bytes(len(text)),
    utf_16=lambda text: text.decode().encode("utf-16"),
    another_checksum=lambda text: re.sub(rb'(checksum":")\w', rb"\1g", text),
    a_million_values=lambda _: b"[" + b"0," * 1_000_000 + b"0]",
    a_long_number=lambda text: text.replace(b'"schema":1', b'"schema":1' + b"0" * 100_000),
    half=lambda text: text[: len(text) // 2],
)
def a_manifest_of_another_text(place, change):
    path = checkout(place) / "manifest-1.json"
    text = path.read_bytes()
    path.unlink()
    path.write_bytes(change(text))
    return VERIFY


@attack(4, **{kind: kind for kind in MANIFEST_KINDS if kind != "copy"})
def the_last_version_that_there_is(place, kind):
    plant_manifest(checkout(place), "manifest-999999999.json", kind)
    return TRAIN


@attack(
    4, fifo="fifo", folder="folder", device="device", socket="socket", sparse="sparse",
    link="link", circle="circle",
)  # fmt: skip
def a_file_of_a_set_that_is_none(place, kind):
    directory = checkout(place)
    names = {"fifo": "shard", "folder": "examples", "device": "shard", "sparse": "shard"}
    [path, *_] = sorted(directory.glob(f"{names.get(kind, 'manifest')}-*"))
    special(path, kind)
    return IMPORT if kind in ("device", "sparse") else VERIFY


# Shards and examples: the manifest fits them


def _add_crafted() -> None:
    tables = (("shard", crafted.SHARDS, replace_shard),)
    tables += (("examples", crafted.EXAMPLES, replace_examples),)
    for kind, table, put in tables:
        for name, (make, _) in table.items():

            def write(place: Path, make: Any = make, put: Any = put) -> Command:
                put(published(place), crafted.hdf5(make))
                return ("store", "import", "set", "mine")

            add_row(f"crafted {kind}: {name}", write, 4)


_add_crafted()


@attack(4, flipped=0, shuffled=1, zeroed=2, doubled=3)
def rows_changed_in_place(place, kind):
    directory = checkout(place)
    shard = FeatureSet.open(directory).table.shards[0]
    data = bytearray(shard.path.read_bytes())
    values = memoryview(data)[shard.offset : shard.offset + 30 * 20].cast("B")
    rows = np.frombuffer(values, "<f4").reshape(30, 5)
    rows[:] = (-rows, rows[::-1], 0 * rows, np.tile(rows[:1], (30, 1)))[kind]
    facts = shard.path.stat()
    shard.path.chmod(0o600)
    with shard.path.open("r+b") as file:
        file.write(data)
    os.utime(shard.path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    return TRAIN


@attack(4, nan=np.nan, inf=np.inf, minus_inf=-np.inf)
def rows_that_are_not_finite(place, value):
    """Under a manifest that fits in every way: whoever made the set computed such rows."""
    directory = checkout(place)
    table = FeatureSet.open(directory).table
    rows, (keys, views) = table.take(np.arange(30)), table.shards[0].keys()
    rows[3, 2] = value
    forged(directory, rows, keys, views)
    return TRAIN


def forged(directory: Path, rows: np.ndarray, keys: np.ndarray, views: np.ndarray) -> None:
    """Put other rows into a set of one shard, with all that a manifest says of them."""
    with FeatureSet.open(directory) as before:
        info, data = build_shard(rows, keys, views)
        total, published = int(info.digest, 16), before.manifest.published
        assert published
        digest = set_digest(before.spec.fingerprint, before.examples.digest, 0, total)
        new = replace(before.manifest, shards=(info,), published=replace(published, digest=digest))
    (directory / info.name).write_bytes(data)
    write_manifest(directory, new)


@attack(0, largest=3e38, zeros=0.0)
def rows_of_extreme_values(place, value):
    checkout(place, np.full((10, 5), value, np.float32))
    return TRAIN


@attack(4)
def a_canary_of_objects(place):
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": print}], object), allow_pickle=True)
    replace_canary(checkout(place), buffer.getvalue())
    return VERIFY


# Names and places


@attack(
    2,
    up="../mine",
    root="/mine",
    here=".",
    newline="a\nb",
    escape="\x1b[2J",
    long="a" * 300,
    bidi="a\u202eb",
    nul="a\0b",
)
def a_name_for_an_import(place, name):
    checkout(place)
    return ("store", "import", "features/small", name)


@attack(4, fifo="fifo", folder="folder", device="device", socket="socket", circle="circle")
def a_set_that_is_none(place, kind):
    checkout(place)
    special(place / "received", kind)
    return ("store", "import", "received", "mine")


@attack(4, fifo="fifo", socket="socket", circle="circle")
def what_lies_where_a_set_goes(place, kind):
    checkout(place)
    special(place / "features" / "mine", kind)
    return IMPORT


@attack(0)
def a_set_with_a_hundred_thousand_other_files(place):
    directory = checkout(place)
    first = directory / "junk"
    first.touch()
    for number in range(60_000):  # more links than one file may have on ext4
        if number % 30_000 == 0:
            first = directory / f"first{number}"
            first.touch()
        os.link(first, directory / f"{number}")
    return IMPORT


@attack(0, clear="clear screen", bidi="right-to-left override", script="script",
        formula="formula", tab="tab", newline="newline", c1="C1 control sequence")  # fmt: skip
def a_class_of_a_set_that_does_something(place, name):
    found, labels = blobs(30, 5, 2)
    publish(place / "made", found, labels, classes=("cat", TEXTS[name]))
    (place / "features").mkdir()
    (place / "made" / "features").rename(place / "features" / "small")
    return SHOW if name in ("tab", "newline") else CSV


@attack(0, out_of_the_checkout="../../beside")
def an_image_called(place, name):
    """Ids are told, never opened: of a set nothing but its own files is read."""
    pool = fill(Pool(place / "pool", spec()), range(4))
    ids = [f"{name}/{number}".encode() for number in range(4)]
    made = Examples.create(ids, digests(range(4)), [0, 1, 0, 1], [False] * 4, ("a", "b"))
    pool.publish(place / "features" / "small", made)
    return ("store", "export", "small", "--projector", "out")


# Pools


def pooled(place: Path) -> tuple[Pool, Path]:
    """A pool of twenty rows that somebody shares, and its directory."""
    pool = fill(Pool(place / "shared", spec()), range(20))
    os.environ["CRYOBASE_POOL"] = str(place / "shared")
    (place / "params.yaml").write_text(PARAMS)
    return Pool(place / "shared", spec()), pool.directory


def publishing(place: Path, pool: Pool) -> Run:
    """What `extract` does with a pool that has all rows."""
    return lambda: pool.publish(place / "features" / "small", examples(range(20)))


def appending(pool: Pool) -> Run:
    """What `extract` does with a pool that lacks rows."""
    return lambda: fill(pool, range(20, 30))


@attack(4, **{kind: kind for kind in MANIFEST_KINDS})
def a_pool_with_the_last_version(place, kind):
    pool, directory = pooled(place)
    plant_manifest(directory, "manifest-999999999.json", kind)
    return appending(pool)


@attack(4, ls=LIST, gc=("store", "gc"))
def a_pool_with_a_manifest_of_junk(place, command):
    _, directory = pooled(place)
    (directory / "manifest-2.json").write_bytes(b"{" * 5000)
    return command


@attack(4, folder="folder", socket="socket", device="device", circle="circle")
def a_lock_of_a_pool_that_is_no_file(place, kind):
    pool, directory = pooled(place)
    special(directory / "writers.lock", kind)
    return appending(pool)


@attack(4)
def a_lock_of_a_pool_that_leads_out(place):
    """Whoever opens it to hold it would make, or cut short, what it leads to."""
    pool, directory = pooled(place)
    special(directory / "writers.lock", "link", place.parent / "beside")
    return appending(pool)


@attack(4)
def a_lock_of_a_pool_that_makes_a_file(place):
    pool, directory = pooled(place)
    special(directory / "writers.lock", "link", place.parent / "made")
    return appending(pool)


@attack(4, fifo="fifo", folder="folder", socket="socket", device="device", sparse="sparse")
def a_shard_of_a_pool_that_is_none(place, kind):
    pool, directory = pooled(place)
    [path] = directory.glob("shard-*")
    special(path, kind)
    return publishing(place, pool)


@attack(4)
def a_pool_whose_rows_were_changed(place):
    pool, directory = pooled(place)
    [path] = directory.glob("shard-*")
    data = bytearray(path.read_bytes())
    position = data.index(features([7]).tobytes())
    data[position : position + 20] = features([8]).tobytes()
    path.chmod(0o600)
    path.write_bytes(data)
    return publishing(place, pool)


@attack(4)
def a_pool_of_another_spec(place):
    _, directory = pooled(place)
    other = Pool(place / "shared", spec(backbone="vgg19"))
    directory.rename(other.directory)
    return appending(other)


@attack(0, fifo="fifo", sparse="sparse", device="device", folder="folder")
def rates_of_a_pool_that_are_no_file(place, kind):
    """They only say how long it will take."""
    from cryobase.stages.extraction.plan import seconds_for

    _, directory = pooled(place)
    special(place / "shared" / "rates.json", kind)
    return lambda: seconds_for(place / "shared", directory.name, 10)


@attack(0, text='{"a": "x"}', list="[]", nan='{"a": NaN}', zero='{"a": 0}', deep="[" * 10**5)
def rates_of_a_pool(place, text):
    from cryobase.stages.extraction.plan import remember_rate, seconds_for

    pooled(place)
    (place / "shared" / "rates.json").write_text(text)
    return lambda: (
        seconds_for(place / "shared", "a", 10),
        remember_rate(place / "shared", "b", 1, 1.0),
    )


@attack(2, fifo="fifo", circle="circle", device="device", file="file")
def a_pool_that_is_no_directory(place, kind):
    (place / "params.yaml").write_text(PARAMS)
    (place / "x").touch()
    special(place / "shared", "link" if kind == "file" else kind, place / "x")
    os.environ["CRYOBASE_POOL"] = str(place / "shared")
    return LIST


@attack(0)
def a_pool_in_which_strangers_lie(place):
    _, directory = pooled(place)
    for name in ("x\x1b[2J", "\u202e", "a" * 200):
        (place / "shared" / name).mkdir()
    special(place / "shared" / "f", "fifo")
    special(directory / "f", "fifo")
    special(directory / "d", "device")
    return ("store", "gc")


# What this machine has checked


def memory(place: Path) -> Path:
    return Path(os.environ["CRYOBASE_CACHE"]) / f"verified-{os.geteuid()}"


@attack(
    0, fifo="fifo", folder="folder", device="device", socket="socket", sparse="sparse",
    link="link", circle="circle",
)  # fmt: skip
def a_memory_of_checks_that_is_no_file(place, kind):
    """It begins anew, or is not used."""
    checkout(place)
    special(memory(place), kind, place.parent / "new")
    return LOOK


@attack(4, of_anybody=0o666, of_its_own=0o600)
def a_memory_of_checks_that_lies(place, mode):
    """It says of an altered shard that it has been checked, with another file's facts."""
    import zlib

    directory = checkout(place)
    [path] = directory.glob("shard-*")
    sha256 = path.name[6:70]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    facts = path.stat()
    number = 0 if mode == 0o600 else 1  # others' file may say all; ours has another change time
    numbers = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    key = " ".join(["sha256", *(f"{n:x}" for n in (*numbers, facts.st_ctime_ns - 1 + number))])
    line = f"{key} {sha256}:{zlib.crc32(f'{key}{sha256}'.encode()):08x}\n"
    memory(place).write_text(line)
    memory(place).chmod(mode)
    return LOOK
