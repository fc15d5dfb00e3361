"""Writing `data/raw` from a source: each new image is hashed, decoded as a test, and packed, once.

This is the same for all sources; `source.py` defines what a source is. Reasons of quarantine are
stored in data/raw, so a changed reason becomes visible there.
"""

import hashlib
import logging
import os
from array import array
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data import decoding, headers, index, packs
from cryobase.stages.data.index import Index
from cryobase.stages.data.isolation import IsolatedDecoder
from cryobase.stages.data.packs import Pack, PackWriter
from cryobase.stages.errors import DataError
from cryobase.stages.progress import Progress
from cryobase.stages.received import open_data
from cryobase.stages.sources.digests import DigestTable
from cryobase.stages.sources.left_out import Tally
from cryobase.stages.sources.source import Source, SourceExample
from cryobase.store.parallel import ordered_map
from cryobase.store.publish import remove

log = logging.getLogger(__name__)

MAX_ID_BYTES = 512
MOSTLY_DEAD = 0.5  # a pack of which less than this share is used is written again
GROUP, GROUP_BYTES = 32, 1 << 16  # most examples, and bytes, that a thread handles together
WIDTHS = {"<i4": "i", "<i8": "q"}  # numpy's dtypes to the array module's
NOTHING = headers.Header("", 0, 0)


@dataclass(frozen=True)
class _Image:
    """One example after its check. `data` is empty if the image is not packed."""

    example: SourceExample
    digest: bytes
    length: int
    data: bytes = b""
    reason: str = ""
    remark: str = ""
    header: headers.Header | None = None  # None: the image is known from the last run


