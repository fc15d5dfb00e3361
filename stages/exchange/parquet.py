"""Features as Arrow record batches and as Parquet files, written and read; the extra `parquet`.

There is one row for each example: `id`, `label` (the class's name), `split` if splits are known,
`quarantined`, `digest`, and a list of fixed size for the features of each view. A received Parquet
file is read in a child process (`parquet_reader.py`), whose answer is not trusted either.
"""

import importlib
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.children import run_module, status_of
from cryobase.stages.data.splits import PARTS
from cryobase.stages.errors import ConfigError, DataError
from cryobase.stages.received import opened
from cryobase.store import FeatureSet
from cryobase.store.arrays import DESCRIPTION, Description, feature_name, rows_at_once
from cryobase.store.publish import replacing

MAGIC = b"PAR1"
MAX_FILE = 1 << 40  # bytes
MAX_RATIO = 200  # bytes of arrays for a byte of the file
SPARE = 1 << 26  # bytes that a small file may have beyond that
SECONDS = 6  # of processor time; the start takes one, a gigabyte about ten
BYTES_PER_SECOND = 16 << 20  # larger files may take one more second for so many bytes
MAX_REASON = 1 << 12  # bytes
REFUSED = 3  # exit status of a child that gives a reason
_GROUP_BYTES = 1 << 26  # of a row group


class NoArrowError(ConfigError, ImportError):
    """pyarrow is not installed (exit code 2)."""


def load_arrow(module: str = "pyarrow") -> Any:
    """Import pyarrow, or one of its modules.

    Raises:
        NoArrowError: pyarrow is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise NoArrowError(
            "pyarrow is not installed; run `pip install 'cryobase[parquet]'`"
        ) from None


def schema_of(features: FeatureSet, *, split: bool) -> Any:
    """The Arrow schema of a set's table; its metadata describe the set."""
    pa = load_arrow()
    width = int(np.prod(features.feature_shape))
    kind = pa.float16() if features.table.dtype == np.float16 else pa.float32()
    fields = [pa.field("id", pa.string(), nullable=False), pa.field("label", pa.string())]
    fields += [pa.field("split", pa.string())] if split else []
    fields += [
        pa.field("quarantined", pa.bool_(), nullable=False),
        pa.field("digest", pa.binary(32), nullable=False),
    ]
    fields += [
        pa.field(feature_name(view), pa.list_(kind, width)) for view in range(features.views + 1)
    ]
    return pa.schema(fields, metadata={DESCRIPTION: Description.of(features).to_text()})


def batches_of(features: FeatureSet, parts: NDArray[np.int8] | None = None) -> Iterator[Any]:
    """The examples of a set, ordered by id, in record batches of about 4 MiB of features.

    Args:
        features: The set.
        parts: (n,) along its `examples`, positions in `PARTS` or -1.
    """
    pa, schema = load_arrow(), schema_of(features, split=parts is not None)
    examples, step = features.examples, rows_at_once(features)
    labels = pa.array(class_texts(features.classes))
    names = pa.array([*PARTS])
    for start in range(0, len(examples), step):
        part = slice(start, start + step)
        hidden = examples.quarantined[part]
        numbers = pa.array(examples.labels[part])
        columns = {
            "id": pa.array([name.decode() for name in examples.ids[part].tolist()], pa.string()),
            "label": labels.take(numbers),
            "quarantined": pa.array(hidden),
            "digest": pa.array([row.tobytes() for row in examples.digests[part]], pa.binary(32)),
        }
        if parts is not None:
            columns["split"] = names.take(pa.array(parts[part], mask=parts[part] < 0))
        for view in range(features.views + 1):
            columns[feature_name(view)] = _lists(features, examples.ids[part], hidden, view)
        yield pa.record_batch([columns[field.name] for field in schema], schema=schema)


