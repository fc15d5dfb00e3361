"""What the store raises on purpose: one line naming the file, the fact and the mend."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StoreError(Exception):
    """Base of everything that `store` raises on purpose.

    Attributes:
        mend: How to mend it, the end of the message; empty where the message says so itself.
    """

    mend = ""

    def __str__(self) -> str:
        return f"{super().__str__()}; {self.mend}" if self.mend else super().__str__()


class SpecError(StoreError, ValueError):
    """A feature spec has a field that is missing, unknown or out of range."""


class SpecMismatchError(StoreError, ValueError):
    """Rows of one spec were expected, rows of another found."""


class ExamplesError(StoreError, ValueError):
    """Ids, digests, labels and classes do not fit together."""


class UnknownExampleError(StoreError, KeyError):
    """An id that the set does not have, or has only in quarantine."""

    __str__ = Exception.__str__  # KeyError would quote the message


class FeaturesError(StoreError, ValueError):
    """Features of a wrong shape, or not finite."""


class MissingRowsError(StoreError, LookupError):
    """The pool lacks rows that a feature set needs."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no manifest, or a file that it names is not there."""


class MissingFileError(StoreNotFoundError):
    """A file that a manifest names is not there."""


class IntegrityError(StoreError, ValueError):
    """A file is not what its manifest says, or not what the format allows."""


class NewerSchemaError(IntegrityError):
    """A manifest of a format that a later Cryobase writes: nothing is damaged."""


class ConflictError(StoreError, FileExistsError):
    """Another file has the name already."""


class StorageError(StoreError, OSError):
    """The disk or the permissions did not allow an operation."""

    def __str__(self) -> str:
        if not self.strerror:
            return super().__str__()
        reason = f"{self.strerror[0].lower()}{self.strerror[1:]}"  # no "[Errno 2]" ahead of it
        return "; ".join(filter(None, (f"{self.filename}: {reason}", self.mend)))


@contextmanager
def mended_by(way: str | Callable[[], str]) -> Iterator[None]:
    """Let errors about damaged or missing files end in how to mend them here.

    What reads a file does not know whether it is a pool's, a set's or a stranger's. Whoever knows
    says so, and the outermost knows best.
    """
    try:
        yield
    except NewerSchemaError:
        raise
    except (IntegrityError, MissingFileError) as error:
        error.mend = way if isinstance(way, str) else way()
        raise
