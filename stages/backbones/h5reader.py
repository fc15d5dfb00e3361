"""The child process that reads a received HDF5 file of weights, and answers with plain arrays.

Hostile files can make libhdf5 crash, loop or take gigabytes of memory, so it opens them only in
this child. Standard input is the file. Standard output is a file that gets a JSON document and then
the bytes of the arrays, one after the other. A refused file gives a document with the reason.
"""

import json
import math
import os
import re
import sys
from collections.abc import Iterator
from io import RawIOBase
from typing import Any

# Set before h5py is imported: otherwise a hostile file could name a filter plug-in, and HDF5 would
# load it as a shared library.
os.environ["HDF5_PLUGIN_PRELOAD"] = "::"

import h5py
import numpy as np

from cryobase.stages.children import limit_this_process

DTYPES = ("<f2", "<f4", "<f8", "|u1", "<u4", "<u8", "|i1", "<i4", "<i8")
FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
# The attributes that Keras reads: names of layers and weights, in numbered parts if there are many.
# All others are ignored.
ATTRIBUTES = re.compile(r"(layer_names|weight_names)(\d{1,3})?|backend|keras_version|name")
MAX_OBJECTS = 20_000
MAX_DEPTH = 16
MAX_ATTRIBUTES = 1000  # of one object
MAX_NAMES = 4 << 20  # bytes of all names in attributes
MAX_NAME = 500  # characters
EXPANSION = 8  # most bytes of arrays per byte of the file, which may be compressed
MEMORY = 1 << 30  # bytes of memory for the child
LENGTH = 8  # bytes before the document that give its length


class RefusedError(Exception):
    """The file has something that Keras does not write."""


def answer(source: RawIOBase, output: Any, size: int, limit: int) -> None:
    """Write the document and the arrays of a file, or the reason why it is refused.

    Args:
        source: the file.
        output: receives the document and the arrays.
        size: bytes of the file.
        limit: the most bytes of all arrays together.
    """
    try:
        with h5py.File(source, "r", locking=False) as file:
            reader = _Reader(min(limit, EXPANSION * size))
            reader.visit(file, "", 0)
            _write(output, {"groups": reader.groups, "arrays": reader.arrays})
            for path, _, _ in reader.arrays:
                output.write(np.ascontiguousarray(file[path][()]).data)
    except Exception as error:  # noqa: BLE001 (h5py raises anything on a damaged file)
        output.seek(0)
        output.truncate()
        reason = " ".join(str(error).split())[:200]
        if not isinstance(error, RefusedError):
            reason = f"HDF5 cannot read it ({reason or type(error).__name__})"
        _write(output, {"refused": reason})
    output.flush()


def _write(output: Any, document: dict[str, Any]) -> None:
    text = json.dumps(document).encode()
    output.write(len(text).to_bytes(LENGTH, "little") + text)


