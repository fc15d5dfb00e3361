"""Warnings about labels that look like mistakes. Nothing is changed.

If a folder is in the wrong place, or a class name is spelled in two ways, training runs without an
error, but learns something else than the user wants.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator

import numpy as np

from cryobase.stages.data import index
from cryobase.stages.data.index import Index

SHOWN = 5  # names, or groups of names, in one line
PARTED = frozenset({"train", "training", "validation", "valid", "val", "test", "dev", "eval"})


def conflicts(found: Index) -> Iterator[tuple[str, str, str]]:
    """(digest, id, label) of all examples whose image also occurs with another label.

    Examples of one image follow each other. Quarantined examples are not included.
    """
    images, labels = found.images, found.labels
    several = (np.bincount(images)[images] > 1) & ~found.quarantined
    copies = np.flatnonzero(several)
    pairs = np.unique(images[copies] * len(found.classes) + labels[copies])
    rows, counts = np.unique(pairs // max(1, len(found.classes)), return_counts=True)
    doubtful = copies[np.isin(images[copies], rows[counts > 1])]
    for position in doubtful[np.argsort(images[doubtful], kind="stable")]:
        digest = found.digest[images[position]].tobytes().hex()
        yield digest, found.ids[position].decode(), found.classes[labels[position]]


def of_classes(found: Index, where: str | None) -> Iterator[str]:
    """A line for each thing about the classes that the user should check.

    Args:
        found: the index of the dataset.
        where: what to do so that another folder, "{}", has the classes; None if the classes are not
            folders.
    """
    parts, good = len(index.PARTS), ~found.quarantined
    places = found.labels[good].astype(np.int64) * parts + found.parts[good]
    counts = np.bincount(places, minlength=parts * len(found.classes)).reshape(-1, parts)
    sizes = counts.sum(axis=1)
    yield from _alike(found.classes)
    if empty := _names(found, sizes == 0):
        yield f"no usable image of {empty}: add some, or leave the class out"
    train = counts[:, index.PARTS.index("train")]
    if train.any() and (missing := _names(found, (train == 0) & (sizes > 0))):
        yield (
            f"no image of {missing} is in train, only in validation or test: nothing can learn it;"
            " put some into train, or leave the class out"
        )
    if (sizes > 0).sum() == 1:
        yield from _one_class(found, int(np.argmax(sizes)), where)
    elif where is not None and not found.parts.any():
        taken = [name for name in found.classes if name.lower().strip() in PARTED]
        if taken:
            yield (
                f"{_listed(taken)} became a class: a split of your own is train/<class>/… beside"
                " test/<class>/… or validation/<class>/…; rename the folders, or go on if these"
                " are classes"
            )


def _alike(classes: Iterable[str]) -> Iterator[str]:
    """Warnings about names that look the same to a person."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(_folded(name), []).append(name)
    alike = [names for names in groups.values() if len(names) > 1]
    for names in alike[:SHOWN]:
        yield (
            f"classes {' and '.join(_unlike(names))} differ only in {_difference(names)}: if they"
            " are the same, give them one name; they are not merged"
        )
    if len(alike) > SHOWN:
        yield f"and {len(alike) - SHOWN:,} more groups of class names that differ as little"


def _folded(name: str) -> str:
    return _spaced(unicodedata.normalize("NFKC", _cased(name)))


def _cased(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _spaced(name: str) -> str:
    """The name without invisible characters and outer blanks, with each blank as one space."""
    seen = "".join(c for c in name if unicodedata.category(c) != "Cf")
    return re.sub(r"[\s_-]+", " ", seen).strip()


def _difference(names: list[str]) -> str:
    if len({unicodedata.normalize("NFC", name) for name in names}) == 1:
        return "Unicode form (macOS writes accents as characters of their own)"
    if len({_cased(name) for name in names}) == 1:
        return "case"
    if len({_spaced(name) for name in names}) == 1:
        return "blanks"
    return "case, blanks or Unicode form"


def _unlike(names: list[str]) -> list[str]:
    """The names, written so that a reader sees the difference."""
    if len({unicodedata.normalize("NFC", _spaced(name)) for name in names}) == 1:
        return [ascii(name) for name in names]
    return [repr(name) for name in names]


def _one_class(found: Index, label: int, where: str | None) -> Iterator[str]:
    name = found.classes[label]
    folder, below = ("", []) if where is None else _branches(found, label)
    if len(below) < 2:
        yield f"all images are of one class, {name!r}: a classifier needs two or more"
        return
    if found.parts.any():
        mend = f"move them up, so that they are train/{below[0]}/… and test/{below[0]}/…"
    else:
        mend = str(where).replace("{}", folder)
    yield (
        f"all images are of one class, {name!r}, in its folders {_listed(below)}: if these are"
        f" the classes, {mend}"
    )


def _branches(found: Index, label: int) -> tuple[str, list[str]]:
    """(the deepest folder with all images of a class, its sub-folders that have images)."""
    chosen = (found.labels == label) & ~found.quarantined
    paths = [
        identifier.decode().split("/")[1 if part else 0 : -1]
        for identifier, part in zip(found.ids[chosen], found.parts[chosen], strict=True)
    ]
    first, last = min(paths), max(paths)  # parts that these two share, all paths share
    differ = (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    depth = next(differ, min(len(first), len(last)))
    return "/".join(first[:depth]), sorted({path[depth] for path in paths if len(path) > depth})


def _names(found: Index, which: np.ndarray) -> str:
    names = [found.classes[label] for label in np.flatnonzero(which)]
    return _listed(names) if names else ""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
