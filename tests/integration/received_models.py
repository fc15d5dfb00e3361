"""Hostile models, weights and heads by name, and mutations of good ones."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.integration.attacks import Run, add_row, special


def mutated(whole: bytes, random: np.random.Generator) -> bytes:
    """Good bytes with one or a few changes: bits, bytes, numbers, cuts, repeats and removals."""
    mutant = bytearray(whole)
    for _ in range(int(random.integers(1, 4))):
        place = int(random.integers(len(mutant) or 1))
        length = int(random.integers(1, 64))
        match int(random.integers(7)):
            case 0:
                mutant[place : place + 1] = bytes([random.integers(256)])
            case 1 if place < len(mutant):
                mutant[place] ^= 1 << int(random.integers(8))
            case 2:
                number = int(random.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 16]))
                mutant[place : place + 4] = number.to_bytes(4, "little")
            case 3:
                del mutant[place : place + length]
            case 4:
                mutant[place:place] = mutant[place : place + length]
            case 5:
                other = int(random.integers(len(mutant) or 1))
                mutant[place : place + length] = mutant[other : other + length]
            case _ if random.integers(10) == 0:
                del mutant[place:]
    return bytes(mutant)


def saved(**arrays: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def zipped(member: bytes, name: str = "a.npy") -> bytes:
    """A zip file of one stored member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), member)
    return buffer.getvalue()


def npy(header: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    text = header.encode("latin-1")
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(text))
    return b"\x93NUMPY" + version + size + text + data


