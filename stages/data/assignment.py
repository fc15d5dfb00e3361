"""Assigning examples to the parts of a split: train, validation, test, or unused (-1).

All functions are pure and work on columns. A *unit* is a set of examples that must stay in one
part: they share a digest or a group, directly or through other examples.
"""

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data.patterns import PatternReader
from cryobase.stages.errors import ConfigError, DataError

TRAIN, VALIDATION, TEST = range(3)
UNUSED = -1
LARGEST = float(1 << 64)


def units_of(digests: NDArray[np.uint8], groups: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """(n,) unit numbers 0…m-1 of (n, 32) digests and (n,) group numbers."""
    _, units = np.unique(_as_bytes(digests), return_inverse=True)
    units = units.astype(np.int64)
    while groups is not None:
        before = units
        units = _least(units, groups)  # joins the units of a group
        units = _least(units, before)  # joins what was one unit before
        if np.array_equal(units, before):
            break
    return np.unique(units, return_inverse=True)[1].astype(np.int64)


def draws(keys: Sequence[bytes], seed: int) -> NDArray[np.uint64]:
    """A fixed pseudo-random draw for every key: the first 8 bytes of SHA-256(seed, key)."""
    prefix = hashlib.sha256(f"{seed}\0".encode())
    result = np.empty(len(keys), dtype=np.uint64)
    for number, key in enumerate(keys):
        hashed = prefix.copy()
        hashed.update(key)
        result[number] = int.from_bytes(hashed.digest()[:8], "big")
    return result


def least_per_unit(units: NDArray[np.int64], values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(m,) the smallest value among each unit's examples."""
    least = np.full(units.max(initial=-1) + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(least, units, values)
    return least


def by_fractions(draw: NDArray[np.uint64], validation: float, test: float) -> NDArray[np.int8]:
    """(m,) parts: units with the lowest draws test, the next ones validate, all others train.

    A unit's part depends only on its own draw, so new images do not move old ones.
    """
    share = draw / LARGEST
    part = np.full(len(draw), TRAIN, dtype=np.int8)
    part[share < validation + test] = VALIDATION
    part[share < test] = TEST
    return part


def stratified(
    draw: NDArray[np.uint64],
    units: NDArray[np.int64],
    labels: NDArray[np.int32],
    validation: float,
    test: float,
) -> NDArray[np.int8]:
    """(m,) parts as by `by_fractions`, with stand-ins if that leaves a class out of a part.

    A stand-in is a unit that moves to a part that lacks its class:

    - If no unit of a class trains, the unit with the class's highest draw does.
    - If a class's share of validation or test is half a unit or more, but no unit is there, the
      training unit with the lowest draw moves there, as long as another one still trains.

    When images are added, only stand-ins can move: back to the part of their own draw.

    Args:
        draw: (m,) the draw of each unit.
        units: (n,) the unit of each example.
        labels: (n,) the label of each example.
        validation: the fraction that validates.
        test: the fraction that tests.
    """
    part = by_fractions(draw, validation, test)
    label, unit = np.divmod(np.unique(labels.astype(np.int64) * len(draw) + units), len(draw))
    members, classes_of = _grouped(unit, label), _grouped(label, unit)
    for of_class in members.values():
        if not np.any(part[of_class] == TRAIN):
            part[of_class[np.argmax(draw[of_class])]] = TRAIN

    def still_trains(candidate: int) -> bool:
        """Whether each class of a unit has another unit that trains."""
        names = classes_of[candidate].tolist()
        return all(np.sum(part[members[name]] == TRAIN) > 1 for name in names)

    for number, share in ((TEST, test), (VALIDATION, validation)):
        for of_class in members.values():
            if share * len(of_class) < 0.5 or np.any(part[of_class] == number):
                continue
            training = of_class[part[of_class] == TRAIN]
            lowest_first = training[np.argsort(draw[training], kind="stable")].tolist()
            if (stand_in := next(filter(still_trains, lowest_first), None)) is not None:
                part[stand_in] = number
    return part


def _grouped(values: NDArray[np.int64], keys: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """The values of each key."""
    order = np.argsort(keys, kind="stable")
    names, starts = np.unique(keys[order], return_index=True)
    return dict(zip(names.tolist(), np.split(values[order], starts[1:]), strict=True))


def by_counts(
    order: NDArray[np.int64],
    units: NDArray[np.int64],
    labels: NDArray[np.int32],
    counts: Sequence[int],
    classes: Sequence[str],
) -> NDArray[np.int8]:
    """(m,) parts, with exactly `counts` examples of each class in each part.

    Args:
        order: (m,) unit numbers, in the order in which units are assigned.
        units: (n,) the unit of each example.
        labels: (n,) the label of each example.
        counts: the numbers of examples of each class that train, validate and test.
        classes: names of the classes, for the message.

    Raises:
        DataError: a class has too few examples, or its units do not add up to a count.
    """
    left = np.tile(np.asarray(counts, dtype=np.int64), (len(classes), 1))
    by_unit = np.argsort(units, kind="stable")
    starts = np.searchsorted(units[by_unit], np.arange(len(order) + 1))
    part = np.full(len(order), UNUSED, dtype=np.int8)
    for unit in order:
        members = labels[by_unit[starts[unit] : starts[unit + 1]]]
        wanted = np.bincount(members, minlength=len(classes))
        present = np.flatnonzero(wanted)
        for number in range(len(counts)):
            if np.all(left[present, number] >= wanted[present]):
                left[present, number] -= wanted[present]
                part[unit] = number
                break
    _refuse_short(left, labels, counts, classes)
    return part


def number_in(identifier: str) -> int:
    """The last number in a file's name: 12 in "cat/cat.12.jpg".

    Raises:
        DataError: the name has no number.
    """
    numbers = re.findall(r"[0-9]+", identifier.rsplit("/", 1)[-1].rsplit(".", 1)[0])
    if not numbers:
        raise DataError(f"{identifier}: no number in the file's name; set split.order: hash")
    return int(numbers[-1])


def group_numbers(ids: Sequence[str], pattern: str) -> tuple[NDArray[np.int64], list[str]]:
    """The groups that a pattern finds in the ids.

    Returns:
        (n,) the number of each example's group, and the names of the groups.

    Raises:
        ConfigError: the pattern finds no group in an id, or takes too long.
    """
    names: dict[str, int] = {}
    numbers = np.empty(len(ids), dtype=np.int64)
    with PatternReader("split.group_by", pattern) as reader:
        for position, name in enumerate(reader.read(ids)):
            if not name:
                raise ConfigError(
                    f"split.group_by: {pattern!r} finds no group in {ids[position]!r}; write one"
                    " that finds a group in every id"
                )
            numbers[position] = names.setdefault(name, len(names))
    return numbers, list(names)


def leave_out_leaks(part: NDArray[np.int8], units: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) whether another example of the same unit is in a later part: train, validation, test.

    This is for splits that a dataset has of its own: test images stay, their copies must not train.
    """
    last = np.full(units.max(initial=-1) + 1, UNUSED, dtype=np.int8)
    np.maximum.at(last, units, part)
    leaks: NDArray[np.bool_] = (part != UNUSED) & (part < last[units])
    return leaks


def _least(units: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) the smallest unit number among the examples with the same key."""
    least = np.full(keys.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, keys, units)
    return least[keys]


def _as_bytes(digests: NDArray[np.uint8]) -> NDArray[np.void]:
    return np.ascontiguousarray(digests).view("V32").ravel()


def _refuse_short(
    left: NDArray[np.int64],
    labels: NDArray[np.int32],
    counts: Sequence[int],
    classes: Sequence[str],
) -> None:
    for label in np.flatnonzero(left.any(axis=1)).tolist():
        have = int(np.count_nonzero(labels == label))
        raise DataError(
            f"class {classes[label]!r} has {have:,} usable images, split asks for"
            f" {sum(counts):,} ({', '.join(f'{count:,}' for count in counts)}) and"
            f" {int(left[label].sum()):,} are missing; ask for fewer, add images, or set"
            " split: {by: fractions, stratify: true}"
        )
