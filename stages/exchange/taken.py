"""Making a feature set of a received file: one that Cryobase wrote, or features of another program.

A file of ours must give exactly the set that it was written from. A file of foreign features has
the arrays `features` and `ids`, and `labels` unless the images are in data/raw; see docs/store.md.
"""

import hashlib
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import PARTS, UNUSED
from cryobase.stages.exchange.arrays import Arrays
from cryobase.stages.exchange.parquet import class_texts, converted, is_parquet
from cryobase.store import Examples, FeatureSet, FeatureSpec, create_set, foreign_spec
from cryobase.store.arrays import BATCH_BYTES, FORMAT, HIDDEN, Description, feature_name
from cryobase.store.elsewhere import Part
from cryobase.store.errors import ExamplesError, SpecError, UnknownExampleError, mended_by
from cryobase.store.manifest import EXAMPLE_BYTES, MAX_EXAMPLES, MAX_RANK
from cryobase.store.shard import finite_rows, sum_of_rows
from cryobase.store.text import parse_json, record, visible

MAX_CLASSES = 1 << 16
MAX_VIEWS = 1000
MAX_LENGTH = 512  # bytes of an id or of a class name
MAX_ROW = 1 << 26  # bytes of one row
AGAIN = "get the file from where it came again"
_TEXTS = 1 << 16  # texts that are read together
_NARROWED = {"<f2": "float16", "<f4": "float32", "<f8": "float32"}

Digests = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Taken:
    """The result of an import.

    Attributes:
        features: The set.
        parts: (n,) along its `examples`, positions in `PARTS` or -1; None if the file has no
            `split`.
    """

    features: FeatureSet
    parts: NDArray[np.int8] | None


def take_in(
    path: Path,
    directory: Path,
    *,
    origin: str | None = None,
    column: str = "features",
    raw: Path | None = None,
) -> Taken:
    """Make a feature set of a file: `.npz`, `.safetensors` or Parquet.

    Args:
        path: The file.
        directory: The directory of the new set.
        origin: The model that computed foreign features, `MODEL@DIGEST`; None for a file that
            Cryobase wrote.
        column: The name of the array of foreign features.
        raw: `data/raw`, if the foreign features are of its images; labels and digests are then
            read from there.

    Raises:
        DataError: the file is not valid; the message gives the reason.
        IntegrityError: a file of ours gives another digest than it states; nothing is published.
        ConflictError: the directory has a set already.
        SpecError: the origin is not `MODEL@DIGEST`.
    """
    with _opened(path, column) as arrays:
        if origin is None:
            return _own(arrays, directory)
        return _foreign(arrays, directory, origin, column, raw)


