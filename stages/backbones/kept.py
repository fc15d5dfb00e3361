"""Where models and weights are kept between runs: in a directory that only the user may fill."""

import os
import shlex
import stat
from pathlib import Path

from cryobase.stages.errors import ConfigError
from cryobase.store.verified import cache_directory

MEND = "set CRYOBASE_CACHE to a directory of your own"


def kept(name: str) -> Path:
    """The directory `name` of the user's cache, made if need be, for nobody else.

    Others who could write there could have us compute with their models. A group that may write was
    given that right on purpose, or is the user's own (umask 002 on Debian and Fedora).

    Raises:
        ConfigError: it cannot be made, belongs to somebody else, or anybody may write to it.
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
    found = directory.stat()
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"{directory}: belongs to user {found.st_uid}, what is kept there is not to be"
            f" trusted; {MEND}"
        )
    if found.st_mode & stat.S_IWOTH:
        raise ConfigError(
            f"{directory}: anybody may write there, what is kept there is not to be trusted;"
            f" run `chmod o-w {shlex.quote(str(directory))}`, or {MEND}"
        )
