"""Which heads train together: stacks of one shape, and the reads that serve them.

A stack is a fixed number of heads that share one matrix product. Its programme depends on the shape
alone, never on how many of its places are taken. So a head's result does not depend on its
neighbours, bit for bit. Each head with hidden layers has a stack of its own: its weights then stay
in the processor's cache for many steps, which saves more time than a wider product would.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from cryobase.stages.heads.config import HeadParams

STACK_COLUMNS = 256  # a multiple of 64: in narrower products, results depend on the position
COLUMN_STEP = 64
CALL_FLOATS = 1 << 24  # feature values of one call, at most
CALL_STEPS = 32
READ_FLOATS = 1 << 26  # feature values of one read, at most, where batch sizes agree badly


@dataclass(frozen=True, order=True)
class StackShape:
    """Everything that the programme of a stack depends on."""

    width: int
    hidden: tuple[int, ...]
    activation: str
    classes: int
    sigmoid: bool
    dropout: bool
    optimizer: str
    batch_size: int

    @classmethod
    def of(cls, params: HeadParams, width: int, classes: int) -> "StackShape":
        """The shape of the stack that a head belongs to."""
        return cls(
            width=width,
            hidden=params.units,
            activation=params.activation,
            classes=classes,
            sigmoid=params.output == "sigmoid",
            dropout=params.dropout > 0,
            optimizer=params.optimizer,
            batch_size=params.batch_size,
        )

    @property
    def outputs(self) -> int:
        """Logits per head."""
        return 1 if self.sigmoid else self.classes

    @property
    def heads(self) -> int:
        """Places for heads; 1 if each head needs inputs of its own."""
        alone = bool(self.hidden) or self.dropout or self.outputs > STACK_COLUMNS
        return 1 if alone else STACK_COLUMNS // self.outputs

    @property
    def columns(self) -> int:
        """Columns of the last kernel."""
        return STACK_COLUMNS if self.heads > 1 else padded(self.outputs)

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of each kernel, padded."""
        sizes = (self.width, *map(padded, self.hidden), self.columns)
        return tuple(itertools.pairwise(sizes))

    @property
    def steps(self) -> int:
        """Steps of one call: a power of two."""
        fitting = CALL_FLOATS // (self.batch_size * self.width)
        return min(CALL_STEPS, 1 << max(0, fitting.bit_length() - 1))

    @property
    def rows(self) -> int:
        """Rows of one call."""
        return self.steps * self.batch_size


@dataclass(frozen=True)
class Stack:
    """Heads that train in one programme, by name, in their places."""

    shape: StackShape
    standardize: bool
    names: tuple[str, ...]


@dataclass(frozen=True)
class Read:
    """One pass over the rows per epoch, and the stacks that it serves."""

    views: int
    rows: int
    stacks: tuple[Stack, ...]


def padded(columns: int) -> int:
    """The next multiple of 64."""
    return -(-columns // COLUMN_STEP) * COLUMN_STEP


def plan(heads: Mapping[str, HeadParams], width: int, classes: int) -> list[Read]:
    """Stacks and reads for heads of the kinds that are trained by steps.

    Heads share a stack if shape, optimizer and batch size are equal. They share a read if they see
    the same views and their batches end together often enough.
    """
    groups: dict[tuple[int, bool, StackShape], list[str]] = {}
    for name, params in heads.items():
        key = params.views, params.standardize, StackShape.of(params, width, classes)
        groups.setdefault(key, []).append(name)
    reads: list[Read] = []
    for (views, standardize, shape), names in sorted(groups.items()):
        stacks = tuple(
            Stack(shape, standardize, tuple(names[start : start + shape.heads]))
            for start in range(0, len(names), shape.heads)
        )
        _join(reads, Read(views, shape.rows, stacks))
    return reads


def _join(reads: list[Read], new: Read) -> None:
    """Add stacks to a read that can serve them, or as a new read if there is none."""
    width = new.stacks[0].shape.width
    for k, read in enumerate(reads):
        rows = math.lcm(read.rows, new.rows)
        if read.views == new.views and rows * width <= max(READ_FLOATS, read.rows * width):
            reads[k] = Read(read.views, rows, read.stacks + new.stacks)
            return
    reads.append(new)