@contextmanager
def _opened(path: Path, column: str) -> Iterator[Arrays]:
    """The arrays of a file. A Parquet file is first converted in a child process."""
    if is_parquet(path):
        with converted(path, column) as clean, Arrays.open(clean, shown=path) as arrays:
            yield arrays
    else:
        with Arrays.open(path) as arrays:
            yield arrays


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows that become a set: the first row of each image.

    Attributes:
        arrays: The file.
        names: The arrays of features (n, …), one for each view.
        digests: (n, 32), of the images.
        kept: (n,) whether a row is used.
        dtype: The dtype in the set.
        shape: The shape of one row in the set.
    """

    arrays: Arrays
    names: Sequence[str]
    digests: Digests
    kept: NDArray[np.bool_]
    dtype: str
    shape: tuple[int, ...]

    def __iter__(self) -> Iterator[Part]:
        for view, name in enumerate(self.names):
            step = rows_at_once(self.arrays, name)
            for start in range(0, len(self.digests), step):
                part = slice(start, start + step)
                kept = self.kept[part]
                if kept.any():
                    rows = _stored(self.arrays.read(name, start, start + step), self.dtype)
                    numbers = np.full(int(kept.sum()), view, np.uint16)
                    yield rows[kept].reshape(-1, *self.shape), self.digests[part][kept], numbers

    def publish(
        self,
        directory: Path,
        spec: FeatureSpec,
        examples: Examples,
        views: int = 0,
        digest: str | None = None,
    ) -> FeatureSet:
        """Publish the rows as a set; see `create_set`.

        Raises:
            DataError: the disk has too little space.
        """
        sizes = [math.prod(self.arrays.places[name].shape[1:]) for name in self.names]
        needed = int(self.kept.sum()) * sum(sizes) * np.dtype(self.dtype).itemsize
        there = next(parent for parent in directory.absolute().parents if parent.is_dir())
        if needed > (free := shutil.disk_usage(there).free):
            raise self.arrays.wrong(
                f"features of {needed:,} bytes, but {free:,} are free at {there}; make room"
            )
        return create_set(directory, spec, examples, self, views, digest=digest)


def rows_at_once(arrays: Arrays, name: str) -> int:
    """The number of rows of an array that are read together.

    Raises:
        DataError: a row is empty or too large.
    """
    dtype, shape, _ = arrays.places[name]
    size = math.prod(shape[1:]) * dtype.itemsize
    if not 0 < size <= MAX_ROW:
        raise arrays.wrong(f"{visible(name)[:80]}: rows of {size:,} bytes, 1 to {MAX_ROW:,} taken")
    return max(1, BATCH_BYTES // size)


def _stored(rows: NDArray[np.floating], dtype: str) -> NDArray[np.floating]:
    with np.errstate(over="ignore"):  # infinite values are refused later
        return rows.astype(dtype, copy=False)


def _own(arrays: Arrays, directory: Path) -> Taken:
    """Import a file that Cryobase wrote."""
    described = _description(arrays)
    try:
        spec = FeatureSpec.from_json(described.spec)
    except SpecError as error:
        raise arrays.wrong(str(error)) from None
    names = [feature_name(view) for view in range(described.views + 1)]
    ids, stored = _ids(arrays, "ids"), np.dtype(spec.dtype).newbyteorder("<").str
    for name in names:
        _, shape = _expect(arrays, name, (stored,))
        if shape[:1] != (len(ids),) or math.prod(shape[1:]) != math.prod(described.feature_shape):
            raise arrays.wrong(f"{name} has the shape {shape}, not {described.feature_shape} a row")
    digests = _digests(arrays, "digests", ids)
    examples = _own_examples(arrays, described, ids, digests)
    rows = _Rows(arrays, names, digests, _firsts(digests), spec.dtype, described.feature_shape)
    parts = _parts(arrays, ids, examples)
    with mended_by(AGAIN):
        made = rows.publish(directory, spec, examples, described.views, digest=described.digest)
    return Taken(made, parts)


def _own_examples(
    arrays: Arrays, described: Description, ids: list[bytes], digests: Digests
) -> Examples:
    """The examples with features, followed by those in quarantine."""
    labels = _known(arrays, "labels", ids, described)
    hidden = np.zeros(len(ids), np.bool_)
    if f"{HIDDEN}ids" in arrays.places:
        more = _ids(arrays, f"{HIDDEN}ids")
        labels = np.append(labels, _known(arrays, f"{HIDDEN}labels", more, described))
        digests = np.concatenate([digests, _digests(arrays, f"{HIDDEN}digests", more)])
        hidden, ids = np.arange(len(digests)) >= len(ids), [*ids, *more]
    columns = {"labels": labels, "quarantined": hidden, "classes": described.classes}
    return _examples(arrays, ids, digests, **columns)


def _known(
    arrays: Arrays, name: str, ids: Sequence[bytes], described: Description
) -> NDArray[np.integer]:
    """(n,) labels of a file of ours, which stores positions in its classes, or their names."""
    if len(_expect(arrays, name)[1]) == 1:
        return _numbers(arrays, name, len(ids))
    numbers = {text.encode(): number for number, text in enumerate(class_texts(described.classes))}
    texts = _texts(arrays, name, len(ids))
    if unknown := set(texts) - numbers.keys():
        raise arrays.wrong(f"{name}: no class {min(unknown)[:40]!r} in its description")
    return np.array([numbers[text] for text in texts], np.int32)


def _description(arrays: Arrays) -> Description:
    if arrays.description is None:
        raise arrays.wrong(
            "not from a store's export, which says what computed it; name that with --foreign"
            " MODEL@DIGEST"
        )
    try:
        described = record(Description, parse_json(arrays.description, floats=False))
    except ValueError as error:
        raise arrays.wrong(f"its description: {error}") from None
    if (described.format, described.schema) != (FORMAT, 1):
        raise arrays.wrong("its description is of another format or of a newer Cryobase")
    if not 0 <= described.views <= MAX_VIEWS or len(described.feature_shape) > MAX_RANK:
        raise arrays.wrong("its description has more views or dimensions than a set can have")
    if not all(size > 0 for size in described.feature_shape):
        raise arrays.wrong(f"its description has features of the shape {described.feature_shape}")
    return described


def _foreign(arrays: Arrays, directory: Path, origin: str, column: str, raw: Path | None) -> Taken:
    """Import features that another program computed."""
    ids = _ids(arrays, "ids")
    dtype, shape = _expect(arrays, column, tuple(_NARROWED))
    if len(shape) < 2 or shape[0] != len(ids):
        raise arrays.wrong(f"{column} has the shape {shape}, expected a row for {len(ids):,} ids")
    stored = _NARROWED[dtype.str]
    if raw is not None:
        examples, digests = _of_images(arrays, ids, raw)
    else:
        digests = (
            _digests(arrays, "digests", ids)
            if "digests" in arrays.places
            else _digests_of_rows(arrays, column, stored)
        )
        labels, classes = _labels(arrays, len(ids))
        columns = {"labels": labels, "quarantined": None, "classes": classes}
        examples = _examples(arrays, ids, digests, **columns)
    rows = _Rows(arrays, [column], digests, _firsts(digests), stored, shape[1:])
    parts = _parts(arrays, ids, examples)
    spec = foreign_spec(origin, _content(rows, ids), stored)
    return Taken(rows.publish(directory, spec, examples), parts)


def _of_images(arrays: Arrays, ids: Sequence[bytes], raw: Path) -> tuple[Examples, Digests]:
    """The examples of `data/raw`, and the digests of the file's rows.

    Examples that the file does not have are put into quarantine.
    """
    known = RawImages.open(raw).examples
    if len(set(ids)) != len(ids):
        raise arrays.wrong("an id comes twice")
    try:
        positions = known.positions(np.array(ids, np.bytes_))
    except UnknownExampleError as error:
        raise arrays.wrong(f"{error} of {raw}; ids are those of `data/raw`") from None
    absent = np.ones(len(known), np.bool_)
    absent[positions] = False
    if (known.quarantined | absent).all():
        raise arrays.wrong(f"no id of an image of {raw} that can be used")
    return replace(known, quarantined=known.quarantined | absent), known.digests[positions]


def _content(rows: _Rows, ids: Sequence[bytes]) -> str:
    """The digest of all rows.

    Raises:
        DataError: a row is not finite; the message has its id.
    """
    total, name = 0, rows.names[0]
    step = rows_at_once(rows.arrays, name)
    for start in range(0, len(ids), step):
        block = _stored(rows.arrays.read(name, start, start + step), rows.dtype)
        if not (finite := finite_rows(block)).all():
            wrong = visible(ids[start + int(finite.argmin())].decode())
            raise rows.arrays.wrong(f"the features of {wrong[:80]} are not finite as {rows.dtype}")
        kept = rows.kept[start : start + step]
        digests = rows.digests[start : start + step][kept]
        total += sum_of_rows(block[kept], digests, np.zeros(len(digests), np.uint16))
    return f"{total % (1 << 256):064x}"


def _digests_of_rows(arrays: Arrays, name: str, dtype: str) -> Digests:
    """SHA-256 of each row, used if the images' digests are unknown: equal rows stay together."""
    step, parts = rows_at_once(arrays, name), []
    for start in range(0, arrays.places[name].shape[0], step):
        block = _stored(arrays.read(name, start, start + step), dtype)
        flat = np.ascontiguousarray(block).reshape(len(block), -1)
        parts += [hashlib.sha256(row.tobytes()).digest() for row in flat]
    return np.frombuffer(b"".join(parts), np.uint8).reshape(-1, 32)


