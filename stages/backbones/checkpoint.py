"""Reading the tensors of a PyTorch checkpoint without PyTorch and without an unpickler.

A checkpoint from before PyTorch 1.6 is five pickles (magic number, protocol, machine, objects,
storage keys), followed by each storage's length and bytes. A later one is a zip file with one
pickle and a member per storage. A pickle is a program, so a hostile one could run any code. The
interpreter here knows only the few instructions that `torch.save` uses for a state dictionary, and
no value that they make is larger than the bytes that describe it.
"""

import math
import struct
from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from cryobase.stages.errors import DataError
from cryobase.stages.received import opened
from cryobase.stages.stored_zip import members, read_member

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
PROTOCOL = 2
MAX_FILE = 256 << 20  # bytes; EfficientNet-Lite0 has 19 million
MAX_PICKLES = 1 << 20  # bytes; those of EfficientNet-Lite0 have 47,000
MAX_KEY = 64  # characters
SPARE = 1 << 20  # bytes that tensors may have beyond the file's size, as strides can be zero
MEND = "give the state dictionary alone, as torch.save(model.state_dict(), path) writes it"


class _Global(NamedTuple):
    module: str
    name: str


ORDERED_DICT = _Global("collections", "OrderedDict")
REBUILD_TENSOR = _Global("torch._utils", "_rebuild_tensor_v2")
STORAGES: dict[_Global, np.dtype[Any]] = {
    _Global("torch", "FloatStorage"): np.dtype("<f4"),
    _Global("torch", "LongStorage"): np.dtype("<i8"),
}
GLOBALS = {ORDERED_DICT, REBUILD_TENSOR, *STORAGES}


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    @property
    def end(self) -> int:
        """The index of the storage's first element behind the tensor."""
        if not math.prod(self.shape):
            return self.offset
        pairs = zip(self.shape, self.strides, strict=True)
        return self.offset + 1 + sum((size - 1) * stride for size, stride in pairs)


