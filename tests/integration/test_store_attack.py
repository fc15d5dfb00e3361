"""Feature sets made to harm who opens them. The manifest always agrees with the files."""

import io
import os
import shutil
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace
from math import prod

import h5py
import numpy as np
import pytest

from cryobase.store import FeatureSet, IntegrityError, columns, import_set, shard
from cryobase.store.manifest import load
from tests.integration.store_forgery import (
    patched,
    replace_canary,
    replace_examples,
    replace_shard,
    write_manifest,
)
from tests.unit.store.samples import digests, features, published

ROWS = 10  # of each of the two shards that `published` makes
ROW = (ROWS, 5)


def hdf5(write, **options):
    """The bytes of an HDF5 file that h5py wrote, with the superblock that the format asks for."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("v110", "v110"), **options) as file:
        write(file)
    return buffer.getvalue()


def honest(file, leave_out=()):
    columns = {
        "features": features(range(ROWS)),
        "digest": digests(range(ROWS)),
        "view": np.zeros(ROWS, "<u2"),
    }
    for name, values in columns.items():
        if name not in leave_out:
            file.create_dataset(name, data=values)


def with_features(make):
    def write(file):
        make(file)
        honest(file, leave_out={"features"})

    return write


def external_link(file):
    file["features"] = h5py.ExternalLink("/etc/hostname", "/x")


def soft_link(file):
    file["features"] = h5py.SoftLink("/digest")


def dangling_link(file):
    file["features"] = h5py.SoftLink("/nowhere")


def shape_bomb(file):
    file.create_dataset("features", (10**12, 5), "<f4")


def of_named_type(file):
    file["type"] = np.dtype("<f4")
    file.create_dataset("features", data=features(range(ROWS)), dtype=file["type"])
    del file["type"]


def alias(file):
    honest(file, leave_out={"features", "view"})
    file["features"] = file["view"] = file["digest"]


def raw_external_storage(file):
    external = [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    file.create_dataset("features", ROW, "<f4", external=external)


def virtual(file):
    layout = h5py.VirtualLayout(ROW, "<f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=ROW)
    file.create_virtual_dataset("features", layout)


def filtered(file):
    file.create_dataset("features", data=features(range(ROWS)), chunks=ROW, compression="gzip")


def inflate_bomb(file):
    made = file.create_dataset("features", ROW, "<f4", chunks=ROW, compression="gzip")
    made.id.write_direct_chunk((0, 0), zlib.compress(bytes(64 << 20)))


def unknown_filter(file):
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk(ROW)
    creation.set_deflate(1)
    space = h5py.h5s.create_simple(ROW)
    h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, space, creation)


def chunked(file):
    file.create_dataset("features", data=features(range(ROWS)), chunks=(2, 5))


def compact(file):
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(ROW)
    made = h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, space, creation)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, features(range(ROWS)))


def unwritten(file):
    file.create_dataset("features", ROW, "<f4")


def variable_length(file):
    file.create_dataset("features", (ROWS,), h5py.vlen_dtype(np.dtype("<f4")))


def reference(file):
    file.create_dataset("features", ROW, h5py.ref_dtype)


def variable_string(file):
    file.create_dataset("features", data=["x"] * ROWS, dtype=h5py.string_dtype())


def named_type(file):
    file["features"] = np.dtype("<f4")


def group(file):
    file.create_group("features")


def deep(file):
    inner = file.create_group("features")
    for _ in range(500):
        inner = inner.create_group("x")


def cycle(file):
    file.create_group("features")["self"] = file["/"]


def scalar(file):
    file["features"] = np.float32(1)


def attributes(file):
    file.create_dataset("features", data=features(range(ROWS))).attrs["x"] = 1


def of(values):
    return lambda file: file.create_dataset("features", data=values)


def in_examples(make):
    """The attack under the name `label`, beside columns of examples as they should be."""

    def write(file):
        file.create_dataset("digest", data=digests(range(ROWS)))
        make(file)
        file.move("features", "label")
        file.create_dataset("id", data=np.array([b"%05d" % row for row in range(ROWS)]))
        file.create_dataset("quarantined", data=np.zeros(ROWS, "u1"))

    return write


def extra_member(file):
    honest(file)
    file["more"] = 1


def root_attribute(file):
    honest(file)
    file.attrs["x"] = 1


def missing_member(file):
    honest(file, leave_out={"view"})


def many_members(file):
    honest(file)
    for number in range(2000):
        file.create_group(str(number))


FIELDS = np.dtype([("a", "<f4"), ("b", "<f4")])
LINK = "features is missing, or a link to elsewhere"
LAYOUT = "features is not stored contiguously in this file"
TYPE = "features has a type that the format does not know"
KIND = "features is no dataset"
MEMBERS = "members other than features, digest, view, or attributes"
SHAPE = "expected .*float32|expected .*<f4"
ATTACKS = {  # what is done to the features, and the fact that the refusal names
    "external link": (external_link, LINK),
    "soft link": (soft_link, LINK),
    "dangling link": (dangling_link, LINK),
    "raw external storage": (raw_external_storage, LAYOUT),
    "virtual dataset": (virtual, LAYOUT),
    "filter": (filtered, LAYOUT),
    "inflate bomb": (inflate_bomb, LAYOUT),
    "filter without data": (unknown_filter, LAYOUT),
    "chunks": (chunked, LAYOUT),
    "compact": (compact, LAYOUT),
    "unwritten": (unwritten, "features declares 200 bytes, has 0"),
    "shape bomb": (shape_bomb, "features declares 20000000000000 bytes, has 0"),
    "variable length": (variable_length, TYPE),
    "reference": (reference, TYPE),
    "variable string": (variable_string, TYPE),
    "named type": (named_type, KIND),
    "dataset of a named type": (of_named_type, TYPE),
    "group": (group, KIND),
    "deep groups": (deep, KIND),
    "cycle": (cycle, KIND),
    "scalar": (scalar, "the columns differ in length"),
    "attribute": (attributes, "features has filters or attributes"),
    "compound": (of(np.zeros(ROW, FIELDS)), TYPE),
    "big endian": (of(np.zeros(ROW, ">f4")), TYPE),
    "float64": (of(np.zeros(ROW, "<f8")), TYPE),
    "bool": (of(np.zeros(ROW, np.bool_)), TYPE),
    "long strings": (of(np.full(ROW, b"a" * 513)), TYPE),
    "strings": (of(np.full(ROW, b"abcd")), SHAPE),
    "too few rows": (of(np.zeros((ROWS - 1, 5), "<f4")), "the columns differ in length"),
    "other shape": (of(np.zeros((ROWS, 6), "<f4")), SHAPE),
    "other rank": (of(np.zeros((ROWS, 5, 1), "<f4")), SHAPE),
}
WHOLE = {  # what is done to the whole file
    "hard alias": (alias, "overlaps another column"),
    "extra member": (extra_member, MEMBERS),
    "root attribute": (root_attribute, MEMBERS),
    "missing member": (missing_member, MEMBERS),
    "many members": (many_members, MEMBERS),
}
SHARDS = {name: (with_features(make), fact) for name, (make, fact) in ATTACKS.items()} | WHOLE
# Of the examples, types and shapes differ; everything else must be refused as well.
EXAMPLES = {
    name: (in_examples(make), fact.replace("features", "label"))
    for name, (make, fact) in ATTACKS.items()
    if fact != SHAPE
}


@pytest.mark.fault(26, 27, 28, 29, 30, 31, 33, 40)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("attack", SHARDS)
def test_a_crafted_shard_is_refused(tmp_path, attack, full):
    make, fact = SHARDS[attack]
    path = replace_shard(published(tmp_path), hdf5(make))
    with pytest.raises(IntegrityError, match=rf"{path.name}: .*({fact})"):
        FeatureSet.open(tmp_path / "set", full=full)


def place(column):
    """How a header writes where a column lies: address and length."""
    length = prod(column.shape) * column.dtype.itemsize
    return column.offset.to_bytes(8, "little") + length.to_bytes(8, "little")


def dimensions(*sides):
    """How a header writes a shape and, after it, the largest one."""
    return b"".join(side.to_bytes(8, "little") for side in sides)


def moved(column, **changes):
    return place(replace(column, **changes))


# What is changed in the headers of a file that the store wrote, their checksums made right again.
# Newer versions of HDF5 refuse some of it themselves.
PATCHES = {
    "more rows than bytes": (
        lambda _: (dimensions(ROWS, 5, ROWS, 5), dimensions(2 * ROWS, 5, 2 * ROWS, 5)),
        "features declares 400 bytes, has 200",
    ),
    "fewer rows than bytes": (
        lambda _: (dimensions(ROWS, 5), dimensions(1, 5)),
        "features declares 20 bytes, has 200",
    ),
    "more bytes than the file": (
        lambda found: (place(found["features"]), moved(found["features"], shape=(10**9, 5))),
        "features declares 200 bytes, has 20000000000|invalid dataset size",
    ),
    "beyond the end": (
        lambda found: (place(found["features"]), moved(found["features"], offset=1 << 40)),
        "features overlaps another column or the end|invalid dataset size",
    ),
    "across the end": (
        lambda found: (place(found["view"]), moved(found["view"], offset=found["end"] - 8)),
        "view overlaps another column or the end|invalid dataset size",
    ),
    "on another column": (
        lambda found: (place(found["view"]), moved(found["view"], offset=found["digest"].offset)),
        "overlaps another column or the end",
    ),
    "within another column": (
        lambda found: (place(found["view"]), moved(found["view"], offset=found["digest"].end - 8)),
        "view overlaps another column or the end",
    ),
    "on the signature": (
        lambda found: (place(found["view"]), moved(found["view"], offset=4)),
        "view overlaps another column or the end",
    ),
}


@pytest.mark.fault(27, 30, 34, 40)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("attack", PATCHES)
def test_a_shard_with_forged_headers_is_refused(tmp_path, attack, full):
    directory = published(tmp_path)
    data = FeatureSet.open(directory).table.shards[0].path.read_bytes()
    honest_path = replace_shard(directory, data)
    with honest_path.open("rb") as file:
        found = columns.inspect(file.fileno(), honest_path, ("features", "digest", "view"))
    make, fact = PATCHES[attack]
    old, new = make(found | {"end": len(data)})
    assert patched(data, old, old) == data  # the checksum is HDF5's
    path = replace_shard(directory, patched(data, old, new))
    with pytest.raises(IntegrityError, match=rf"{path.name}: .*({fact})"):
        FeatureSet.open(directory, full=full)


@pytest.mark.fault(26, 27, 28, 29, 30, 31, 33, 40)
@pytest.mark.parametrize("attack", EXAMPLES)
def test_a_crafted_file_of_examples_is_refused(tmp_path, attack):
    make, fact = EXAMPLES[attack]
    path = replace_examples(published(tmp_path), hdf5(make))
    with pytest.raises(IntegrityError, match=rf"{path.name}: .*({fact})"):
        FeatureSet.open(tmp_path / "set")


def npy(kind, shape, body=b""):
    file = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + body


def pickled():
    file = io.BytesIO()
    np.save(file, np.array([{}], object), allow_pickle=True)
    return file.getvalue()


NO_NPY = "does not begin as an npy file"
CANARIES = {
    "pickle": (pickled(), NO_NPY),
    "shape bomb": (npy("<f4", (10**12,)), r"bytes do not hold float32 of \(1000000000000,\)"),
    "shape below zero": (npy("<f4", (-1, -1), bytes(4)), NO_NPY),
    "no values": (npy("<f4", (10**12, 0)), "bytes do not hold"),
    "too many dimensions": (npy("<f4", (1,) * 40, bytes(4)), "40 dimensions"),
    "empty strings": (npy("|S0", (10**12,)), NO_NPY),
    "text": (npy("<U4", (2,), bytes(32)), NO_NPY),
    "records": (npy([("a", "<f4")], (2,), bytes(8)), NO_NPY),
    "complex": (npy("<c8", (2,), bytes(16)), NO_NPY),
    "big endian": (npy(">f4", (2,), bytes(8)), NO_NPY),
    "long header": (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, NO_NPY),
    "nothing": (b"", NO_NPY),
}


@pytest.mark.fault(27, 40, 56)
@pytest.mark.parametrize("attack", CANARIES)
def test_a_crafted_canary_is_refused(tmp_path, attack):
    data, fact = CANARIES[attack]
    path = replace_canary(published(tmp_path), data)
    with pytest.raises(IntegrityError, match=rf"{path.name}: .*{fact}"):
        FeatureSet.open(tmp_path / "set", full=True)


@pytest.mark.fault(27, 40)
@pytest.mark.parametrize("attack", SHARDS)
def test_refusing_a_shard_reads_and_allocates_little(tmp_path, monkeypatch, attack):
    """Why a refusal takes milliseconds: it looks at metadata alone."""
    path = replace_shard(published(tmp_path), hdf5(SHARDS[attack][0]))
    monkeypatch.setattr("cryobase.store.shard.read_into", lambda *_: pytest.fail("rows were read"))
    tracemalloc.start()
    with pytest.raises(IntegrityError, match=path.name):
        FeatureSet.open(tmp_path / "set")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.fault(26)
def test_an_old_superblock_is_refused(tmp_path):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="earliest") as file:
        honest(file)
    path = replace_shard(published(tmp_path), buffer.getvalue())
    with pytest.raises(IntegrityError, match=rf"{path.name}: .*superblock version 3"):
        FeatureSet.open(tmp_path / "set")


def test_the_honest_file_of_h5py_passes(tmp_path):
    """Else the attacks above might be refused for another reason."""
    directory = published(tmp_path)
    shards = FeatureSet.open(directory).table.shards
    keys = [shard.keys()[0].tobytes() for shard in shards]
    number = next(i for i, key in enumerate(keys) if digests([0]).tobytes() in key)
    replace_shard(directory, hdf5(honest), number)
    assert len(FeatureSet.open(directory, full=True)) == 2 * ROWS


@pytest.mark.fault(27)
@pytest.mark.parametrize("rows", [10**6, 10**12, 2**52])
def test_a_manifest_that_promises_too_many_rows_costs_nothing(tmp_path, rows):
    directory = published(tmp_path)
    _, manifest = load(directory)
    shards = (replace(manifest.shards[0], rows=rows), *manifest.shards[1:])
    write_manifest(directory, replace(manifest, shards=shards))
    with pytest.raises(IntegrityError, match=manifest.shards[0].name):
        FeatureSet.open(directory)


@pytest.mark.fault(32)
@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "dangling", "socket"])
@pytest.mark.parametrize("which", ["shard", "examples", "manifest"])
def test_only_regular_files_are_opened(tmp_path, kind, which):
    directory = published(tmp_path)
    (path,) = list(directory.glob(f"{which}-*"))[:1]
    kept = tmp_path / "kept"
    path.rename(kept)
    if kind == "symlink":
        path.symlink_to(kept)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        os.mknod(path, 0o140644)
    with pytest.raises(IntegrityError, match=rf"{path.name}: .*not a regular file"):
        FeatureSet.open(directory)


@pytest.mark.fault(35)
@pytest.mark.parametrize("moment", ["before HDF5", "after HDF5"])
@pytest.mark.parametrize("size", [0, 100, 700])
def test_a_file_that_shrinks_while_it_is_opened(tmp_path, monkeypatch, moment, size):
    directory = published(tmp_path)
    inspect = shard.inspect

    def shrinking(descriptor, path, names):
        found = inspect(descriptor, path, names) if moment == "after HDF5" else None
        path.chmod(0o644)
        os.truncate(path, size)
        return found or inspect(descriptor, path, names)

    monkeypatch.setattr("cryobase.store.shard.inspect", shrinking)
    with pytest.raises(IntegrityError, match=r"shard-\w+\.h5: "):
        FeatureSet.open(directory)


@pytest.mark.fault(25)
@pytest.mark.parametrize("full", [False, True])
def test_bytes_after_the_end_of_a_shard(tmp_path, full):
    directory = published(tmp_path)
    path = FeatureSet.open(directory).table.shards[0].path
    path.chmod(0o644)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(IntegrityError, match=rf"{path.name}: \d+ bytes, the manifest says"):
        FeatureSet.open(directory, full=full)


@pytest.mark.fault(37, 40)
@pytest.mark.parametrize("full", [False, True])
def test_a_manifest_that_leaves_out_a_shard(tmp_path, full):
    directory = published(tmp_path)
    _, manifest = load(directory)
    write_manifest(directory, replace(manifest, shards=manifest.shards[1:]))
    with pytest.raises(IntegrityError, match=r"set: 10 rows of its examples are missing"):
        FeatureSet.open(directory, full=full)


@pytest.mark.fault(37, 40)
@pytest.mark.parametrize("full", [False, True])
def test_a_row_that_is_in_two_shards(tmp_path, full):
    directory = published(tmp_path)
    _, manifest = load(directory)
    table = FeatureSet.open(directory).table
    again, _ = table.shards[0].keys()
    info, data = shard.build_shard(table.take(np.arange(ROWS)) + 1, again, np.zeros(ROWS, "u2"))
    (directory / info.name).write_bytes(data)
    write_manifest(directory, replace(manifest, shards=(*manifest.shards, info)))
    with pytest.raises(IntegrityError, match="comes twice"):
        FeatureSet.open(directory, full=full)


@pytest.mark.fault(40)
@pytest.mark.parametrize("changes", [{"digest": "0" * 64}, {"quarantined": 1}, {"rows": 19}])
def test_a_manifest_that_states_another_digest_or_count(tmp_path, changes):
    directory = published(tmp_path)
    _, manifest = load(directory)
    stated = replace(manifest.published, **changes)
    write_manifest(directory, replace(manifest, published=stated))
    with pytest.raises(IntegrityError, match=r"not the manifest's|not as many"):
        FeatureSet.open(directory, full=True)


@pytest.mark.fault(27, 40)
@pytest.mark.parametrize("full", [False, True])
def test_a_manifest_that_states_another_number_of_examples(tmp_path, full):
    directory = published(tmp_path)
    _, manifest = load(directory)
    write_manifest(directory, replace(manifest, published=replace(manifest.published, count=21)))
    with pytest.raises(IntegrityError, match="not as many examples as the manifest says"):
        FeatureSet.open(directory, full=full)


@pytest.mark.fault(37)
def test_a_file_that_nobody_names_is_ignored(tmp_path):
    directory = published(tmp_path)
    (directory / f"shard-{'0' * 64}.h5").write_bytes(hdf5(extra_member))
    assert len(FeatureSet.open(directory, full=True)) == 20


@pytest.mark.fault(40)
@pytest.mark.parametrize("attack", ["external link", "inflate bomb", "too few rows"])
def test_import_leaves_nothing_of_a_hostile_set(tmp_path, attack):
    path = replace_shard(published(tmp_path), hdf5(SHARDS[attack][0]))
    with pytest.raises(IntegrityError, match=path.name):
        import_set(tmp_path / "set", tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


PLUGIN = """
import sys
if sys.argv[2] == "store":
    from cryobase import store