def header(descr: str = "'<f4'", order: str = "False", shape: str = "(1,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def overlapping() -> bytes:
    """A hundred names for one member: 400 MB of arrays in a file of 4 MB."""
    data = bytearray(zipped(npy(header(shape="(1000000,)"), bytes(4_000_000))))
    entry = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    entries = b"".join(
        bytes(data[entry:end]).replace(b"a.npy", b"%c%c.npy" % (97 + k // 10, 48 + k % 10))
        for k in range(100)
    )
    # names of six letters, so that all entries keep one length
    entries = entries.replace(b"\x05\0\0\0\0\0", b"\x06\0\0\0\0\0")
    tail = bytearray(data[end:])
    struct.pack_into("<2H2L", tail, 8, 100, 100, len(entries), entry)
    return bytes(data[:entry] + entries + tail)


NPZ = {
    "nothing": b"",
    "no zip": b"hello" * 10,
    "no array": zipped(b"no array"),
    "no suffix": zipped(npy(header(), bytes(4)), "a"),
    "header of 10^18": zipped(npy(header(shape="(1000000000000000000,)"), b"x" * 20)),
    "header of 0 by 10^18": zipped(npy(header(shape="(0, 999999999999999999, 9)"))),
    "nested header": zipped(npy("(" * 60_000)),
    "header that is longer": zipped(npy(header().replace("\n", " " * 60_000 + "\n"), bytes(4))),
    "header of version 2": zipped(npy(header(), bytes(4), b"\2\0")),
    "void": zipped(npy(header("'|V1000000'"), bytes(4))),
    "object": zipped(npy(header("'|O'"), bytes(4))),
    "big endian": zipped(npy(header("'>f4'"), bytes(4))),
    "double": zipped(npy(header("'<f8'"), bytes(8))),
    "record": zipped(npy(header("[('a', '<f4')]"), bytes(4))),
    "negative": zipped(npy(header(shape="(-1,)"), bytes(4))),
    "values missing": zipped(npy(header(shape="(2,)"), bytes(4))),
    "values left over": zipped(npy(header(), bytes(5))),
    "digits of other alphabets": zipped(npy(header(shape="(\xb2,)"), bytes(4))),
    "prefixed": b"MZ" + saved(a=np.zeros(1, np.float32)),
    "followed": saved(a=np.zeros(1, np.float32)) + b"x",
    "overlapping": overlapping(),
}


def torch_object(objects: bytes, *, keys: bytes = b"]", data: bytes = b"") -> bytes:
    """A checkpoint from before PyTorch 1.6 with the opcodes of its objects and of its keys."""
    magic = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
    machine = b"}" + torch_text("little_endian") + b"\x88s"
    parts = (magic, b"M\xe9\x03", machine, objects, keys)
    return b"".join(b"\x80\x02" + part + b"." for part in parts) + data


def torch_text(text: str) -> bytes:
    return b"X" + len(text.encode()).to_bytes(4, "little") + text.encode()


def torch_number(number: int) -> bytes:
    return b"\x8a\x08" + number.to_bytes(8, "little", signed=True)


def torch_tensor(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    length: int,
    offset: int = 0,
    key: str = "0",
    kind: str = "FloatStorage",
) -> bytes:
    """The opcodes of one tensor."""
    sizes, steps = (b"(" + b"".join(map(torch_number, some)) + b"t" for some in (shape, strides))
    storage = b"".join(
        (b"(", torch_text("storage"), b"ctorch\n%s\n" % kind.encode(), torch_text(key))
    )
    storage += torch_text("cpu") + torch_number(length) + b"NtQ"
    rest = torch_number(offset) + sizes + steps + b"\x89)t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"R"


def torch_dictionary(tensors: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(torch_text(name) + each for name, each in tensors.items()) + b"u"


def torch_file(
    tensors: dict[str, bytes], *, stored: int = 4, said: int | None = None, key: str = "0"
) -> bytes:
    """A checkpoint of one storage of float32, which may say another length than it has."""
    count = stored if said is None else said
    data = count.to_bytes(8, "little") + np.arange(stored, dtype="<f4").tobytes()
    return torch_object(torch_dictionary(tensors), keys=b"]" + torch_text(key) + b"a", data=data)


def torch_zip(tensors: dict[str, bytes], stored: int = 4, order: bytes = b"little") -> bytes:
    """A checkpoint since PyTorch 1.6."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + torch_dictionary(tensors) + b".")
        archive.writestr("archive/byteorder", order)
        archive.writestr("archive/data/0", np.arange(stored, dtype="<f4").tobytes())
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def _torch_hostile() -> dict[str, bytes]:
    good = torch_tensor((4,), (1,), length=4)
    cycle = b"]q\x01h\x01a"  # a list that holds itself
    doubled = b")" + b"".join(b"q\x01h\x01h\x01\x87" for _ in range(40))  # 3^40 when walked
    unfinished = b"X\xff\xff\xff\x7f"
    return {
        "empty": b"",
        "6 GB of bytes": b"\x96" + (6 << 30).to_bytes(8, "little") + b".",
        "runs a command": torch_object(b"cposix\nsystem\n" + torch_text("touch pwned") + b"\x85R"),
        "builds an object": torch_object(b"ccollections\nOrderedDict\n)\x81"),
        "reduces a text": torch_object(torch_text("a") + b")R"),
        "memo that is not there": torch_object(b"h\x05"),
        "memo of 2^31": torch_object(b"}r\xff\xff\xff\x7f" + torch_text("a") + good + b"s"),
        "long of 2^31 bytes": torch_object(b"\x8b\xff\xff\xff\x7f"),
        "text of 2^31 bytes": torch_object(unfinished),
        "frame of protocol 4": b"\x80\x04\x95" + (1 << 40).to_bytes(8, "little") + b"}.",
        "protocol 5": b"\x80\x05}.",
        "tuples 10^6 deep": torch_object(b")" + b"\x85" * 1_000_000),
        "lists 10^5 deep": torch_object(b"]" + b"q\x01]q\x02h\x01a" * 100_000),
        "list that holds itself": torch_object(cycle),
        "cycle as a key": torch_object(b"}" + cycle + b"Ns"),
        "hash of 3^40 steps": torch_object(b"}" + doubled + b"Ns"),
        "text of 3^40 letters": torch_object(doubled),
        "keys of 3^40 letters": torch_object(
            torch_dictionary({"a": good}), keys=b"]" + doubled + b"a"
        ),
        "two equal keys": torch_object(b"}(" + 2 * (torch_text("a") + good) + b"u"),
        "marks alone": torch_object(b"(" * 1_000_000),
        "nothing to take": torch_object(b"t"),
        "items left over": torch_object(b"}}"),
        "odd items": torch_object(b"}(" + torch_text("a") + b"u"),
        "no tensor": torch_file({"a": b"K\x05"}),
        "dictionary in a dictionary": torch_file({"model": torch_dictionary({"a": good})}),
        "stride 0, 3.6 GB": torch_file({"a": torch_tensor((30_000, 30_000), (0, 0), length=4)}),
        "a view a thousand times": torch_file({f"a{k}": good for k in range(100_000)}),
        "stride of 2^40": torch_file({"a": torch_tensor((4,), (1 << 40,), length=4)}),
        "negative stride": torch_file({"a": torch_tensor((4,), (-1,), length=4)}),
        "negative offset": torch_file({"a": torch_tensor((4,), (1,), length=4, offset=-8)}),
        "beyond the storage": torch_file({"a": torch_tensor((4,), (1,), length=4, offset=1)}),
        "strides missing": torch_file({"a": torch_tensor((2, 2), (1,), length=4)}),
        "a hundred axes": torch_file({"a": torch_tensor((1,) * 100, (1,) * 100, length=4)}),
        "storage of 2^47": torch_file({"a": torch_tensor((4,), (1,), length=1 << 47)}),
        "another length in the data": torch_file({"a": good}, said=5),
        "2^63 in the data": torch_file({"a": good}, said=(1 << 64) - 1),
        "data missing": torch_file({"a": good}, stored=3, said=4),
        "storage of another name": torch_file({"a": good}, key="1"),
        "objects as numbers": torch_file({"a": torch_tensor((4,), (1,), length=4, kind="Tensor")}),
        "two lengths of a storage": torch_file(
            {"a": good, "b": torch_tensor((2,), (1,), length=2)}
        ),
        "zip without data": torch_zip({"a": torch_tensor((4,), (1,), length=4, key="7")}),
        "zip of another length": torch_zip({"a": good}, stored=3),
        "zip of big-endian numbers": torch_zip({"a": good}, order=b"big"),
        "zip with a way out": torch_zip(
            {"a": torch_tensor((4,), (1,), length=4, key="../../etc/passwd")}
        ),
    }


TORCH = _torch_hostile()


def h5_good(*, native: bool = True, compression: str | None = None) -> bytes:
    """Weights as Keras writes them: native (`.weights.h5`) or as before Keras 3 (`.h5`)."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        kernel = np.arange(600, dtype=np.float32).reshape(3, 200)
        if native:
            group = file.create_group("layers/dense/vars")
            group.attrs["name"] = "dense"
        else:
            file.attrs["layer_names"] = np.array([b"dense", b"relu"])
            file.attrs["backend"] = b"tensorflow"
            file.attrs["keras_version"] = "2.15.0"
            file.create_group("relu").attrs["weight_names"] = np.empty(0)
            group = file.create_group("dense")
            group.attrs["weight_names"] = np.array([b"0", b"1"])
        group.create_dataset("0", data=kernel, compression=compression)
        group["1"] = np.zeros(200, np.float32)
        if native:
            group["2"] = np.float32(3)
    return buffer.getvalue()


def _h5(change: Callable[[Any], None]) -> bytes:
    import h5py

    buffer = io.BytesIO(h5_good())
    with h5py.File(buffer, "r+") as file:
        change(file)
    return buffer.getvalue()


def _h5_many(file: Any) -> None:
    for number in range(20_001):
        file.create_group(f"g{number}")


def _h5_attribute(file: Any) -> None:
    for number in range(1001):
        file["layers"].attrs[f"a{number}"] = "a"


def _h5_deep(file: Any) -> None:
    for _ in range(40):
        file = file.create_group("g")


def _h5_virtual(file: Any) -> None:
    import h5py

    layout = h5py.VirtualLayout((3,), "<f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", (3,))
    file.create_virtual_dataset("a", layout)


def _h5_userblock() -> bytes:
    return bytes(512) + h5_good()


def _h5_hostile() -> dict[str, bytes]:
    import h5py

    def huge(**how: Any) -> bytes:
        return _h5(lambda file: file.create_dataset("a", **how))

    return {
        "empty": b"",
        "text": b"weights",
        "signature alone": b"\x89HDF\r\n\x1a\n",
        "truncated": h5_good()[:-600],
        "userblock": _h5_userblock(),
        "renamed archive": keras_archive(h5_good()),
        "group that holds itself": _h5(lambda file: file.__setitem__("layers/again", file["/"])),
        "one array, two names": _h5(
            lambda file: file.__setitem__("a", file["layers/dense/vars/0"])
        ),
        "soft link": _h5(lambda file: file.__setitem__("a", h5py.SoftLink("/layers"))),
        "link to a file": _h5(
            lambda file: file.__setitem__("a", h5py.ExternalLink("/etc/passwd", "/"))
        ),
        "values in a file": huge(shape=(3,), dtype="<f4", external=[("/etc/passwd", 0, 12)]),
        "virtual values": _h5(_h5_virtual),
        "6 GB of nothing": huge(shape=(1 << 30, 2), dtype="<f4", chunks=(1 << 20, 1)),
        "6 GB compressed": huge(
            shape=(1 << 30, 2), dtype="<f4", chunks=(1 << 20, 1), compression="gzip"
        ),
        "10^9 chunks": huge(shape=(1_000_000_000,), dtype="|u1", chunks=(1,)),
        "values never written": huge(shape=(100,), dtype="<f4"),
        "2^62 values": huge(shape=(1 << 31, 1 << 31), dtype="|u1", chunks=(1, 1)),
        "another filter": huge(shape=(100,), dtype="<f4", compression="lzf"),
        "texts": huge(data=["a" * 10] * 3),
        "records": huge(shape=(3,), dtype=[("a", "<f4"), ("b", "<i4")]),
        "references": huge(shape=(3,), dtype=h5py.ref_dtype),
        "named type": _h5(lambda file: file.__setitem__("a", np.dtype("<f4"))),
        "array of a named type": _h5(
            lambda file: (
                file.__setitem__("t", np.dtype("<f4")),
                file.create_dataset("a", data=[1.0, 2.0], dtype=file["t"]),
            )
        ),
        "big-endian": huge(data=np.zeros(3, ">f4")),
        "empty space": huge(data=h5py.Empty("<f4")),
        "20,001 groups": _h5(_h5_many),
        "40 groups in another": _h5(_h5_deep),
        "1,001 attributes": _h5(_h5_attribute),
        "number as names": _h5(lambda file: file.attrs.__setitem__("layer_names", 5)),
        "name of 10,000 letters": _h5(
            lambda file: file.attrs.__setitem__("layer_names", np.array([b"a" * 10_000]))
        ),
        "line end in a name": _h5(lambda file: file.create_group("a\nb")),
    }


def keras_archive(weights: bytes, config: str = "{}", **how: Any) -> bytes:
    """A `.keras` file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **how) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", weights)
    return buffer.getvalue()


H5 = _h5_hostile()
KERAS = {
    "renamed h5": h5_good(),
    "no archive": b"weights",
    "compressed": keras_archive(bytes(10_000_000), compression=zipfile.ZIP_DEFLATED),
    "no weights in it": torch_zip({}),
    "weights that are none": keras_archive(b"weights"),
    "weights with a link": keras_archive(H5["link to a file"]),
    "followed": keras_archive(h5_good()) + b"x",
}


class Base:
    """Stands for a base that has room for any weights, where only their reading is tried."""

    weights = ()
    layers = ()

    def load_weights(self, path: str) -> None:
        raise ValueError("the weights of another model")


def _weights(backbone: str, path: Path) -> Run:
    """What `extract` does with a file of weights before it computes."""

    def run() -> None:
        from cryobase.stages.backbones import build, weights

        found = weights.locate_weights(backbone, str(path))
        build.set_weights(backbone, Base(), found.path)

    return run


def _add(kind: str, backbone: str, suffix: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():

        def write(place: Path, data: bytes = data) -> Run:
            path = place / f"a{suffix}"
            path.write_bytes(data)
            return _weights(backbone, path)

        add_row(f"{kind}: {name}", write, 5)


def _add_special(suffix: str, backbone: str) -> None:
    for kind in ("fifo", "device", "sparse", "folder", "socket"):

        def write(place: Path, kind: str = kind) -> Run:
            special(place / f"a{suffix}", kind)
            return _weights(backbone, place / f"a{suffix}")

        add_row(f"{suffix}: {kind}", write, 5)


_add("pth", "efficientnet_lite0", ".pth", TORCH)
_add("h5", "mobilenet", ".weights.h5", H5)
_add("old h5", "mobilenet", ".h5", H5)
_add("keras", "mobilenet", ".keras", KERAS)
for _suffix in (".pth", ".h5", ".keras"):
    _add_special(_suffix, "efficientnet_lite0" if _suffix == ".pth" else "mobilenet")


def _add_heads() -> None:
    for name, data in NPZ.items():

        def write(place: Path, data: bytes = data) -> Run:
            from cryobase.stages.heads.head import Head
            from tests.unit.stages.heads.test_head import forge, make_head

            make_head().save(place / "head")
            forge(place / "head", lambda path: path.write_bytes(data))
            return lambda: Head.load(place / "head")

        add_row(f"head: {name}", write, 3)


_add_heads()