def read_checkpoint(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a state dictionary by name, in PyTorch's axis order, contiguous.

    Raises:
        DataError: the file is not such a checkpoint, or contains anything but tensors.
    """
    try:
        with opened(path, MAX_FILE) as file:
            return _read(file)
    except (DataError, OSError) as error:
        raise DataError(f"{path}: not a checkpoint of PyTorch tensors: {error}") from None


def _read(file: BufferedIOBase) -> dict[str, NDArray[Any]]:
    zipped = file.read(4) == b"PK\3\4"
    file.seek(0)
    return _read_zip(file) if zipped else _read_pickles(file)


def _read_pickles(file: BufferedIOBase) -> dict[str, NDArray[Any]]:
    """The format from before PyTorch 1.6."""
    size = file.seek(0, 2)
    file.seek(0)
    pickles = _Pickles(file.read(MAX_PICKLES))
    if pickles.load() != MAGIC_NUMBER:
        raise DataError("it does not start with the magic number")
    _, machine = pickles.load(), pickles.load()
    if not isinstance(machine, dict) or machine.get("little_endian") is False:
        raise DataError("it is of a machine with another order of bytes")
    tensors = _tensors(pickles.load(), size)
    storages = {each.storage.key: each.storage for each in tensors.values()}
    keys = pickles.load()
    names = all(type(key) is str for key in keys) if isinstance(keys, list) else False
    if not names or sorted(keys) != sorted(storages):
        raise DataError("its storages are not those of its tensors")
    file.seek(pickles.position)
    data = {key: _read_storage(file, storages[key]) for key in keys}
    return {name: _view(each, data[each.storage.key]) for name, each in tensors.items()}


def _read_storage(file: BufferedIOBase, storage: _Storage) -> NDArray[Any]:
    """The next storage; `_tensors` has made sure that it is not larger than the file."""
    length = int.from_bytes(file.read(8), "little")
    data = file.read(storage.length * storage.dtype.itemsize)
    return _elements(storage, data, length)


def _elements(storage: _Storage, data: bytes, length: int) -> NDArray[Any]:
    if length != storage.length or len(data) != length * storage.dtype.itemsize:
        raise DataError(f"storage {storage.key!r} has other than its {storage.length:,} values")
    return np.frombuffer(data, storage.dtype)


def _read_zip(file: BufferedIOBase) -> dict[str, NDArray[Any]]:
    """The format since PyTorch 1.6."""
    size = file.seek(0, 2)
    entries = members(file)
    names = [name for name in entries if name.endswith("/data.pkl")]
    if len(names) != 1 or entries[names[0]].size > MAX_PICKLES:
        raise DataError("a zip file without the one data.pkl of torch.save")
    root = names[0].removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in entries and read_member(file, order, entries[order]) != b"little":
        raise DataError("it is of a machine with another order of bytes")
    pickles = _Pickles(bytes(read_member(file, names[0], entries[names[0]])))
    tensors = _tensors(pickles.load(), size)
    data: dict[str, NDArray[Any]] = {}
    for storage in {each.storage.key: each.storage for each in tensors.values()}.values():
        name = f"{root}data/{storage.key}"
        if name not in entries:
            raise DataError(f"storage {storage.key!r} is missing")
        stored = bytes(read_member(file, name, entries[name]))
        data[storage.key] = _elements(storage, stored, len(stored) // storage.dtype.itemsize)
    return {name: _view(each, data[each.storage.key]) for name, each in tensors.items()}


def _tensors(objects: Any, size: int) -> Mapping[str, _Tensor]:
    """Check that the pickled value has only tensors, which fit their storages and the file.

    Raises:
        DataError: it does not.
    """
    if not isinstance(objects, dict):
        raise DataError(f"it holds no dictionary; {MEND}")
    for name, each in objects.items():
        if not isinstance(each, _Tensor):
            raise DataError(f"{name!r:.80} in it is no tensor; {MEND}")
        if each.end > each.storage.length:
            raise DataError(
                f"{name!r:.80} reaches element {each.end - 1:,} of {each.storage.length:,}"
            )
    storages = {each.storage for each in objects.values()}
    if len({storage.key for storage in storages}) != len(storages):
        raise DataError("two tensors do not agree on their storage")
    stored = sum(storage.length * storage.dtype.itemsize for storage in storages)
    if stored > size or sum(each.nbytes for each in objects.values()) > size + SPARE:
        raise DataError(f"its tensors have more than its {size:,} bytes")
    return objects


def _view(tensor: _Tensor, storage: NDArray[Any]) -> NDArray[Any]:
    """A tensor's values, copied from its storage. Strides count elements, in any axis order."""
    if not math.prod(tensor.shape):
        return np.empty(tensor.shape, storage.dtype)
    strides = [stride * storage.itemsize for stride in tensor.strides]
    view = as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False)
    return np.ascontiguousarray(view).reshape(tensor.shape)


