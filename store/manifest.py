"""The manifest: the file that lists all files of a pool or of a feature set.

Readers ignore a file that no manifest names. A new version never overwrites an existing one. So if
two processes commit to a pool at once, the first one succeeds and the second one reads the new
manifest and tries again (compare and swap). `publish_set` publishes the manifest of a feature set.
"""

import errno
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

from cryobase.store.errors import (
    ConflictError,
    IntegrityError,
    MissingFileError,
    NewerSchemaError,
    SpecError,
    StorageError,
    StoreNotFoundError,
)
from cryobase.store.files import read_file
from cryobase.store.publish import publish_bytes, storage_errors
from cryobase.store.spec import FeatureSpec, canonical_json
from cryobase.store.text import MAX_BYTES, MAX_VALUES, at_least, parse_json
from cryobase.store.verified import is_sound

FORMAT = "cryobase-features"
SCHEMA = 1
MAX_KEYS = 16
MAX_VERSION = 999_999_999
MAX_SHARD = 1 << 28
MAX_EXAMPLES = 1 << 32
MAX_CANARY = 1 << 28
KEY_BYTES = 34  # of a row, beside its features: digest and view
EXAMPLE_BYTES = 38  # of an example, at least: an id of one byte, digest, label, quarantined
MAX_RANK = 31  # HDF5 allows 32 dimensions; the first one counts the rows
# The most keys, examples × (views + 1), for each stored example or row. Opening a set takes time
# and memory for each key, so a small hostile file must not state many of them.
MAX_SHARED = 64
_NAME = re.compile(r"\Amanifest-([1-9][0-9]{0,8})\.json\Z")
_HEX = re.compile(r"\A[0-9a-f]{64}\Z")
_CHECKSUM = re.compile(rb',"checksum":"([0-9a-f]{64})"')
_FILE = re.compile(rb'"name":"((?:shard|examples|canary)-[0-9a-f]{64}\.(?:h5|npy))"')
_SUFFIXES = {"shard": "h5", "examples": "h5", "canary": "npy"}


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """A file of the store. Its name consists of its kind and the SHA-256 of its content."""

    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        kind = self.name.partition("-")[0]
        known = _is_hex(self.sha256) and _is_count(self.size) and kind in _SUFFIXES
        if not known or self.name != _content_name(kind, self.sha256):
            raise ValueError(f"unexpected file {self.name!r} of {self.size!r} bytes")

    def is_sound(self, directory: Path) -> bool:
        """Whether the file is in a directory, with the right size and SHA-256."""
        return is_sound(directory / self.name, self.size, self.sha256)

    @classmethod
    def of(cls, kind: str, data: bytes) -> "FileInfo":
        """The manifest's entry of a new file."""
        sha256 = hashlib.sha256(data).hexdigest()
        return FileInfo(name=_content_name(kind, sha256), size=len(data), sha256=sha256)


@dataclass(frozen=True, kw_only=True)
class ShardInfo(FileInfo):
    """A shard: its file, its number of rows and the digest of its rows."""

    rows: int
    digest: str

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.name.startswith("shard-") and self.size <= MAX_SHARD
        if not (known and _is_hex(self.digest) and _is_count(self.rows) and self.rows > 0):
            raise ValueError(f"unexpected shard {self.name!r}, its size, rows or digest")

    @classmethod
    def of_shard(cls, data: bytes, rows: int, digest: int) -> Self:
        """The manifest's entry of a new shard."""
        return cls(**vars(FileInfo.of("shard", data)), rows=rows, digest=f"{digest:064x}")


