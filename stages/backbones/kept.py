"""The user's cache of models and weights, a directory that other users must not write."""

import os
import shlex
import stat
from pathlib import Path

from cryobase.stages.errors import ConfigError
from cryobase.store.verified import cache_directory

MEND = "set CRYOBASE_CACHE to a directory of your own"


def kept(name: str) -> Path:
    """The directory `name` of the user's cache, which is made if it is missing.

    If others could write there, they could replace models. Write permission of a group is accepted:
    it was given on purpose, or the group is the user's own (umask 002 on Debian and Fedora).

    Raises:
        ConfigError: it cannot be made, belongs to another user, or everybody may write to it.
    """
    try:
        root = cache_directory()
        for directory in (root, root / name):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_own(directory)
    except RuntimeError:
        raise ConfigError(f"no home directory is known for the cache; {MEND}") from None
    except OSError as error:
        fact = os.strerror(error.errno or 0)
        raise ConfigError(f"{error.filename}: no place for the cache ({fact}); {MEND}") from None
    return root / name


def _check_own(directory: Path) -> None:
    facts = directory.stat()
    if facts.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"{directory}: belongs to user {facts.st_uid}, what is kept there is not to be"
            f" trusted; {MEND}"
        )
    if facts.st_mode & stat.S_IWOTH:
        raise ConfigError(
            f"{directory}: anybody may write there, what is kept there is not to be trusted;"
            f" run `chmod o-w {shlex.quote(str(directory))}`, or {MEND}"
        )
