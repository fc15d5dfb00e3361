"""Loading received weights: a child process reads them, and Keras loads a copy that we write.

Keras must not open a received file itself: docs/adr/0019.
"""

import math
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from io import BufferedReader
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.h5reader import DTYPES, LENGTH
from cryobase.stages.backbones.table import BACKBONES
from cryobase.stages.children import run_module, status_of
from cryobase.stages.errors import DataError
from cryobase.stages.received import opened
from cryobase.stages.stored_zip import copy_member, members
from cryobase.store.text import parse_json
from cryobase.store.verified import Algorithm, cache_directory, digest

MAX_FILE = 2 << 30  # bytes; the largest of Keras' own, ConvNeXtXLarge, has 1.4 GB
FLOAT = 4  # bytes
SPARE, EXCESS = 16 << 20, 10  # extra bytes, and a factor, for a classifier or an optimizer
MAX_DOCUMENT = 16 << 20  # bytes
SECONDS = 3  # of processor time; a few megabytes need a tenth of it
BYTES_PER_SECOND = 32 << 20  # larger files may take one more second for so many bytes
SHA256 = 64  # digits
ZIP, HDF5 = b"PK\3\4", b"\x89HDF\r\n\x1a\n"
# what h5py raises on a malformed document, or on a full disk
NOT_WRITTEN = (
    KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, OSError,
)  # fmt: skip
MEMBER = "model.weights.h5"
MADE = re.compile(r".+-seeded-\d+-([0-9a-f]{64})\.weights\.h5")  # as `seeded.name` says


def is_known(backbone: str, path: Path) -> bool:
    """Whether a file is the one that Keras publishes, or one that we made in our cache."""
    expected = BACKBONES[backbone].checksum
    with suppress(RuntimeError):  # without a home directory there is no cache
        if path.parent == cache_directory() / "weights" and (made := MADE.fullmatch(path.name)):
            expected = made[1]
    with opened(path, MAX_FILE) as file:
        kind: Algorithm = "sha256" if len(expected) == SHA256 else "md5"
        return bool(expected) and digest(file.fileno(), kind) == expected


def load_weights(model: Any, path: Path, *, known: bool = False) -> None:
    """Load the weights of a file into a Keras model. Keras assigns weights to layers.

    Args:
        model: the model.
        path: the file.
        known: whether the file is trusted (see `is_known`), so that Keras may read it directly.

    Raises:
        DataError: the file cannot be read, or belongs to another model.
    """
    own = sum(math.prod(variable.shape) * FLOAT for variable in model.weights)
    copy = nullcontext(path) if known else rewritten(path, SPARE + own * EXCESS)
    try:
        with copy as clean:
            model.load_weights(str(clean))
    except Exception as error:  # noqa: BLE001 (Keras raises anything on the file of another model)
        reason = " ".join(str(error).split())[:300]
        raise DataError(reason or type(error).__name__) from None


@contextmanager
def rewritten(path: Path, limit: int) -> Iterator[Path]:
    """The arrays of a file of weights (`.h5`, `.weights.h5` or `.keras`), in a file of our own.

    Args:
        path: the file; only its numbers and names are copied.
        limit: the most bytes of all arrays together.

    Yields:
        A `.h5` or `.weights.h5` file, in the format of `path`, which is removed at the end.

    Raises:
        DataError: the file is not of these formats, or has anything that Keras does not write.
        OSError: the file cannot be opened, or there is no space for the copy.
    """
    with opened(path, MAX_FILE) as file, TemporaryDirectory(prefix="cryobase-") as scratch:
        source = Path(scratch, MEMBER)
        archived = _extract(file, path, source)
        with (
            source.open("rb") if archived else file as weights,
            Path(scratch, "a").open("w+b") as it,
        ):
            weights.seek(0)
            _ask(weights, it, limit)
            native = archived or path.name.endswith(".weights.h5")
            clean = Path(scratch, "clean.weights.h5" if native else "clean.h5")
            _write(it, clean)
        yield clean


def _extract(file: BufferedReader, path: Path, target: Path) -> bool:
    """Copy the weights out of a `.keras` archive.

    Returns:
        Whether the file is such an archive.

    Raises:
        DataError: the file has another format than its suffix says.
    """
    begin = file.read(len(HDF5))
    if path.suffix == ".keras":
        entries = members(file)
        if MEMBER not in entries:
            raise DataError(f"an archive without {MEMBER}")
        with target.open("wb") as output:
            copy_member(file, MEMBER, entries[MEMBER], output)
    elif begin.startswith(ZIP):
        raise DataError("a zip archive, as .keras files are; give it that suffix")
    elif begin != HDF5:
        raise DataError("no HDF5 file")
    return path.suffix == ".keras"


def _ask(file: BufferedReader, answer: BinaryIO, limit: int) -> None:
    """Let a child process read the file, and wait for it.

    Raises:
        DataError: the child crashed or took too long.
    """
    file.seek(0)
    seconds = SECONDS + os.fstat(file.fileno()).st_size // BYTES_PER_SECOND
    reader = run_module(
        "cryobase.stages.backbones.h5reader", str(limit), str(seconds),
        stdin=file, stdout=answer, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    status = status_of(reader, seconds)
    if status == -signal.SIGXCPU:
        raise DataError(f"HDF5 took longer than {seconds} s to read it")
    if status:
        kind = "signal" if status < 0 else "exit status"
        raise DataError(f"HDF5 crashed on it ({kind} {abs(status)})")


def _write(answer: BinaryIO, clean: Path) -> None:
    """Write the child's answer as HDF5."""
    document, start = _document(answer)
    try:
        with h5py.File(clean, "w") as target:
            for path, attributes in document["groups"].items():
                group = target.require_group(f"/{path}")
                for name, value in attributes.items():
                    group.attrs[name] = _encoded(value)
            for path, dtype, shape in document["arrays"]:
                target[f"/{path}"], start = _array(answer, start, dtype, shape)
    except NOT_WRITTEN as error:
        raise DataError(f"it cannot be copied: {error}") from None


def _document(answer: BinaryIO) -> tuple[Mapping[str, Any], int]:
    """The child's document, and the offset of its arrays.

    The document is not trusted: a hostile file may control the child.
    """
    answer.seek(0)
    size = int.from_bytes(answer.read(LENGTH), "little")
    if size > MAX_DOCUMENT:
        raise DataError("its reader gave no answer")
    try:
        document = parse_json(answer.read(size))
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise DataError("its reader gave no answer")
    if refused := document.get("refused"):
        raise DataError(str(refused)[:500])
    return document, LENGTH + size


def _array(answer: BinaryIO, start: int, dtype: str, shape: list[int]) -> tuple[NDArray[Any], int]:
    """An array, and the offset of the next one.

    Raises:
        ValueError: the array is not of a known kind, or reaches beyond the end of the answer.
    """
    if dtype not in DTYPES or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"not an array: {dtype!r:.20} {shape!r:.80}")
    count = math.prod(shape)
    end = start + count * np.dtype(dtype).itemsize
    if end > os.fstat(answer.fileno()).st_size:
        raise ValueError("arrays are missing")
    answer.seek(start)
    return np.fromfile(answer, dtype, count).reshape(shape), end


def _encoded(value: Any) -> Any:
    """Names as Keras stores them: a single text, or an array of byte strings."""
    return value if isinstance(value, str) else np.array([each.encode() for each in value], "S")