class _Reader:
    """Checks every object of the file before any array is read."""

    def __init__(self, limit: int) -> None:
        self.groups: dict[str, dict[str, Any]] = {}
        self.arrays: list[tuple[str, str, tuple[int, ...]]] = []
        self._left = limit
        self._names_left = MAX_NAMES
        self._seen: set[Any] = set()

    def visit(self, group: Any, path: str, depth: int) -> None:
        """Check and list a group and its members."""
        self._count(group, path, depth)
        self.groups[path] = dict(self._attributes(group, path))
        if group.id.get_num_objs() > MAX_OBJECTS:
            raise RefusedError(f"{path or '/'} has over {MAX_OBJECTS:,} members")
        for key in group.id:
            self._member(group, key, path, depth)

    def _member(self, group: Any, key: bytes, path: str, depth: int) -> None:
        name = key.decode()  # a decoding error counts as a reading error
        inner = f"{path}/{name}" if path else name
        if not name or name in (".", "..") or len(name) > MAX_NAME or not name.isprintable():
            raise RefusedError(f"a member has the name {name[:40]!a}")
        if group.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
            raise RefusedError(f"{inner!a:.80} is a link to elsewhere")
        kind = h5py.h5o.get_info(group.id, key).type
        if kind == h5py.h5o.TYPE_GROUP:
            self.visit(h5py.Group(h5py.h5g.open(group.id, key)), inner, depth + 1)
        elif kind == h5py.h5o.TYPE_DATASET:
            self._dataset(h5py.Dataset(h5py.h5d.open(group.id, key)), inner, depth + 1)
        else:
            raise RefusedError(f"{inner!a:.80} is neither group nor array")

    def _count(self, item: Any, path: str, depth: int) -> None:
        where = h5py.h5o.get_info(item.id).addr
        if where in self._seen:
            raise RefusedError(f"{path!a:.80} is there under another name too")
        self._seen.add(where)
        if len(self._seen) > MAX_OBJECTS or depth > MAX_DEPTH:
            raise RefusedError(f"over {MAX_OBJECTS:,} objects, or {MAX_DEPTH} groups in another")

    def _dataset(self, dataset: Any, path: str, depth: int) -> None:
        self._count(dataset, path, depth)
        plan, dtype = dataset.id.get_create_plist(), self._dtype(dataset, path)
        space = dataset.id.get_space()
        if space.get_simple_extent_type() == h5py.h5s.NULL:
            raise RefusedError(f"{path!a:.80} has no values")
        shape = tuple(map(int, space.get_simple_extent_dims()))
        size, layout = math.prod(shape) * dtype.itemsize, plan.get_layout()
        self._left -= size
        if self._left < 0:
            raise RefusedError(f"{path!a:.80} brings the arrays to more bytes than they can have")
        if plan.get_external_count() or layout not in LAYOUTS:
            raise RefusedError(f"{path!a:.80} has its values elsewhere")
        if layout != h5py.h5d.CHUNKED and dataset.id.get_storage_size() != size:
            raise RefusedError(f"{path!a:.80} has other than its {size:,} bytes")
        filters = [plan.get_filter(k)[0] for k in range(plan.get_nfilters())]
        if not set(filters) <= FILTERS or len(filters) > len(FILTERS):
            raise RefusedError(f"{path!a:.80} is compressed in an unknown way")
        self.arrays.append((path, dtype.str, shape))

    def _dtype(self, dataset: Any, path: str) -> np.dtype[Any]:
        kind = dataset.id.get_type()
        if kind.get_class() in (h5py.h5t.FLOAT, h5py.h5t.INTEGER) and not kind.committed():
            for dtype, known in TYPES.items():
                if kind.equal(known):
                    return dtype
        raise RefusedError(f"{path!a:.80} holds no numbers of a known type")

    def _attributes(self, item: Any, path: str) -> Iterator[tuple[str, Any]]:
        count = h5py.h5a.get_num_attrs(item.id)
        if count > MAX_ATTRIBUTES:
            raise RefusedError(f"{path!a:.80} has {count:,} attributes")
        for number in range(count):
            attribute = h5py.h5a.open(item.id, index=number)
            name = attribute.name.decode()
            if ATTRIBUTES.fullmatch(name):
                yield name, self._names(item, attribute, name)

    def _names(self, item: Any, attribute: Any, name: str) -> str | list[str]:
        kind, points = attribute.get_type(), math.prod(attribute.shape)
        if not points:  # a layer without weights has an empty numeric attribute
            return []
        if kind.get_class() != h5py.h5t.STRING or len(attribute.shape) > 1:
            raise RefusedError(f"the attribute {name} is no text")
        each = 16 if kind.is_variable_str() else kind.get_size()
        self._names_left -= points * each
        if self._names_left < 0:
            raise RefusedError(f"the attribute {name} has {points:,} texts")
        value = item.attrs[name]
        texts = [value] if attribute.shape == () else list(value)
        texts = [text.decode() if isinstance(text, bytes) else str(text) for text in texts]
        if any(len(text) > MAX_NAME for text in texts):
            raise RefusedError(f"the attribute {name} has texts of over {MAX_NAME} characters")
        return texts[0] if attribute.shape == () else texts


TYPES = {dtype: h5py.h5t.py_create(dtype) for dtype in map(np.dtype, DTYPES)}
LAYOUTS = {h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED}


if __name__ == "__main__":
    limit, seconds = map(int, sys.argv[1:])
    limit_this_process(seconds=seconds, memory=MEMORY, output=limit + (16 << 20))
    with open(0, "rb", buffering=0) as source, open(1, "wb") as output:
        answer(source, output, os.fstat(0).st_size, limit)
