"""Weights from somebody else: read in a child process, and written anew for Keras to load.

Why not by Keras itself: docs/adr/0019.
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
from cryobase.stages.children import run_module
from cryobase.stages.errors import DataError
from cryobase.stages.received import opened
from cryobase.stages.stored_zip import copy_member, members
from cryobase.store.text import parse_json
from cryobase.store.verified import Algorithm, cache_directory, digest

MAX_FILE = 2 << 30  # bytes; the largest of Keras' own, ConvNeXtXLarge, has 1.4 GB
FLOAT = 4  # bytes
SPARE, EXCESS = 16 << 20, 10  # what a file may have beyond the model's: classifier, optimizer
MAX_DOCUMENT = 16 << 20  # bytes
SECONDS = 3  # of processor time; what a few megabytes need is a tenth
BYTES_PER_SECOND = 32 << 20  # that larger files may take more
SHA256 = 64  # digits
ZIP, HDF5 = b"PK\3\4", b"\x89HDF\r\n\x1a\n"
# what h5py raises on a malformed document, or on a full disk
NOT_WRITTEN = (
    KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, OSError,
)  # fmt: skip
MEMBER = "model.weights.h5"
MADE = re.compile(r".+-seeded-\d+-([0-9a-f]{64})\.weights\.h5")  # as `seeded.name` says


def is_known(backbone: str, path: Path) -> bool:
    """Whether a file is the one that Keras publishes, or one of our making in our cache."""
    expected = BACKBONES[backbone].checksum
    with suppress(RuntimeError):  # no home, so no cache
        if path.parent == cache_directory() / "weights" and (made := MADE.fullmatch(path.name)):
            expected = made[1]
    with opened(path, MAX_FILE) as file:
        kind: Algorithm = "sha256" if len(expected) == SHA256 else "md5"
        return bool(expected) and digest(file.fileno(), kind) == expected


def load_weights(model: Any, path: Path, *, known: bool = False) -> None:
    """Give a Keras model the weights of a file, by Keras' own rules of which are whose.

    Args:
        model: the model.
        path: the file.
        known: whether it is one of ours or of Keras, see `is_known`, which Keras may read itself.

    Raises:
        DataError: it is no such file, or of another model.
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
        path: the file; nothing of it but numbers and names is taken over.
        limit: bytes that its arrays may have together.

    Yields:
        A `.h5` or `.weights.h5` file, as the suffix of `path` says, that is there for as long as
        the context is.

    Raises:
        DataError: it is no such file, or has anything that Keras does not write.
        OSError: it cannot be opened, or there is no room for the copy.
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
    """Take the weights out of a `.keras` archive; whether it is one."""
    begin = file.read(len(HDF5))
    if path.suffix == ".keras":
        found = members(file)
        if MEMBER not in found:
            raise DataError(f"an archive without {MEMBER}")
        with target.open("wb") as output:
            copy_member(file, MEMBER, found[MEMBER], output)
    elif begin.startswith(ZIP):
        raise DataError("a zip archive, as .keras files are; give it that suffix")
    elif begin != HDF5:
        raise DataError("no HDF5 file")
    return path.suffix == ".keras"


def _ask(file: BufferedReader, answer: BinaryIO, limit: int) -> None:
    """Let a child read the file, and wait for it."""
    file.seek(0)
    seconds = SECONDS + os.fstat(file.fileno()).st_size // BYTES_PER_SECOND
    reader = run_module(
        "cryobase.stages.backbones.h5reader", str(limit), str(seconds),
        stdin=file, stdout=answer, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        status = reader.wait(timeout=10 * seconds)
    except subprocess.TimeoutExpired:
        status = -signal.SIGXCPU
    finally:
        reader.kill()
        reader.wait()
    if status == -signal.SIGXCPU:
        raise DataError(f"HDF5 took longer than {seconds} s to read it")
    if status:
        kind = "signal" if status < 0 else "exit status"
        raise DataError(f"HDF5 crashed on it ({kind} {abs(status)})")


def _write(answer: BinaryIO, clean: Path) -> None:
    """Write what the child found as HDF5."""
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
        raise DataError(f"it cannot be written anew: {error}") from None


def _document(answer: BinaryIO) -> tuple[Mapping[str, Any], int]:
    """What the child says, and where its arrays begin. It may have been taken over."""
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
    """An array and where the next one begins; one that reaches beyond the answer is an error."""
    if dtype not in DTYPES or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"no array: {dtype!r:.20} {shape!r:.80}")
    count = math.prod(shape)
    end = start + count * np.dtype(dtype).itemsize
    if end > os.fstat(answer.fileno()).st_size:
        raise ValueError("arrays are missing")
    answer.seek(start)
    return np.fromfile(answer, dtype, count).reshape(shape), end


def _encoded(value: Any) -> Any:
    """Names as Keras stores them, in bytes of one length each, or a single one."""
    return value if isinstance(value, str) else np.array([each.encode() for each in value], "S")
