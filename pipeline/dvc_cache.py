"""Finding the last version of an output in DVC's cache: DVC removes outputs before a stage runs."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryobase.pipeline.dvc_stage import locked
from cryobase.pipeline.layout import PER_NAME, dvc_root
from cryobase.store.errors import StoreError
from cryobase.store.publish import share
from cryobase.store.text import component, read_json

MAX_LISTING = 1 << 24  # bytes of DVC's list of the files in a directory
DIGEST = re.compile(r"[0-9a-f]{32}(\.dir)?")


@contextmanager
def last_version(root: Path, output: Path) -> Iterator[Path]:
    """The last version of an output: its directory, or links to its files in DVC's cache.

    DVC removes an output before its stage runs. Its cache has the files that `dvc.lock` names, also
    in a fresh clone after `dvc pull`. If the cache lacks a file, the directory is empty.

    Args:
        root: The directory of `dvc.lock`.
        output: An output that is a flat directory of cached files.
    """
    if output.exists() or not (root / "dvc.lock").exists() or not (cache := _cache(root)).is_dir():
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="cryobase-", dir=cache) as links:
        for name, file in _cached(root, cache, output).items():
            share(file, Path(links, name))
        yield Path(links)


def _cached(root: Path, cache: Path, output: Path) -> dict[str, Path]:
    """The files of an output by name, if DVC's cache has all of them."""
    try:
        outs = [out for stage in locked(root).values() for out in stage.get("outs", ())]
        [digest] = {out["md5"] for out in outs if _lies_at(root, out["path"], output)}
        entries = read_json(_object(cache, digest), MAX_LISTING)
        files = {component(entry["relpath"]): _object(cache, entry["md5"]) for entry in entries}
    except (StoreError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return files if all(file.is_file() for file in files.values()) else {}


def _lies_at(root: Path, path: str, output: Path) -> bool:
    """Whether a path of `dvc.lock` is this output; paths are relative to the stage's directory."""
    return os.path.normpath(root / PER_NAME / path) == os.path.normpath(output)


def _object(cache: Path, digest: str) -> Path:
    if not DIGEST.fullmatch(digest):
        raise ValueError(digest)
    return cache / "files" / "md5" / digest[:2] / digest[2:]


def _cache(root: Path) -> Path:
    from dvc.config import Config, ConfigError  # a third of a second

    settings = (dvc_root(root) or root) / ".dvc"  # above `root` if the pipeline is in a sub-folder
    own = settings / "cache"
    try:
        return Path(Config(str(settings))["cache"].get("dir") or own)
    except (ConfigError, OSError, RuntimeError):  # no home directory, or the user's file is broken
        return own
