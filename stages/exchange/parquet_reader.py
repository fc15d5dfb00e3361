"""The child process that reads a received Parquet file, and writes a file of plain arrays.

Arrow's reader is a large C++ program for many nested formats, so it opens received files only in
this child. Standard input is the file. Standard output is a file that gets the arrays. Standard
error gets the reason if the file is refused.
"""

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cryobase.stages.children import limit_this_process
from cryobase.store.arrays import DESCRIPTION, HIDDEN, Column, write_safetensors
from cryobase.store.columns import MAX_STRING
from cryobase.store.manifest import EXAMPLE_BYTES, MAX_EXAMPLES

MEMORY = 1 << 30  # bytes of memory for the child
REFUSED = 3  # exit status of a refusal with a reason
DIGEST = 32  # bytes
BATCH = 1 << 22  # about the bytes of features that are decoded together
FLOATS = {pa.float16(): "<f2", pa.float32(): "<f4", pa.float64(): "<f8"}


class RefusedError(Exception):
    """The file does not have the needed columns."""


def answer(source: Any, output: Any, column: str, limit: int) -> None:
    """Write the columns of a Parquet file as a safetensors file.

    Raises:
        RefusedError: columns are of other kinds, or take more than `limit` bytes.
    """
    file = pq.ParquetFile(source, memory_map=False, pre_buffer=False, buffer_size=1 << 20)
    schema, metadata = file.schema_arrow, file.schema_arrow.metadata or {}
    names = [name for name in schema.names if name.startswith("features_")]
    description = metadata.get(DESCRIPTION.encode())
    lists = [column, *names] if description else [column]
    for name in ("id", *lists):
        if schema.names.count(name) != 1:
            raise RefusedError(f"no column {name!a:.80}, or two; there are {schema.names!a:.300}")
    hidden = _hidden(file, schema)
    columns = [*_texts(file, "id", hidden), *_labels(file, schema, hidden)]
    columns += _digests(file, schema, hidden)
    if "split" in schema.names:
        columns += _split(file, hidden)
    columns += [_features(file, schema, name, hidden) for name in lists]
    if sum(array.size for array in columns) > limit:
        raise RefusedError(f"its columns take more than {limit:,} bytes")
    texts = {DESCRIPTION: description.decode("ascii")} if description else {}
    write_safetensors(output, columns, texts)


def _hidden(file: Any, schema: Any) -> np.ndarray:
    """(n,) whether a row's example is in quarantine, so that it has no features."""
    count = file.metadata.num_rows
    if not 0 < count * EXAMPLE_BYTES <= MAX_EXAMPLES:
        raise RefusedError(f"{count:,} rows, 1 to {MAX_EXAMPLES // EXAMPLE_BYTES:,} are taken")
    if "quarantined" not in schema.names:
        return np.zeros(count, np.bool_)
    parts = [part.fill_null(True).to_numpy(False) for part in _column(file, "quarantined")]
    hidden = np.concatenate([np.zeros(0, np.bool_), *parts])
    if hidden.dtype != np.bool_ or len(hidden) != count:
        raise RefusedError(f"quarantined is {schema.field('quarantined').type}, or incomplete")
    return hidden


def _column(file: Any, name: str, rows: int = 1 << 16) -> Iterator[Any]:
    """The values of a column in parts, without Arrow's extension and dictionary types."""
    for batch in file.iter_batches(batch_size=rows, columns=[name], use_threads=False):
        values = batch.column(0)
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
        if isinstance(values, pa.DictionaryArray):
            values = values.dictionary_decode()
        yield values


def _texts(file: Any, name: str, hidden: np.ndarray) -> Iterator[Column]:
    texts = []
    for values in _column(file, name):
        if not _is_text(values.type):
            raise RefusedError(f"{name} is {values.type}, expected text")
        if values.null_count:
            raise RefusedError(f"{name} has rows without a value")
        texts += values.cast(pa.large_binary()).to_pylist()
    longest = max(map(len, texts), default=0)
    if not 0 < longest <= MAX_STRING or any(text.endswith(b"\0") for text in texts):
        raise RefusedError(f"{name}: texts of {longest:,} bytes, 1 to {MAX_STRING} are taken")
    return _divided(f"{name}s", np.array(texts, f"S{longest}"), hidden)


def _is_text(kind: Any) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    )


def _divided(name: str, values: np.ndarray, hidden: np.ndarray) -> Iterator[Column]:
    """A column of the examples with features, and a second one of those without."""
    if len(values) != len(hidden):
        raise RefusedError(f"{name}: {len(values):,} values for {len(hidden):,} rows")
    yield Column.of(name, values[~hidden])
    if hidden.any():
        yield Column.of(f"{HIDDEN}{name}", values[hidden])