class Ingest:
    """One run of `download`: adds packs, and makes the next index from the last one."""

    def __init__(
        self,
        directory: Path,
        *,
        in_place: str | None = None,
        workers: int = 0,
        expected: int | None = None,
    ) -> None:
        """Start from the index and packs in `directory`.

        Args:
            directory: `data/raw`.
            in_place: the folder of images that are not copied; None to copy them.
            workers: the number of threads; 0 for the number of processors.
            expected: the approximate number of images, for the progress bar.
        """
        self._expected = expected
        self._directory = directory
        self._in_place = in_place
        self._workers = workers or os.cpu_count() or 1
        self._decoder = IsolatedDecoder(decoding.examine)
        self._old = _usable(directory, in_place)
        self._known = DigestTable(self._old.digest)  # rows of the old index; all threads read it
        self._table = DigestTable()  # images of this run
        self._writer = PackWriter(directory, first=len(self._old.packs))
        self._columns = {
            name: array(WIDTHS[dtype])
            for name, dtype in index.IMAGE_COLUMNS.items()
            if name != "digest"
        }
        self._labels, self._images, self._parts = array("i"), array("q"), array("b")
        self._ids, self._id_ends = bytearray(), array("q")
        self._label_numbers: dict[str, int] = {}
        self._reasons: dict[str, int] = {"": 0}
        self.decoded = 0
        self.remarks = Tally()

    def run(self, source: Source) -> Index:
        """Read all examples of a source. Examples that it no longer has leave the index."""
        groups = _groups(source.examples())
        with (
            closing(
                ordered_map(self._look_at, groups, workers=self._workers, stop=self._decoder.close)
            ) as looked_at,
            Progress("download", "images", self._expected) as progress,
        ):
            for image in chain.from_iterable(looked_at):
                self._take(image)
                progress.advance(1, f"{self.decoded:,} new")
        return self._finish(source.classes)

    def _look_at(self, examples: list[SourceExample]) -> list[_Image]:
        """Runs in a thread: hash images, and let a child decode the new ones."""
        images = [self._read(example) for example in examples]
        new = [n for n, image in enumerate(images) if image.header and not image.reason]
        verdicts = self._decoder.examine([images[n].data for n in new])
        for n, (reason, remark) in zip(new, verdicts, strict=True):
            images[n] = replace(images[n], remark=remark)
            if reason:
                images[n] = replace(images[n], data=b"", reason=reason, header=NOTHING)
            elif self._in_place:
                images[n] = replace(images[n], data=b"")
        return images

    def _read(self, example: SourceExample) -> _Image:
        data, digest, length, reason = _read(example.image)
        if self._known.find(digest) is not None:
            return _Image(example, digest, length)
        if reason:
            return _Image(example, digest, length, reason=reason, header=NOTHING)
        try:
            return _Image(example, digest, length, data, header=decoding.inspect(data))
        except decoding.UndecodableImageError as error:
            return _Image(example, digest, length, reason=str(error), header=NOTHING)

    def _take(self, image: _Image) -> None:
        """Add an example, in the source's order, and its image if it is new in this run.

        Raises:
            DataError: the id is too long.
        """
        identifier = image.example.id.encode()
        if len(identifier) > MAX_ID_BYTES:
            raise DataError(
                f"{image.example.id}: an id of {len(identifier)} bytes, at most {MAX_ID_BYTES} are"
                " kept; shorten the file's path"
            )
        row = self._table.find(image.digest)
        if row is None:
            row = self._table.add(image.digest)
            self._note_known(image) if image.header is None else self._note_new(image)
            if image.remark:
                self.remarks.add(image.example.id, image.remark)
        self._ids += identifier
        self._id_ends.append(len(self._ids))
        self._images.append(row)
        self._parts.append(index.PARTS.index(image.example.part or ""))
        labels = self._label_numbers
        self._labels.append(labels.setdefault(image.example.label, len(labels)))

    def _note_known(self, image: _Image) -> None:
        old = self._old
        row = self._known.find(image.digest)
        for name, column in self._columns.items():
            column.append(int(getattr(old, name)[row]))
        self._columns["reason"][-1] = self._reason_number(old.reasons[old.reason[row]])

    def _note_new(self, image: _Image) -> None:
        assert image.header is not None
        self.decoded += 1
        pack, offset = index.NO_PACK, 0
        if not image.reason and not self._in_place:
            extension = headers.EXTENSIONS[image.header.format]
            pack, offset = self._writer.append(image.digest, extension, image.data)
        height, width = image.header.upright
        reason = self._reason_number(image.reason)
        for name, value in (
            ("pack", pack), ("offset", offset), ("length", image.length),
            ("height", height), ("width", width), ("reason", reason),
        ):  # fmt: skip
            self._columns[name].append(value)

    def _reason_number(self, reason: str) -> int:
        return self._reasons.setdefault(reason, len(self._reasons))

    def _finish(self, classes: tuple[str, ...]) -> Index:
        images: dict[str, Any] = {
            name: np.array(column, dtype=index.IMAGE_COLUMNS[name])
            for name, column in self._columns.items()
        }
        images["digest"] = self._table.digests
        living = settle(self._directory, self._writer, self._old.packs, images)
        ids = self._id_column()
        order = np.argsort(ids, kind="stable")
        places = {name: number for number, name in enumerate(classes)}
        numbers = np.array([places[name] for name in self._label_numbers], dtype=np.int32)
        return Index(
            ids=ids[order],
            labels=numbers[np.array(self._labels, dtype=np.int32)][order],
            parts=np.array(self._parts, dtype=np.int8)[order],
            images=np.array(self._images, dtype=np.int64)[order],
            **images,
            classes=classes,
            reasons=tuple(self._reasons),
            packs=living,
            in_place=self._in_place,
        )

    def _id_column(self) -> NDArray[np.bytes_]:
        ends = np.array(self._id_ends, dtype=np.int64)
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        column = np.zeros(len(ends), dtype=f"S{max(1, int((ends - starts).max(initial=1)))}")
        for position, (start, end) in enumerate(zip(starts, ends, strict=True)):
            column[position] = bytes(self._ids[start:end])
        return column