@dataclass(frozen=True, kw_only=True)
class Published:
    """What makes rows a feature set: examples, classes in order, views, and the set's digest."""

    examples: FileInfo
    count: int
    quarantined: int
    classes: tuple[str, ...]
    views: int
    rows: int
    digest: str

    def __post_init__(self) -> None:
        _check(self.examples.name.startswith("examples-"), "examples")
        _check(self.examples.size <= MAX_EXAMPLES, "size of the examples")
        for name in ("count", "quarantined", "views", "rows"):
            _check(_is_count(getattr(self, name)), f"set.{name}")
        _check(self.quarantined <= self.count, "set.quarantined")
        _check(_is_hex(self.digest) and self.views < 1 << 16, "set.digest or set.views")
        texts = [type(name) is str for name in self.classes]
        _check(all(texts) and len(set(self.classes)) == len(texts), "set.classes")
        for name in self.classes:
            name.encode("utf-8", "surrogateescape")  # raises if a name cannot be a file name


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The files of a pool (`published` is None) or of a feature set, at one moment."""

    spec: FeatureSpec
    feature_shape: tuple[int, ...] | None = None
    shards: tuple[ShardInfo, ...] = ()
    canary: FileInfo | None = None
    published: Published | None = None

    def __post_init__(self) -> None:
        shape = self.feature_shape
        known = shape is not None and len(shape) <= MAX_RANK
        known = known and all(_is_count(side) and side > 0 for side in shape or ())
        known = known and prod(shape or ()) <= MAX_SHARD
        _check(known or (shape is None and not self.shards), "feature_shape")
        names = {shard.name for shard in self.shards}
        _check(len(names) == len(self.shards), "shard that comes twice")
        canary = self.canary
        known = canary is None or (canary.name.startswith("canary-") and canary.size <= MAX_CANARY)
        _check(known, "canary")
        if published := self.published:
            places = published.count * (published.views + 1)
            many = places > MAX_SHARED * (published.count + self.rows)
            _check(not many, f"set.views, for {published.count} examples of {self.rows} rows")

    @property
    def rows(self) -> int:
        """The number of rows in all shards, with rows that no example uses."""
        return sum(shard.rows for shard in self.shards)

    @property
    def files(self) -> tuple[FileInfo, ...]:
        """Every file that the manifest names."""
        others = (self.canary, self.published and self.published.examples)
        return (*self.shards, *(info for info in others if info))

    def _check_numbers(self) -> None:
        """Check that each file is large enough for its stated number of rows or examples.

        These numbers are added up, and memory is taken for them, before the files are opened.
        """
        width = prod(self.feature_shape or ()) * int(self.spec.dtype.removeprefix("float")) // 8
        for shard in self.shards:
            _check(shard.rows * (width + KEY_BYTES) <= MAX_SHARD, f"rows of {shard.name}")
        if self.published:
            room = self.published.count * EXAMPLE_BYTES <= self.published.examples.size
            _check(room, "set.count, for examples of that size")

    def to_bytes(self) -> bytes:
        """The canonical text of this manifest, with its checksum.

        Raises:
            StorageError: the manifest is too large: it could not be read again.
        """
        data = self._to_bytes()
        if len(data) > MAX_BYTES or at_least(data) > MAX_VALUES:
            fact = f"a manifest of {len(self.shards)} shards has {len(data)} bytes and"
            limit = f"{at_least(data)} values, at most {MAX_BYTES} and {MAX_VALUES} are read"
            raise StorageError(errno.EFBIG, f"{fact} {limit}; use another pool")
        return data

    def _to_bytes(self) -> bytes:
        value = {"format": FORMAT, "schema": SCHEMA, "fingerprint": self.spec.fingerprint}
        value |= vars(self) | {"spec": self.spec.to_json()}
        value["shards"] = [vars(shard) for shard in self.shards]
        value["canary"] = self.canary and vars(self.canary)
        value["published"] = self.published and asdict(self.published)
        value["checksum"] = hashlib.sha256(canonical_json(value)).hexdigest()
        return canonical_json(value) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, path: Path) -> "Manifest":
        """The manifest that `to_bytes` wrote; any other text is refused.

        Raises:
            NewerSchemaError: the manifest has a newer schema.
            IntegrityError: the file is incomplete, altered, or not a manifest.
        """
        try:
            value = parse_json(data, floats=False, keys=MAX_KEYS)
            _check(isinstance(value, dict) and value.get("format") == FORMAT, "format")
            if _is_count(value.get("schema")) and value["schema"] > SCHEMA:
                raise NewerSchemaError(
                    f"{path}: schema {value['schema']}, this Cryobase reads up to {SCHEMA};"
                    " upgrade with `pip install -U cryobase`"
                )
            manifest = _manifest(value)
            _check(manifest._to_bytes() == data, "checksum or text")
            manifest._check_numbers()
        except (
            SpecError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            RecursionError,
        ) as error:
            if isinstance(error, IntegrityError):
                raise
            fact = str(error).partition("\n")[0][:200]
            raise IntegrityError(f"{path}: not a valid manifest ({fact})") from None
        return manifest


def names_in(data: bytes) -> set[str]:
    """The files that a manifest names, without parsing it; empty if its checksum is wrong."""
    checksum = _CHECKSUM.search(data)
    if not checksum:
        return set()
    unsigned = data[: checksum.start()] + data[checksum.end() :].removesuffix(b"\n")
    if hashlib.sha256(unsigned).hexdigest().encode() != checksum[1]:
        return set()
    return set(b"/".join(_FILE.findall(data)).decode().split("/"))


def set_digest(fingerprint: str, examples: str, views: int, total: int) -> str:
    """A set's digest. It depends on rows and examples, not on how rows are divided into shards.

    Args:
        fingerprint: The fingerprint of the spec.
        examples: The digest of the examples.
        views: The highest view.
        total: The sum of the rows' digests, see `cryobase.store.rows.sum_of_live`.
    """
    parts = {"fingerprint": fingerprint, "examples": examples, "views": views}
    parts["rows"] = f"{total % (1 << 256):064x}"
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def versions(directory: Path) -> list[int]:
    """The versions of a directory's manifests, ascending."""
    with storage_errors(directory):
        try:
            names = os.listdir(directory)
        except (FileNotFoundError, NotADirectoryError):
            return []
    return sorted(int(match[1]) for name in names if (match := _NAME.match(name)))


