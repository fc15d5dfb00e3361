"""Stage `split`: decide which examples train, which validate and which test.

`stages/data/splits.py` owns the files and `assignment.py` the hashing; this module checks params
and classes.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data import assignment, patterns
from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import PARTS, UNUSED, Splits
from cryobase.stages.errors import ConfigError, DataError
from cryobase.store import Examples
from cryobase.store.text import counted

log = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST = range(3)
NAMED = 5  # examples named in a warning


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How examples are divided; docs/images.md describes each way.

    Attributes:
        by: auto: the source's own split where it has one, else fractions; fractions: of all
            examples, by hash; counts: exact numbers per class; source: the source's own, which must
            exist.
        train, validation, test: fractions that sum to 1; with `by: counts`, whole numbers of
            examples per class. `test: 0` makes no test part.
        order: with `by: counts`, the order in which examples are taken: by hash, or by the number
            in the file name.
        group_by: a regular expression for ids. Examples with equal matches stay in one part. If
            the expression has a group, the text of its first group is compared.
        seed: seed of the hash; another seed gives another split.
        stratify: keep every class in train, even a class with a single image; and in another part
            if its share there is at least half an image; see `assignment.stratified`.
    """

    by: Literal["auto", "fractions", "counts", "source"] = "auto"
    train: int | float = 0.8
    validation: int | float = 0.1
    test: int | float = 0.1
    order: Literal["hash", "number"] = "hash"
    group_by: str | None = None
    seed: int = 0
    stratify: bool = False

    def __post_init__(self) -> None:
        shares = {"train": self.train, "validation": self.validation, "test": self.test}
        for key, share in shares.items():
            if not share >= 0 or (key == "train" and share == 0):
                raise ValueError(f"{key}: more than 0{' or 0' * (key != 'train')}, not {share}")
            if self.by == "counts" and share != int(share):
                raise ValueError(f"{key}: by counts a whole number per class, not {share}")
        if self.by != "counts" and abs(sum(shares.values()) - 1) > 1e-6:
            raise ValueError(f"train, validation and test: sum to 1, not {sum(shares.values()):g}")
        if self.order == "number" and self.by != "counts":
            raise ValueError("order: number needs by: counts")
        if self.stratify and self.by == "counts":
            raise ValueError("stratify: by counts every class has its numbers; leave stratify out")
        if self.group_by is not None:
            try:
                patterns.check(self.group_by)
            except ValueError as error:
                raise ValueError(f"group_by: {error}") from None


def run(config: SplitConfig, *, raw: Path, output: Path) -> Splits:
    """Divide the examples of `raw` that are not quarantined.

    Raises:
        DataError: a class has too few images, or no image to train on; the message names it.
        ConfigError: the source has no split of its own, or `group_by` does not match an id.
    """
    images = RawImages.open(raw)
    return divide(config, Divided(images.examples, images.index.parts - 1), output)


@dataclass(frozen=True, eq=False)
class Divided:
    """Examples to divide, and the part (n,) in which their source has each, or UNUSED."""

    examples: Examples
    own: NDArray[np.int8]


def divide(config: SplitConfig, images: Divided, output: Path) -> Splits:
    """Divide examples that are not quarantined, and write their parts; see `run`."""
    usable = np.flatnonzero(~images.examples.quarantined)
    _refuse_poor_classes(config, images, usable)
    part = assign(config, images, usable)
    counts = _count(images, usable, part)
    _check_train(config, images, usable, counts)
    _check_judges(config, counts)
    chosen = part != UNUSED
    splits = Splits(images.examples.ids[usable[chosen]], part[chosen])
    splits.write(output, counts)
    sizes = ", ".join(f"{name} {len(splits.ids(name)):,}" for name in PARTS)
    whole = f"{counted(len(usable), 'image')} of {counted(len(counts), 'class')}"
    log.info("split %s: %s", whole, sizes)
    return splits


def assign(config: SplitConfig, images: Divided, usable: NDArray[np.intp]) -> NDArray[np.int8]:
    """The part (n,) of every usable example, or UNUSED."""
    ids = images.examples.ids[usable]
    digests = images.examples.digests[usable]
    own = images.own[usable]
    groups, keys = None, [digest.tobytes() for digest in digests]
    if config.group_by is not None:
        texts = [identifier.decode() for identifier in ids]
        groups, group_names = assignment.group_numbers(texts, config.group_by)
        keys = [group_names[number].encode() for number in groups]
    units = assignment.units_of(digests, groups)
    draw = assignment.least_per_unit(units, assignment.draws(keys, config.seed))
    if config.by == "counts":
        order = _order(config, ids, units, draw)
        labels = images.examples.labels[usable]
        counts = [int(config.train), int(config.validation), int(config.test)]
        classes = images.examples.classes
        return assignment.by_counts(order, units, labels, counts, classes)[units]
    published = len(np.unique(own[own != UNUSED])) > 1  # a single folder `train` is not a split
    if config.by == "source" and not published:
        raise ConfigError("split.by: this source has no split of its own; set split.by: fractions")
    labels = images.examples.labels[usable]
    divide = _Division(config.stratify, draw, units, labels)
    if config.by == "fractions" or not published:
        return divide(np.ones(len(ids), np.bool_), config.validation, config.test)
    return _own(config, own, units, divide, ids)


