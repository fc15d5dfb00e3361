"""Hostile files of arrays and tables, each met by `cryobase store import`; see `attacks`."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cryobase.store.arrays import Description, columns_of, write_safetensors
from tests.hostile_texts import TEXTS
from tests.integration.attacks import Command, add_row, attack, special
from tests.unit.stages.heads.sets import blobs, publish

IMPORT = ("store", "import", "file", "set")
FOREIGN = (*IMPORT, "--foreign", "dinov2@3f2a91c")
GOOD = {
    "features": np.ones((3, 2), np.float32),
    "ids": np.array([b"a", b"b", b"c"]),
    "labels": np.array([0, 1, 0]),
}
ROWS = 3_000_000


def arrays(place: Path, **changes: Any) -> Command:
    """A file as numpy writes it."""
    with (place / "file").open("wb") as file:
        np.savez(file, **(GOOD | changes))
    return FOREIGN


def table(place: Path, **changes: Any) -> Command:
    """A table as pyarrow writes it."""
    columns = {"id": ["a", "b", "c"], "label": ["x", "y", "x"], "features": [[1.0, 2.0]] * 3}
    pq.write_table(pa.table(columns | changes), place / "file", compression="zstd")
    return FOREIGN


def header(place: Path, text: bytes, length: int | None = None, after: int = 0) -> Command:
    """A safetensors file of any header."""
    size = len(text) if length is None else length
    (place / "file").write_bytes(size.to_bytes(8, "little") + text + b"\0" * after)
    return FOREIGN


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@attack(
    3, fifo="fifo", folder_that_is_none="socket", device="device", circle="circle",
    sparse="sparse", text="link",
)  # fmt: skip
def a_file_of_arrays_that_is_no_file(place, kind):
    special(place / "file", kind)
    return FOREIGN


@attack(
    3,
    pickled=np.array([{"a": 1}], object),
    empty_name=np.array([b"a", b"", b"c"]),
    no_text=np.array([b"\xff", b"\x80", b"c"]),
    twice=np.array([b"a", b"a", b"c"]),
    numbers=np.array([1, 2, 3]),
    none=np.empty(0, "S1"),
    wide=np.array([b"a", b"b", b"c" * 900]),
    no_characters=np.array([0x110000, 2, 3], np.uint32).view("<U1"),
    half_a_character=np.array(["\ud800", "b", "c"]),
)
def ids_of_arrays(place, ids):
    return arrays(place, ids=ids)


@attack(3, nan=np.nan, infinite=np.inf, too_large=1e300)
def features_that_are_no_numbers(place, value):
    return arrays(place, features=np.full((3, 2), value))


@attack(3, shape="(3, 2, ) + (1,) * 10**9", call="__import__('os').system('touch pwned')")
def a_header_of_numpy_that_is_a_program(place, text):
    with zipfile.ZipFile(place / "file", "w") as archive:
        for name, values in GOOD.items():
            with archive.open(f"{name}.npy", "w") as file:
                if name == "features":
                    said = (
                        f"{{'descr': '<f4', 'fortran_order': False, 'shape': {text}, }}\n".encode()
                    )
                    file.write(b"\x93NUMPY\x01\x00" + len(said).to_bytes(2, "little") + said)
                else:
                    np.lib.format.write_array(file, values)
    return FOREIGN


@attack(3)
def a_bomb_of_arrays(place):
    with (place / "file").open("wb") as file:
        np.savez_compressed(file, **GOOD, more=np.zeros(200_000_000, np.uint8))
    return FOREIGN


@attack(
    3,
    endless=((2).to_bytes(1, "little"), 1 << 60, 0),
    of_brackets=(b"[" * 900_000, None, 0),
    of_depth=(b'{"x":' * 40_000 + b"1" + b"}" * 40_000, None, 0),
    key_twice=(b'{"ids":1,"ids":2}', None, 0),
    number=(b'{"x":1e999}', None, 0),
    names=(json.dumps({f"x{k}": entry([0], [0, 0]) for k in range(5000)}).encode(), None, 0),
    huge=(json.dumps({"ids": entry([1 << 62, 4], [0, 16])}).encode(), None, 16),
    overlap=(
        json.dumps({"ids": entry([4], [0, 16]), "features": entry([4], [8, 24])}).encode(), None, 24
    ),
    escape=(json.dumps({"\x1b[2J": entry([4], [0, 16], "\x1b]0;x\x07")}).encode(), None, 16),
)  # fmt: skip
def a_header_of_safetensors(place, said):
    return header(place, *said)


@attack(3)
def a_sparse_file_of_ids(place):
    count = 1 << 32
    said = {
        "ids": entry([count // 4, 4], [0, count], "U8"),
        "features": entry([1, 1], [count, count + 4]),
    }
    header(place, json.dumps(said).encode())
    os.truncate(place / "file", (place / "file").stat().st_size + count + 4)
    return FOREIGN


@attack(
    3,
    of_another_format={"format": "x"},
    newer={"schema": 99},
    without_spec={"spec": {}},
    many_views={"views": 999},
    negative_shape={"feature_shape": [-1, -5]},
    classes_of_objects={"classes": [{}]},
    more_keys={"x": 1},
)
def a_description_of_arrays(place, changes):
    described(place, **changes)
    return IMPORT


def described(place: Path, **changes: Any) -> None:
    """A file of ours that says something else of its set."""
    rows, labels = blobs(9, 5, 3)
    made = publish(place / "made", rows, labels, classes=("a", "b", "c"))
    text = json.loads(Description.of(made).to_text()) | changes
    with (place / "file").open("wb") as file:
        write_safetensors(file, columns_of(made), {"cryobase": json.dumps(text)})


@attack(
    3,
    no_id={"id": [None, "b", "c"]},
    no_numbers={"features": ["a", "b", "c"]},
    ragged={"features": [[1.0], [1.0, 2.0], []]},
    missing={"features": [[1.0, None]] * 3},
    nan={"features": [[float("nan"), 1.0]] * 3},
    wide={"features": pa.array([[0.0] * 8_000_000] + [[0.0]] * 2, pa.list_(pa.float32()))},
)
def a_table(place, changes):
    return table(place, **changes)


@attack(3, text="x" * 500, empty="")
def a_table_of_one_text_three_million_times(place, text):
    indices = pa.array(np.zeros(ROWS, np.int32))
    same = pa.DictionaryArray.from_arrays(indices, pa.array([text]))
    rows = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(ROWS, np.float32)), 1)
    return table(place, id=same, label=same, features=rows)


@attack(3)
def a_table_with_a_text_of_100_megabytes(place):
    return table(place, id=["a", "b", "c" * 100_000_000])


@attack(3, nothing=b"", footer=b"\xff\xff\xff\x7fPAR1", zeros=b"\0" * 4096, sparse=b"sparse")
def a_table_that_only_begins_like_one(place, rest):
    (place / "file").write_bytes(b"PAR1" + (b"" if rest == b"sparse" else rest))
    if rest == b"sparse":
        os.truncate(place / "file", 7 << 30)
    return FOREIGN


@attack(3)
def a_table_nested_sixty_deep(place):
    kind, value = pa.float32(), 1.0
    for _ in range(60):
        kind, value = pa.list_(kind), [value]
    return table(place, features=pa.array([value] * 3, kind))


def labelled(place: Path, text: str, kind: str) -> Command:
    """Features whose class and id are a text."""
    name = text.encode("utf-8", "surrogatepass")[:200].decode("utf-8", "ignore").strip("\0") or "x"
    name = name.replace("\0", "")
    if kind == "arrays":
        labels = np.array([name.encode(), b"other", b"other"])
        return arrays(place, labels=labels, ids=np.array([name.encode(), b"bb", b"cc"]))
    return table(place, label=[name, "other", "other"], id=[name, "bb", "cc"])


for key, said in TEXTS.items():
    add_row(
        f"a class of arrays: {key}", lambda place, said=said: labelled(place, said, "arrays"), 0
    )
for key in ("clear screen", "newline", "script", "path"):
    add_row(
        f"a class of a table: {key}",
        lambda place, said=TEXTS[key]: labelled(place, said, "table"),
        0,
    )


@attack(2, path="../../x", option="-x", blank="a b", escape="\x1b[2J", long="n" * 300)
def a_name_of_a_set_from_arrays(place, name):
    arrays(place)
    return ("store", "import", "--foreign", "dinov2@3f2a91c", "--", "file", name)


@attack(4, escape="\x1b[2J@1234567", path="../../x@1234567", long=f"{'n' * 5000}@1234567")
def an_origin_of_features(place, origin):
    arrays(place)
    return (*IMPORT, "--foreign", origin)


@attack(3)
def a_column_that_is_an_escape(place):
    arrays(place)
    return (*FOREIGN, "--column", "\x1b[2J")


@attack(0)
def a_table_of_5_000_columns(place):
    return table(place, **{f"c{number}": [1, 2, 3] for number in range(5_000)})


@attack(4)
def arrays_that_say_another_digest(place):
    described(place, digest="0" * 64)
    return IMPORT
