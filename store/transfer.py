"""Taking in a feature set that somebody sent: copied, verified in full, and only then visible."""

from pathlib import Path

from cryobase.store.errors import ConflictError, StoreNotFoundError, mended_by
from cryobase.store.manifest import load, manifest_path, versions
from cryobase.store.publish import (
    copy,
    make_directory,
    publish_bytes,
    remove,
    storage_errors,
    sync_directory,
)
from cryobase.store.reader import FeatureSet


def import_set(source: Path, target: Path) -> FeatureSet:
    """Copy a received feature set, if every byte of it is right.

    The copy is what gets verified, so that whoever owns `source` cannot change it afterwards. Only
    files that the manifest names are copied.

    Args:
        source: The received directory.
        target: A directory without a manifest, or a new one.

    Raises:
        IntegrityError: something is not what the manifest says; no copy is left.
        ConflictError: there is a feature set at `target`.
    """
    with mended_by("get it from where it came again"):
        return _imported(source, target)


def _imported(source: Path, target: Path) -> FeatureSet:
    _, manifest = load(source)
    if versions(target):
        raise ConflictError(f"{target}: has a manifest already; choose another name")
    if manifest.published is None:
        raise StoreNotFoundError(f"{source}: a pool, not a feature set")
    make_directory(target)
    copied: list[Path] = []
    try:
        for info in manifest.files:
            copied.append(target / info.name)
            copy(source / info.name, target / info.name, info.size)
        received = FeatureSet(target, manifest, full=True)
        with storage_errors(target):
            sync_directory(target)  # a power cut must not leave the manifest alone
        publish_bytes(target, manifest_path(target, 1).name, manifest.to_bytes())
    except BaseException:
        for path in copied:
            remove(path)
        raise
    return received