def manifest_path(directory: Path, version: int) -> Path:
    """The path of a version."""
    return directory / f"manifest-{version}.json"


def load(directory: Path, *, complete: bool = False) -> tuple[int, Manifest]:
    """The newest version and its manifest.

    Args:
        directory: The pool or feature set.
        complete: Whether all files that it names must exist. This is checked before parsing.

    Raises:
        StoreNotFoundError: there is no manifest, or a file that it names is missing.
        IntegrityError: the newest manifest is damaged.
    """
    incomplete, absent = None, set[str]()
    while numbers := versions(directory):
        path = manifest_path(directory, numbers[-1])
        try:
            data = read_file(path, MAX_BYTES)
        except StoreNotFoundError:  # another process has published and removed it: look again
            continue
        if data == incomplete:  # no newer version explains why files are missing
            raise MissingFileError(f"{directory / min(absent)}: no such file")
        absent = names_in(data).difference(os.listdir(directory)) if complete else set()
        if not absent:
            return numbers[-1], Manifest.from_bytes(data, path)
        incomplete = data
    raise StoreNotFoundError(
        f"{directory}: no manifest, so no pool or feature set; run `cryobase extract` or `dvc pull`"
    )


def commit(directory: Path, change: Callable[[Manifest | None], Manifest]) -> tuple[int, Manifest]:
    """Publish the next version of a manifest. Try again if another process was faster.

    Args:
        directory: The pool. `publish_set` publishes the manifests of feature sets.
        change: Returns the new manifest for the newest one, which is None in an empty pool. It is
            called once for every try.

    Returns:
        The newest version and its manifest. If `change` changes nothing, nothing is published.

    Raises:
        IntegrityError: the newest manifest is damaged, or its number is the highest allowed one.
    """
    while True:
        try:
            version, current = load(directory)
        except StoreNotFoundError:
            version, current = 0, None
        proposal = change(current)
        if proposal == current:
            return version, proposal
        if version >= MAX_VERSION:
            path = manifest_path(directory, version)
            raise IntegrityError(f"{path}: no version can follow this one")
        try:
            publish_bytes(
                directory, manifest_path(directory, version + 1).name, proposal.to_bytes()
            )
        except ConflictError:
            continue
        # Otherwise the number was that of an older, swept version: readers would never see it.
        if versions(directory)[-1] == version + 1:
            return version + 1, proposal


def _manifest(value: Mapping[str, Any]) -> Manifest:
    published = value["published"]
    if published is not None:
        examples, classes = FileInfo(**published["examples"]), tuple(published["classes"])
        published = Published(**(published | {"examples": examples, "classes": classes}))
    shape = value["feature_shape"]
    return Manifest(
        spec=FeatureSpec.from_json(value["spec"]),
        feature_shape=None if shape is None else tuple(shape),
        shards=tuple(ShardInfo(**shard) for shard in value["shards"]),
        canary=None if value["canary"] is None else FileInfo(**value["canary"]),
        published=published,
    )


def _content_name(kind: str, sha256: str) -> str:
    return f"{kind}-{sha256}.{_SUFFIXES[kind]}"


def _is_hex(value: object) -> bool:
    return type(value) is str and _HEX.match(value) is not None


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"unexpected {what}")
