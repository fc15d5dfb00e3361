"""What happens to one file: shown as a difference, then written.

Owns the promise of `init` that nothing is overwritten: lines are added to a file that is there, or,
where the caller knows that it is an unedited one of ours, it is replaced. Must not decide which
files there are.
"""

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryobase.stages.outputs import replace
from cryobase.store.errors import ConflictError, MissingFileError
from cryobase.store.files import read_file
from cryobase.store.publish import free_name, storage_errors, write

MAX_BYTES = 1 << 20
ODD_BYTES = "surrogateescape"  # what is not ours keeps its bytes


@dataclass(frozen=True)
class Change:
    """A file, what it holds, None where it is not there, and what it is to hold."""

    path: Path
    before: str | None
    after: str

    def diff(self, name: str) -> Iterator[str]:
        """Lines of a unified diff, without their ends; `name` is the file's in the header."""
        old, new = (self.before or "").splitlines(), self.after.splitlines()
        first = f"a/{name}" if self.before is not None else "/dev/null"
        return difflib.unified_diff(old, new, first, f"b/{name}", lineterm="")

    def write(self) -> None:
        """Write the file as a whole.

        Raises:
            ConflictError: it has come, or has changed, since it was looked at.
            StorageError, DataError: it cannot be written.
        """
        data = self.after.encode("utf-8", ODD_BYTES)
        conflict = ConflictError(f"{self.path}: has just changed; run `cryobase init` again")
        if read(self.path) != self.before:
            raise conflict
        if self.before is not None:
            replace(self.path, data)
            return
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with free_name(self.path.parent) as temporary:
                write(temporary, data, mode=0o644)
                try:
                    os.link(temporary, self.path)  # which never overwrites
                except FileExistsError:
                    raise conflict from None


def read(path: Path) -> str | None:
    """The text of a file, with its own line ends; None where there is none.

    Raises:
        StoreError: it is no regular file, too large, or may not be read.
    """
    try:
        return read_file(path, MAX_BYTES).decode("utf-8", ODD_BYTES)
    except MissingFileError:
        return None


def with_lines(path: Path, lines: Sequence[str], title: str) -> Change | None:
    """The lines that a file lacks, added at its end below a comment; None if it has all."""
    before = read(path)
    text = before or ""
    present = {line.strip() for line in text.splitlines()}
    missing = [line for line in lines if line not in present]
    if not missing:
        return None
    end = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text else end if text.endswith("\n") else end * 2
    added = end.join((f"# {title}", *missing)) + end
    return Change(path, before, text + gap + added)