def _labels(file: Any, schema: Any, hidden: np.ndarray) -> Iterator[Column]:
    if "label" not in schema.names:
        return iter(())
    kind = schema.field("label").type
    if not pa.types.is_integer(kind):
        return _texts(file, "label", hidden)
    parts = [_whole(part, "label").to_numpy() for part in _column(file, "label")]
    return _divided("labels", np.concatenate(parts), hidden)


def _whole(values: Any, name: str) -> Any:
    if values.null_count:
        raise RefusedError(f"{name} has rows without a value")
    return values


def _digests(file: Any, schema: Any, hidden: np.ndarray) -> Iterator[Column]:
    if "digest" not in schema.names:
        return iter(())
    rows = [row for part in _column(file, "digest") for row in _whole(part, "digest").to_pylist()]
    if any(not isinstance(row, bytes) or len(row) != DIGEST for row in rows):
        raise RefusedError(f"digest is {schema.field('digest').type}, expected {DIGEST} bytes each")
    table = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, DIGEST)
    return _divided("digests", table, hidden)


def _split(file: Any, hidden: np.ndarray) -> Iterator[Column]:
    """The part of each example with features; `-` for an example without a part."""
    parts = []
    for values in _column(file, "split"):
        if not _is_text(values.type) and not pa.types.is_null(values.type):
            raise RefusedError(f"split is {values.type}, expected text")
        parts += [part or "-" for part in values.cast(pa.string()).to_pylist()]
    texts = np.array([part.encode() for part in parts], "S")
    if texts.itemsize > MAX_STRING:
        raise RefusedError("split has a text that is no part's name")
    yield next(_divided("split", texts, hidden))


def _features(file: Any, schema: Any, name: str, hidden: np.ndarray) -> Column:
    """A list of numbers for each example with features, decoded while it is written."""
    kind = schema.field(name).type
    kind = kind.storage_type if isinstance(kind, pa.ExtensionType) else kind
    if not (_is_list(kind) and kind.value_type in FLOATS):
        raise RefusedError(f"{name} is {kind}, expected lists of floats")
    dtype = np.dtype(FLOATS[kind.value_type])
    fixed = pa.types.is_fixed_size_list(kind)
    width = kind.list_size if fixed else _first_length(file, name)
    step = max(1, BATCH // max(1, width * dtype.itemsize))
    shape = (len(hidden) - int(hidden.sum()), width)
    return Column(name, dtype, shape, _blocks(file, name, width, step, hidden))


def _is_list(kind: Any) -> bool:
    tests = (pa.types.is_fixed_size_list, pa.types.is_list, pa.types.is_large_list)
    return any(test(kind) for test in tests)


def _first_length(file: Any, name: str) -> int:
    for values in _column(file, name, 1):
        if (length := values.value_lengths()[0].as_py()) is not None:
            return int(length)
    raise RefusedError(f"{name} has no value at all")


def _blocks(
    file: Any, name: str, width: int, step: int, hidden: np.ndarray
) -> Iterator[np.ndarray]:
    start = 0
    for values in _column(file, name, step):
        stop = start + len(values)
        rows = values.filter(pa.array(~hidden[start:stop]))
        if rows.null_count or not pc.all(pc.equal(rows.value_lengths(), width)).as_py():
            raise RefusedError(
                f"{name}: some of rows {start:,} to {stop:,} has not {width} numbers"
            )
        flat = rows.flatten()
        if flat.null_count:
            raise RefusedError(f"{name}: a number is missing in rows {start:,} to {stop:,}")
        yield flat.to_numpy(zero_copy_only=False).reshape(-1, width)
        start = stop
    if start != len(hidden):
        raise RefusedError(f"{name} has {start:,} rows, not {len(hidden):,}")


if __name__ == "__main__":
    limit, seconds, column = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # ends this process; its parent says why
    limit_this_process(seconds=seconds, memory=MEMORY, output=limit)
    pa.set_cpu_count(1)
    try:
        with open(0, "rb") as source, open(1, "wb") as output:
            answer(source, output, column, limit)
    except Exception as error:  # noqa: BLE001 (Arrow raises anything on a damaged file)
        reason = " ".join(str(error).split())[:500]
        if not isinstance(error, RefusedError):
            reason = f"Arrow cannot read it ({reason or type(error).__name__})"
        os.write(2, reason.encode("utf-8", "backslashreplace"))
        sys.exit(REFUSED)