def _lists(
    features: FeatureSet, ids: NDArray[np.bytes_], hidden: NDArray[np.bool_], view: int
) -> Any:
    """A list of features for each example, null in quarantine."""
    pa, width = load_arrow(), int(np.prod(features.feature_shape))
    rows = np.zeros((len(ids), width), features.table.dtype)
    if not hidden.all():
        rows[~hidden] = features.rows(ids[~hidden], view).reshape(-1, width)
    mask = pa.array(hidden) if hidden.any() else None
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), width, mask=mask)


def class_texts(classes: tuple[str, ...]) -> list[str]:
    """Names of classes as valid UTF-8.

    Raises:
        DataError: two names would become equal.
    """
    texts = [name.encode("utf-8", "backslashreplace").decode() for name in classes]
    if len(set(texts)) != len(texts):
        raise DataError("two classes have one name in UTF-8; rename one of them")
    return texts


def export_parquet(features: FeatureSet, path: Path, parts: NDArray[np.int8] | None = None) -> None:
    """Write a set as one Parquet file. It is not compressed, as features compress badly.

    Args:
        features: The set.
        path: The file.
        parts: (n,) along its `examples`, positions in `PARTS` or -1.

    Raises:
        NoArrowError: pyarrow is not installed.
    """
    pq = load_arrow("pyarrow.parquet")
    schema = schema_of(features, split=parts is not None)
    lists = [feature_name(view) for view in range(features.views + 1)]
    texts = [field.name for field in schema if field.name not in lists]
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="none", use_dictionary=texts) as writer,
    ):
        rows = max(1, _GROUP_BYTES // max(1, features.table.row_bytes))
        pending, count = [], 0
        for batch in batches_of(features, parts):
            pending.append(batch)
            count += len(batch)
            if count >= rows:
                writer.write_table(load_arrow().Table.from_batches(pending), row_group_size=count)
                pending, count = [], 0
        if pending:
            writer.write_table(load_arrow().Table.from_batches(pending), row_group_size=count)


def is_parquet(path: Path) -> bool:
    """Whether a file begins like a Parquet file.

    Raises:
        DataError: the file cannot be read, or is not a regular file.
    """
    try:
        with opened(path, MAX_FILE) as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        reason = error.strerror or "no such file"
        raise DataError(f"{path}: cannot be read ({reason}); check the path") from None


@contextmanager
def converted(path: Path, column: str) -> Iterator[Path]:
    """Convert a Parquet file to a file of arrays, which is removed at the end of the context.

    Args:
        path: The file.
        column: The name of the column of features.

    Raises:
        DataError: the file is not Parquet, or its columns are of other kinds.
        NoArrowError: pyarrow is not installed.
    """
    load_arrow()
    with opened(path, MAX_FILE) as file, TemporaryDirectory(prefix="cryobase-") as scratch:
        size = os.fstat(file.fileno()).st_size
        free = shutil.disk_usage(scratch).free
        limit = min(SPARE + MAX_RATIO * size, free)
        answer, reason = Path(scratch, "arrays"), Path(scratch, "reason")
        with answer.open("xb") as output, reason.open("xb") as words:
            seconds = SECONDS + size // BYTES_PER_SECOND
            streams = {"stdin": file, "stdout": output, "stderr": words}
            _ask(path, column, limit, seconds, **streams)
        with reason.open("rb") as words:
            if text := words.read(MAX_REASON).decode("utf-8", "replace").strip():
                raise DataError(f"{path}: {text}")
        yield answer


def _ask(path: Path, column: str, limit: int, seconds: int, **streams: Any) -> None:
    """Let a child process read the file, and wait for it.

    Raises:
        DataError: the child crashed, took too long, or wrote too much.
    """
    reader = run_module(
        "cryobase.stages.exchange.parquet_reader", str(limit), str(seconds), column,
        **streams,
    )  # fmt: skip
    status = status_of(reader, seconds)
    if status == -signal.SIGXCPU:
        raise DataError(f"{path}: reading it took longer than {seconds} s of processor time")
    if status == -signal.SIGXFSZ:
        raise DataError(f"{path}: its columns take more than {limit:,} bytes")
    if status not in (0, REFUSED):
        kind = "signal" if status < 0 else "exit status"
        raise DataError(f"{path}: its reader crashed on it ({kind} {abs(status)})")
