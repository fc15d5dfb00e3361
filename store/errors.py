"""What the store raises on purpose: one line naming the file, the fact and the mend."""


class StoreError(Exception):
    """Base of everything that `store` raises on purpose."""


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


class IntegrityError(StoreError, ValueError):
    """A file is not what its manifest says, or not what the format allows."""


class ConflictError(StoreError, FileExistsError):
    """Another file has the name already."""


class StorageError(StoreError, OSError):
    """The disk or the permissions did not allow an operation."""