@dataclass(frozen=True, eq=False)
class _Division:
    """Divides some of the examples by hash, in each class separately or all together."""

    stratify: bool
    draw: NDArray[np.uint64]
    units: NDArray[np.int64]
    labels: NDArray[np.int32]

    def __call__(
        self, chosen: NDArray[np.bool_], validation: float, test: float
    ) -> NDArray[np.int8]:
        """The part (k,) of every chosen example."""
        units = self.units[chosen]
        if self.stratify and len(units):
            there, units = np.unique(units, return_inverse=True)
            labels = self.labels[chosen]
            parts = assignment.stratified(self.draw[there], units, labels, validation, test)
        else:
            parts = assignment.by_fractions(self.draw, validation, test)
        return parts[units]


def _order(
    config: SplitConfig,
    ids: NDArray[np.bytes_],
    units: NDArray[np.int64],
    draw: NDArray[np.uint64],
) -> NDArray[np.intp]:
    """Unit numbers in the order in which counts take them."""
    if config.order == "hash":
        return np.argsort(draw, kind="stable")
    numbers = np.array([assignment.number_in(identifier.decode()) for identifier in ids], np.uint64)
    return np.lexsort((draw, assignment.least_per_unit(units, numbers)))


def _own(
    config: SplitConfig,
    own: NDArray[np.int8],
    units: NDArray[np.int64],
    divide: _Division,
    ids: NDArray[np.bytes_],
) -> NDArray[np.int8]:
    """The source's split, unchanged. Parts that it lacks are filled by hash."""
    part = own.copy()
    if not np.any(own == VALIDATION):
        share = config.validation / (config.train + config.validation)
        part[own == TRAIN] = divide(own == TRAIN, share, 0)
    part[own == UNUSED] = divide(own == UNUSED, config.validation, config.test)
    leaks = assignment.leave_out_leaks(part, units)
    if np.any(leaks):
        named = ", ".join(identifier.decode() for identifier in ids[leaks][:NAMED])
        log.warning(
            "%s left out, because a copy or their group is also in validation or test"
            " them: %s%s",
            counted(int(leaks.sum()), "example"), named, ", …" if leaks.sum() > NAMED else "",
        )  # fmt: skip
        part[leaks] = UNUSED
    return part


def _refuse_poor_classes(config: SplitConfig, images: Divided, usable: NDArray[np.intp]) -> None:
    classes = images.examples.classes
    if len(classes) < 2:
        raise DataError(f"data/raw: one class only, {classes[0]!r}; a classifier needs two")
    counts = np.bincount(images.examples.labels[usable], minlength=len(classes))
    for name, count in zip(classes, counts, strict=True):
        if count == 0:
            raise DataError(
                f"class {name!r} has no usable image; add images to it, or remove its folder"
            )
        if count == 1 and not config.stratify:
            by_counts = config.by == "counts"
            mend = "split: {by: fractions, stratify: true}" if by_counts else "split.stratify: true"
            raise DataError(
                f"class {name!r} has one usable image, at least 2 are needed, one to train on and"
                f" one to judge by; add images to it, remove its folder, or set {mend}, which"
                " trains on it alone"
            )


def _count(
    images: Divided, usable: NDArray[np.intp], part: NDArray[np.int8]
) -> list[dict[str, str | int]]:
    """The report of a stratified split: one row per class."""
    classes = images.examples.classes
    labels = images.examples.labels
    columns = {
        name: np.bincount(labels[usable[part == number]], minlength=len(classes))
        for name, number in [*zip(PARTS, range(3), strict=True), ("unused", UNUSED)]
    }
    bad = np.bincount(labels[images.examples.quarantined], minlength=len(classes))
    columns["quarantined"] = bad
    return [
        {"class": name, **{column: int(values[row]) for column, values in columns.items()}}
        for row, name in enumerate(classes)
    ]


def _check_train(
    config: SplitConfig,
    images: Divided,
    usable: NDArray[np.intp],
    counts: list[dict[str, str | int]],
) -> None:
    """Refuse a split without a class in train; the message names params that would keep it."""
    missing = next((row for row in counts if not row["train"]), None)
    if missing is None:
        return
    label = images.examples.classes.index(str(missing["class"]))
    for change in ({"stratify": True}, {"stratify": True, "by": "fractions"}):
        part = assign(replace(config, **change), images, usable)
        if np.any(part[images.examples.labels[usable] == label] == TRAIN):
            break
    keys = " and ".join(f"split.{key}: {str(value).lower()}" for key, value in change.items())
    where = ", ".join(f"{missing[part]} in {part}" for part in PARTS[1:] if missing[part])
    raise DataError(
        f"class {missing['class']!r} is missing from train ({where or 'left out of all parts'});"
        f" set {keys}, or add images of it to train"
    )


def _check_judges(config: SplitConfig, counts: list[dict[str, str | int]]) -> None:
    for part, asked in (("validation", config.validation), ("test", config.test)):
        missing = [str(row["class"]) for row in counts if not row[part]]
        if len(missing) < len(counts):
            if missing:
                log.warning("classes without an example in %s: %s", part, _listed(missing))
        elif part == "validation" and asked:
            raise DataError("no validation examples; raise split.validation or add images")
        elif part == "validation":
            log.warning("no validation examples: no head stops early, and training images choose")
        elif asked:
            log.warning("no test examples, so no head will have a test score")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" * (len(names) > NAMED))