import h5py
try:
    h5py.File(sys.argv[1])["features"][:]
except OSError as error:
    print(error)
"""


@pytest.mark.fault(33)
@pytest.mark.parametrize(("imported", "searched"), [("h5py", True), ("store", False)])
def test_no_plugin_is_ever_loaded_once_the_store_is_imported(tmp_path, imported, searched):
    """Even where somebody reads a hostile file with h5py itself; h5py alone does load it."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "libevil.so").write_bytes(b"not to be loaded")
    with h5py.File(tmp_path / "file.h5", "w") as file:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk(ROW)
        creation.set_filter(32999, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple(ROW)
        made = h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, space, creation)
        made.write_direct_chunk((0, 0), bytes(200))
    environment = {k: v for k, v in os.environ.items() if k != "HDF5_PLUGIN_PRELOAD"}
    run = subprocess.run(
        [sys.executable, "-c", PLUGIN, tmp_path / "file.h5", imported],
        capture_output=True,
        text=True,
        env=environment | {"HDF5_PLUGIN_PATH": str(tmp_path / "plugins")},
        check=True,
    )
    assert "read data" in run.stdout
    assert ("dlopen" in run.stdout and "libevil.so" in run.stdout) == searched


@pytest.mark.fault(26, 33)
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_nothing_outside_of_the_set_is_opened(tmp_path):
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "evil.so").write_bytes(b"not to be loaded")
    sets = []
    tables = ((SHARDS, replace_shard), (EXAMPLES, replace_examples))
    for table, put in tables:
        for attack, (write, _) in table.items():
            root = tmp_path / put.__name__ / attack.replace(" ", "-")
            put(published(root), hdf5(write))
            sets.append(str(root / "set"))
    code = (
        "import os, sys, pathlib, store\n"
        "print('start', flush=True)\n"
        "for name in sys.argv[1:]:\n"
        "    try: store.FeatureSet.open(pathlib.Path(name), full=True)\n"
        "    except store.IntegrityError: print('refused', flush=True)\n"
    )
    log = tmp_path / "log"
    trace = ["strace", "-f", "-e", "trace=open,openat,write", "-o", str(log)]
    own = {"HDF5_PLUGIN_PATH": str(plugins), "CRYOBASE_CACHE": str(tmp_path / "cache")}
    environment = os.environ | own
    run = subprocess.run(
        [*trace, sys.executable, "-c", code, *sets],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if "start" not in run.stdout:
        pytest.skip(f"strace does not work here: {run.stderr[:200]}")
    assert run.stdout.count("refused") == len(sets)
    after = log.read_text().partition('write(1, "start')[2]
    opened = [line.split('"')[1] for line in after.splitlines() if "open" in line and '"' in line]
    foreign = [
        path
        for path in opened
        if not path.startswith((*sets, own["CRYOBASE_CACHE"]))
        and not path.endswith((".py", ".pyc"))
    ]
    assert not [path for path in foreign if "lib/python" not in path and path != "/dev/urandom"]