def _firsts(digests: Digests) -> NDArray[np.bool_]:
    """(n,) whether a digest occurs for the first time."""
    keys = np.ascontiguousarray(digests).view("V32").ravel()
    firsts = np.zeros(len(keys), np.bool_)
    firsts[np.unique(keys, return_index=True)[1]] = True
    return firsts


def _examples(arrays: Arrays, ids: Sequence[bytes], digests: Digests, **columns: Any) -> Examples:
    """Examples of the file's columns; see `Examples.create`."""
    try:
        return Examples.create(ids, digests, **columns)
    except ExamplesError as error:
        raise arrays.wrong(str(error)) from None


def _labels(arrays: Arrays, count: int) -> tuple[NDArray[np.integer], tuple[str, ...]]:
    """(n,) positions in the classes, and the names of the classes.

    The names are in the array `classes`; without it, they are the distinct labels.
    """
    if "labels" not in arrays.places:
        raise arrays.wrong(
            "without `labels`; add them, or give --images if the ids are those of data/raw"
        )
    if arrays.places["labels"].dtype.kind in "SU" or len(arrays.places["labels"].shape) == 2:
        texts = _texts(arrays, "labels", count)
        names = tuple(sorted(set(texts)))
        numbers = {text: number for number, text in enumerate(names)}
        positions = np.array([numbers[text] for text in texts], np.int32)
        classes = tuple(_decoded(arrays, name) for name in names)
    else:
        values = _numbers(arrays, "labels", count)
        if "classes" in arrays.places:
            names = tuple(_texts(arrays, "classes", arrays.places["classes"].shape[0]))
            return values, tuple(_decoded(arrays, name) for name in names)
        present, positions = np.unique(values, return_inverse=True)
        classes = tuple(str(value) for value in present)
    if len(classes) > MAX_CLASSES:
        raise arrays.wrong(f"{len(classes):,} classes, at most {MAX_CLASSES:,}")
    return positions, classes