def settle(
    directory: Path, writer: PackWriter, old: tuple[Pack, ...], images: dict[str, NDArray[Any]]
) -> tuple[Pack, ...]:
    """Rewrite packs that are mostly unused, drop unused packs, and renumber `images["pack"]`."""
    place, offset, length = images["pack"], images["offset"], images["length"]
    footprint = packs.BLOCK + length + -length % packs.BLOCK
    packed = place >= 0
    living = np.bincount(place[packed], footprint[packed], minlength=len(old))
    for number, pack in enumerate(old):
        if 0 < living[number] < MOSTLY_DEAD * pack.bytes:
            for row in np.flatnonzero(place == number):
                data = packs.read_at(directory / pack.name, int(offset[row]), int(length[row]))
                digest = images["digest"][row].tobytes()
                place[row], offset[row] = _pack_again(writer, digest, data, directory / pack.name)
    writer.flush()
    used, numbers = np.unique(place, return_inverse=True)
    unpacked = int(len(used) > 0 and used[0] == index.NO_PACK)
    place[:] = numbers - unpacked
    every = (*old, *writer.packs)
    return tuple(every[number] for number in used[unpacked:])


def _pack_again(writer: PackWriter, digest: bytes, data: bytes, path: Path) -> tuple[int, int]:
    header = None
    with suppress(ValueError):  # a received pack may have bytes that are not an image
        header = headers.read(data) if hashlib.sha256(data).digest() == digest else None
    if header is None:
        mend = packs.anew(path)
        raise DataError(f"{path}: image {digest.hex()} has changed; {mend}")
    return writer.append(digest, headers.EXTENSIONS[header.format], data)


def _groups(examples: Iterable[SourceExample]) -> Iterator[list[SourceExample]]:
    """Small images in groups, because each request to a decoder has a cost."""
    group, size = [], 0
    for example in examples:
        group.append(example)
        size += _size(example.image)
        if size >= GROUP_BYTES or len(group) == GROUP:
            yield group
            group, size = [], 0
    yield group


def _size(image: bytes | Path) -> int:
    try:
        return len(image) if isinstance(image, bytes) else image.stat().st_size
    except OSError:
        return 0


def _read(image: bytes | Path) -> tuple[bytes, bytes, int, str]:
    """The bytes of an image, their digest, their number, and "" or why they cannot be read.

    A file that is too large gets a digest of its length, an unreadable file a digest of the reason.
    """
    if isinstance(image, bytes):
        return image, hashlib.sha256(image).digest(), len(image), ""
    try:
        with os.fdopen(open_data(image, follow=True), "rb") as file:
            length = os.fstat(file.fileno()).st_size
            if length <= decoding.MAX_BYTES:  # a larger file is refused, so it is not read
                data = file.read(decoding.MAX_BYTES + 1)
                return data, hashlib.sha256(data).digest(), len(data), ""
    except (DataError, OSError):
        reason = f"cannot be read: {_why_unreadable(image)}"
        return b"", hashlib.sha256(reason.encode()).digest(), 0, reason
    digest = hashlib.sha256(f"{length:,} bytes, too many".encode()).digest()
    return b"", digest, length, decoding.TOO_LARGE


def _why_unreadable(path: Path) -> str:
    if not os.path.exists(path):
        return "a link that leads nowhere" if path.is_symlink() else "gone, or not permitted"
    return "not permitted, or the disk fails" if path.is_file() else "no regular file"


def _usable(directory: Path, in_place: str | None) -> Index:
    """The last run's index, with only the images that this run need not check again."""
    if not (directory / index.RECORD).exists():
        return Index.empty()
    try:
        old = index.read(directory)
        columns = {name: getattr(old, name) for name in index.IMAGE_COLUMNS}
    except DataError as error:
        log.warning("%s; all images are read again", error)
        index.sweep(directory, set())
        return Index.empty()
    keep = columns["reason"] > 0
    if in_place:
        keep[:] = True
        columns["pack"][:] = index.NO_PACK
    else:
        whole = np.array([*(is_whole(directory, pack) for pack in old.packs), False])
        keep |= whole[columns["pack"]]  # NO_PACK, -1, selects the last item
    outdated = [n for n, reason in enumerate(old.reasons) if decoding.is_outdated(reason)]
    keep &= ~np.isin(columns["reason"], outdated)
    kept = {name: column[keep] for name, column in columns.items()}
    return replace(Index.empty(), **kept, reasons=old.reasons, packs=old.packs)


def is_whole(directory: Path, pack: Pack) -> bool:
    """Whether a pack has its full size. An incomplete pack is removed, so that its name is free."""
    path = directory / pack.name
    if path.is_file() and path.lstat().st_size == pack.bytes:
        return True
    remove(path)
    return False