class _Pickles:
    """Interprets pickles, one after the other.

    Opcodes: https://github.com/python/cpython/blob/3.11/Lib/pickletools.py. Values are None, bool,
    int, str, tuple, list, dict with str as keys, and the classes above. A value is hashed, compared
    or shown only if its type is known.
    """

    def __init__(self, data: bytes) -> None:
        self.position = 0
        self._data = data
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The value of the next pickle."""
        self._stack, self._marks, self._memo = [], [], {}
        if self._take(2) != bytes([0x80, PROTOCOL]):
            raise DataError(f"no pickle of protocol {PROTOCOL} at byte {self.position - 2:,}")
        while (opcode := self._take(1)) != b".":
            instruction = INSTRUCTIONS.get(opcode)
            if instruction is None:
                raise DataError(f"{opcode!r} at byte {self.position - 1:,} makes no tensors")
            instruction(self)
        value = self._pop()
        if self._stack or self._marks:
            raise DataError(f"values are left over at byte {self.position:,}")
        return value

    def _take(self, count: int) -> bytes:
        start, self.position = self.position, self.position + count
        if self.position > len(self._data):
            raise DataError(f"it ends early, or its pickles have over {MAX_PICKLES:,} bytes")
        return self._data[start : self.position]

    def _number(self, count: int) -> int:
        return int.from_bytes(self._take(count), "little")

    def _line(self) -> str:
        end = self._data.find(b"\n", self.position, self.position + MAX_KEY)
        if end < 0:
            raise DataError(f"no name at byte {self.position:,}")
        return self._take(end + 1 - self.position)[:-1].decode("ascii", "backslashreplace")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        return self._pop_many(1)[0]

    def _pop_many(self, count: int) -> list[Any]:
        floor = self._marks[-1] if self._marks else 0
        if len(self._stack) - count < floor:
            raise DataError(f"nothing to take at byte {self.position:,}")
        values = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return values

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise DataError(f"no mark at byte {self.position:,}")
        values = self._pop_many(len(self._stack) - self._marks[-1])
        self._marks.pop()
        return values

    def _top(self, kind: type) -> Any:
        value = self._pop()
        self._push(value)
        if type(value) is not kind:
            raise DataError(f"no {kind.__name__} at byte {self.position:,}")
        return value

    def _string(self) -> None:
        try:
            self._push(self._take(self._number(4)).decode())
        except UnicodeDecodeError:
            raise DataError(f"no text at byte {self.position:,}") from None

    def _put(self, bytes_of_index: int) -> None:
        value = self._pop()
        self._push(value)
        self._memo[self._number(bytes_of_index)] = value

    def _get(self, bytes_of_index: int) -> None:
        index = self._number(bytes_of_index)
        if index not in self._memo:
            raise DataError(f"value {index} is not there at byte {self.position:,}")
        self._push(self._memo[index])

    def _global(self) -> None:
        name = _Global(self._line(), self._line())
        if name not in GLOBALS:
            raise DataError(f"{name.module}.{name.name} is not part of a tensor")
        self._push(name)

    def _storage(self) -> None:
        match self._pop():
            case ("storage", _Global() as kind, str() as key, str(), int() as length, *view):
                dtype = STORAGES.get(kind)
                if (
                    dtype is not None
                    and len(key) <= MAX_KEY
                    and _is_size(length)
                    and view in ([], [None])
                ):
                    self._push(_Storage(key, dtype, length))
                    return
        raise DataError(f"no storage at byte {self.position:,}")

    def _reduce(self) -> None:
        made, arguments = self._pop_many(2)
        match made, arguments:
            case (_Global("collections", "OrderedDict"), ()):
                self._push({})
            case (
                _Global("torch._utils", "_rebuild_tensor_v2"),
                (_Storage() as storage, offset, tuple() as shape, tuple() as strides, *_),
            ) if len(shape) == len(strides) <= 8 and all(map(_is_size, (offset, *shape, *strides))):
                self._push(_Tensor(storage, offset, shape, strides))
            case _:
                raise DataError(f"no tensor at byte {self.position:,}")

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        if len(items) % 2:
            raise DataError(f"a key without a value at byte {self.position:,}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str or key in target:
                raise DataError(f"no key, or a second one, at byte {self.position:,}")
            target[key] = value

    def _append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _build(self) -> None:
        """Drop attributes: `torch.save` stores a state dictionary's version as an attribute."""
        state = self._pop()
        if type(state) is not dict:
            raise DataError(f"no attributes at byte {self.position:,}")
        self._top(dict)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


INSTRUCTIONS = {
    b"(": lambda it: it._marks.append(len(it._stack)),
    b"N": lambda it: it._push(None),
    b"\x88": lambda it: it._push(True),
    b"\x89": lambda it: it._push(False),
    b"K": lambda it: it._push(it._number(1)),
    b"M": lambda it: it._push(it._number(2)),
    b"J": lambda it: it._push(struct.unpack("<i", it._take(4))[0]),
    b"\x8a": lambda it: it._push(int.from_bytes(it._take(it._number(1)), "little", signed=True)),
    b"X": _Pickles._string,
    b")": lambda it: it._push(()),
    b"t": lambda it: it._push(tuple(it._pop_to_mark())),
    b"\x85": lambda it: it._push(tuple(it._pop_many(1))),
    b"\x86": lambda it: it._push(tuple(it._pop_many(2))),
    b"\x87": lambda it: it._push(tuple(it._pop_many(3))),
    b"]": lambda it: it._push([]),
    b"a": lambda it: it._append(it._pop_many(1)),
    b"e": lambda it: it._append(it._pop_to_mark()),
    b"}": lambda it: it._push({}),
    b"s": lambda it: it._set_items(it._pop_many(2)),
    b"u": lambda it: it._set_items(it._pop_to_mark()),
    b"q": lambda it: it._put(1),
    b"r": lambda it: it._put(4),
    b"h": lambda it: it._get(1),
    b"j": lambda it: it._get(4),
    b"c": _Pickles._global,
    b"Q": _Pickles._storage,
    b"R": _Pickles._reduce,
    b"b": _Pickles._build,
}
