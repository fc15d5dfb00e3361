"""The store's exceptions. Each message is one line: the file, what is wrong, what to do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StoreError(Exception):
    """Base of everything that `store` raises on purpose.

    Attributes:
        mend: What the user can do, appended to the message; empty if the message names it already.
    """

    mend = ""

    def __str__(self) -> str:
        return f"{super().__str__()}; {self.mend}" if self.mend else super().__str__()


class SpecError(StoreError, ValueError):
    """A feature spec has a field that is missing, unknown or out of range."""


class SpecMismatchError(StoreError, ValueError):
    """The rows have another spec, or another shape, than expected."""


class ExamplesError(StoreError, ValueError):
    """Ids, digests, labels and classes are not consistent."""


class UnknownExampleError(StoreError, KeyError):
    """An id is not in the set, or is in quarantine."""

    __str__ = Exception.__str__  # KeyError would quote the message


class FeaturesError(StoreError, ValueError):
    """Features have a wrong shape or are not finite."""


class MissingRowsError(StoreError, LookupError):
    """The pool lacks rows that a feature set needs."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no manifest, or a file that the manifest names is missing."""


class MissingFileError(StoreNotFoundError):
    """A file that a manifest names is missing."""


class IntegrityError(StoreError, ValueError):
    """A file does not match its manifest, or violates the format."""


class NewerSchemaError(IntegrityError):
    """The manifest was written by a newer Cryobase; it is not damaged."""


class ConflictError(StoreError, FileExistsError):
    """Another file has the name already."""


class StorageError(StoreError, OSError):
    """An operation failed because of the disk or of permissions."""

    def __str__(self) -> str:
        if not self.strerror:
            return super().__str__()
        reason = f"{self.strerror[0].lower()}{self.strerror[1:]}"  # without the prefix "[Errno 2]"
        return "; ".join(filter(None, (f"{self.filename}: {reason}", self.mend)))


@contextmanager
def mended_by(way: str | Callable[[], str]) -> Iterator[None]:
    """Append what the user can do to errors about damaged or missing files.

    Code that reads a file does not know whether it belongs to a pool, a set or somebody else. Its
    caller knows. If these blocks are nested, the outermost one decides.

    Args:
        way: The text to append, or a function that returns it.
    """
    try:
        yield
    except NewerSchemaError:
        raise
    except (IntegrityError, MissingFileError) as error:
        error.mend = way if isinstance(way, str) else way()
        raise
