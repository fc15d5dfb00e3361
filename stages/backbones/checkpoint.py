"""Reads the tensors of a PyTorch checkpoint (format of before 1.6) without PyTorch, and safely.

The format is five pickles (magic number, protocol, machine, objects, storage keys), then each
storage's length and bytes. The pickles can build nothing but what tensors are made of.
"""

import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from stages.errors import DataError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}

# what the unpickler raises on bytes that are no pickle
MALFORMED = (
    pickle.UnpicklingError, struct.error, EOFError, ValueError, LookupError, TypeError,
    AttributeError, ArithmeticError, MemoryError,
)  # fmt: skip


class _Tensor(NamedTuple):
    storage: tuple[Any, ...]  # ("storage", type, key, device, length, view)
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _TensorUnpickler(pickle._Unpickler):
    """Builds dictionaries, storages' names and tensors, and refuses every other class.

    It derives from the unpickler in Python, because the one in C reserves as much memory as a
    forged index asks for.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Tensor(
                storage, offset, shape, strides
            )
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a tensor")

    def persistent_load(self, pid: Any) -> Any:
        return pid


def read_checkpoint(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a state dictionary by name, in PyTorch's axis order, contiguous.

    Raises:
        DataError: the file is no such checkpoint, or holds anything but tensors.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except MALFORMED as error:
        raise DataError(f"{path}: no checkpoint of PyTorch tensors: {error}") from None


def _read(file: BinaryIO) -> dict[str, NDArray[Any]]:
    magic, _, _, tensors, keys = (_TensorUnpickler(file).load() for _ in range(5))
    if magic != MAGIC_NUMBER:
        raise ValueError(f"it starts with {magic!r:.40}")
    types = {tensor.storage[2]: tensor.storage[1] for tensor in tensors.values()}
    storages = {key: _read_storage(file, types[key]) for key in keys}
    return {name: _view(tensor, storages[tensor.storage[2]]) for name, tensor in tensors.items()}


def _read_storage(file: BinaryIO, dtype: np.dtype[Any]) -> NDArray[Any]:
    length = int.from_bytes(file.read(8), "little")
    # frombuffer refuses what a truncated file gives; read() allocates no more than is there
    return np.frombuffer(file.read(length * dtype.itemsize), dtype, length)


def _view(tensor: _Tensor, storage: NDArray[Any]) -> NDArray[Any]:
    """The tensor that lies in a storage; strides count elements and need not be C order."""
    if any(number < 0 for number in (tensor.offset, *tensor.shape, *tensor.strides)):
        raise ValueError(f"a tensor has a negative offset, size or stride: {tensor[1:]}")
    last = tensor.offset + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if last >= len(storage):
        raise ValueError(f"a tensor reaches element {last} of {len(storage)}")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    view = as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False)
    return np.ascontiguousarray(view).reshape(tensor.shape)