def _decoded(arrays: Arrays, text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise arrays.wrong(f"the class {text[:40]!r} is not UTF-8") from None


def _ids(arrays: Arrays, name: str) -> list[bytes]:
    if name not in arrays.places:
        raise arrays.wrong(f"without `{name}`; a row of features needs the id of its image")
    count = (*arrays.places[name].shape, 0)[0]
    if not 0 < count * EXAMPLE_BYTES <= MAX_EXAMPLES:
        raise arrays.wrong(f"{count:,} ids, 1 to {MAX_EXAMPLES // EXAMPLE_BYTES:,} are taken")
    return _texts(arrays, name, count)


def _texts(arrays: Arrays, name: str, count: int) -> list[bytes]:
    """(n,) texts in UTF-8, all not empty. They may be stored as rows of bytes."""
    dtype, shape = _expect(arrays, name)
    of_bytes = dtype == np.uint8 and len(shape) == 2 and shape[1] > 0
    if not (of_bytes or (dtype.kind in "SU" and len(shape) == 1)) or shape[0] != count:
        raise arrays.wrong(f"{name} is {dtype.str}{shape}, expected {count:,} texts")
    width = shape[1] if of_bytes else dtype.itemsize // (4 if dtype.kind == "U" else 1)
    if width > MAX_LENGTH:
        raise arrays.wrong(f"{name}: texts of {width:,} bytes, at most {MAX_LENGTH}")
    texts: list[bytes] = []
    for start in range(0, count, _TEXTS):
        block = arrays.read(name, start, start + _TEXTS)
        if of_bytes:
            block = block.view(f"S{width}").reshape(-1)
        if dtype.kind == "U" and not _are_characters(block.view("<u4")):
            raise arrays.wrong(f"{name}: a text is not Unicode")
        some = [text.encode() for text in block.tolist()] if dtype.kind == "U" else block.tolist()
        if not all(some):
            raise arrays.wrong(f"{name}: text {start + some.index(b''):,} is empty")
        texts += some
    return texts


def _are_characters(codes: NDArray[np.uint32]) -> bool:
    """Whether all codes are Unicode characters: not too large, and not half of a pair."""
    halves = (codes >= 0xD800) & (codes <= 0xDFFF)
    return not (halves | (codes > 0x10FFFF)).any()


def _numbers(arrays: Arrays, name: str, count: int) -> NDArray[np.integer]:
    dtype, shape = _expect(arrays, name)
    if dtype.kind not in "iu" or shape != (count,):
        raise arrays.wrong(f"{name} is {dtype.str}{shape}, expected {count:,} whole numbers")
    return arrays.read(name)


def _digests(arrays: Arrays, name: str, ids: Sequence[bytes]) -> Digests:
    _expect(arrays, name, ("|u1",), (len(ids), 32))
    return arrays.read(name)


def _expect(
    arrays: Arrays,
    name: str,
    dtypes: Sequence[str] | None = None,
    shape: tuple[int, ...] | None = None,
) -> tuple[np.dtype, tuple[int, ...]]:
    """Type and shape of a required array.

    Raises:
        DataError: the array is missing, or has another type or shape.
    """
    if name not in arrays.places:
        known = ", ".join(visible(key)[:40] for key in list(arrays.places)[:20])
        raise arrays.wrong(f"no array {visible(name)[:40]!r}; there are {known or 'none'}")
    place = arrays.places[name]
    if dtypes is not None and place.dtype.str not in dtypes:
        raise arrays.wrong(f"{name} is {place.dtype.str}, expected {' or '.join(dtypes)}")
    if shape is not None and place.shape != shape:
        raise arrays.wrong(f"{name} has the shape {place.shape}, expected {shape}")
    return place.dtype, place.shape


def _parts(arrays: Arrays, ids: Sequence[bytes], examples: Examples) -> NDArray[np.int8] | None:
    """The part of every example of the set, if the file has `split`."""
    if "split" not in arrays.places:
        return None
    numbers = {name.encode(): number for number, name in enumerate(PARTS)} | {b"-": UNUSED}
    texts = _texts(arrays, "split", len(ids))
    if unknown := set(texts) - numbers.keys():
        raise arrays.wrong(f"split {min(unknown)[:40]!r}: not one of {', '.join(PARTS)} or -")
    parts = np.full(len(examples), UNUSED, np.int8)
    parts[examples.positions(np.array(ids, np.bytes_))] = [numbers[text] for text in texts]
    return parts
