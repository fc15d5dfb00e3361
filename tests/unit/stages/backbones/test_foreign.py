"""Weights from somebody else: numbers and names come through a child, all else is one line."""

import io
import os
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest

from cryobase.stages.backbones import foreign, h5reader
from cryobase.stages.children import limit_this_process
from cryobase.stages.errors import DataError
from tests.integration.received_models import H5, KERAS, h5_good, keras_archive, mutated
from tests.memory import peak_bytes
from tests.scale import rounds

GIVEN = Path(__file__).parents[3] / "integration" / "received"
LIMIT = 1 << 24
BATCH = 200  # files that a child reads


def contents(path):
    """Every array and attribute of a file."""
    found = {}
    with h5py.File(path) as file:
        found["attributes of /"] = {
            name: np.array(file.attrs[name]).tolist() for name in file.attrs
        }

        def note(name, item):
            found[f"attributes of {name}"] = {
                key: np.array(item.attrs[key]).tolist() for key in item.attrs
            }
            if isinstance(item, h5py.Dataset):
                found[name] = item.dtype, item.shape, item[()].tolist()

        note("/", file)
        file.visititems(note)
    return found


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.weights.h5", h5_good()),
        ("a.weights.h5", h5_good(compression="gzip")),
        ("a.h5", h5_good(native=False)),
        ("a.keras", keras_archive(h5_good())),
    ],
)
def test_what_keras_writes_comes_through(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    (tmp_path / "plain").write_bytes(h5_good(native=name != "a.h5"))
    with foreign.rewritten(path, LIMIT) as clean:
        assert clean.name.endswith(".weights.h5") == (name != "a.h5")
        assert contents(clean) == contents(tmp_path / "plain")
    assert not clean.exists()


def refused(path, limit=LIMIT):
    before = peak_bytes()
    with pytest.raises(DataError) as refusal, foreign.rewritten(path, limit):
        pass
    assert len(str(refusal.value)) < 400
    assert "\n" not in str(refusal.value)
    assert peak_bytes() - before < 200e6
    return str(refusal.value)


@pytest.mark.fault(56)
@pytest.mark.parametrize("name", H5)
def test_what_keras_does_not_write_is_refused(tmp_path, name):
    path = tmp_path / "a.weights.h5"
    path.write_bytes(H5[name])
    assert "crashed" not in refused(path)


@pytest.mark.fault(56)
@pytest.mark.parametrize("name", KERAS)
def test_archives_that_keras_does_not_write_are_refused(tmp_path, name):
    path = tmp_path / "a.keras"
    path.write_bytes(KERAS[name])
    refused(path)


@pytest.mark.fault(56)
@pytest.mark.parametrize("path", sorted(GIVEN.glob("*.h5")), ids=lambda path: path.name)
def test_files_that_crashed_hdf5_or_keras(path):
    refused(path)


@pytest.mark.fault(56)
def test_more_than_the_base_needs_is_refused_unread(tmp_path):
    path = tmp_path / "a.weights.h5"
    path.write_bytes(h5_good())
    assert "more bytes than they can have" in refused(path, 1000)
    with path.open("r+b") as file:
        file.truncate(7 << 30)
    assert "at most" in refused(path)


@pytest.mark.fault(56)
@pytest.mark.parametrize("kind", ["fifo", "directory", "device"])
def test_only_regular_files(tmp_path, kind):
    path = tmp_path / "a.weights.h5"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    assert "not a regular file" in refused(path)


@pytest.mark.fault(56)
@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"groups": {}}',
        b'{"groups": [], "arrays": []}',
        b'{"groups": {"": {"layer_names": 5}}, "arrays": []}',
        b'{"groups": {"": {}}, "arrays": [["a", "<f4", [1000000000000]]]}',
        b'{"groups": {"": {}}, "arrays": [["a", "<f4", [0, 100000000000000000000]]]}',
        b'{"groups": {"": {}}, "arrays": [["a", "|O", [1]]]}',
        b'{"groups": {"": {}}, "arrays": [["a", "<f4", [1]], ["a", "<f4", [1]]]}',
        b'{"groups": {"": {}}, "arrays": [["", "<f4", [1]]]}',
        b'{"groups": {"": {}}, "arrays": [["a", "<f4", -1]]}',
    ],
)
def test_a_child_that_was_taken_over_is_not_believed(tmp_path, document):
    answer = io.BytesIO(len(document).to_bytes(8, "little") + document + bytes(8))
    path = tmp_path / "answer"
    path.write_bytes(answer.getvalue())
    with path.open("r+b") as file, pytest.raises(DataError):
        foreign._write(file, tmp_path / "clean.h5")


@pytest.mark.fault(56)
@pytest.mark.parametrize("native", [True, False])
def test_mutations_end_in_a_line_or_in_numbers(quick_path, native):
    """In forked children, which are what HDF5 may crash."""
    whole = h5_good(native=native)
    random = np.random.default_rng(int(native))
    count, at = rounds(100_000), 0
    ends, seen = {"read": 0, "refused": 0, "crashed": 0}, set()
    while at < count:
        mutants = [mutated(whole, random) for _ in range(min(BATCH, count - at))]
        for answer in answers(mutants, quick_path):
            at += 1
            if answer is None:
                ends["crashed"] += 1
                continue
            try:
                document, start = foreign._document(answer)
                if (asked := (str(document), start, os.fstat(answer.fileno()).st_size)) not in seen:
                    foreign._write(answer, quick_path / "clean.h5")
                    seen.add(asked)  # the next one like it has other numbers, if any
            except DataError:
                ends["refused"] += 1
            else:
                ends["read"] += 1
    print(f"\n{ends}")
    assert ends["read"]
    assert ends["refused"]


def answers(mutants, directory):
    """The answer to each, one after the other; None where it ended the child."""
    done = 0
    while done < len(mutants):
        for path in directory.glob("answer-*"):
            path.unlink()
        end = answered(mutants[done:], directory)
        for path in sorted(directory.glob("answer-*")):
            with path.open("rb") as answer:
                yield answer
            done += 1
        if end:
            yield None
            done += 1


def answered(mutants, directory):
    """How a child ends that reads files; it leaves an answer for each that it has read."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    with suppress(BaseException):
        limit_this_process(seconds=1, memory=h5reader.MEMORY, output=LIMIT)
        for number, data in enumerate(mutants):
            path = directory / "answer"
            with path.open("w+b") as output:
                h5reader.answer(io.BytesIO(data), output, len(data), LIMIT)
            path.rename(directory / f"answer-{number:04}")
        status = 0
    os._exit(status)
