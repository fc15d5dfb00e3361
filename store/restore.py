"""Mending a feature set through the pool of its spec, and finding pools that cannot name theirs."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryobase.store.adopt import distinct, take
from cryobase.store.errors import (
    IntegrityError,
    MissingFileError,
    NewerSchemaError,
    StoreError,
    StoreNotFoundError,
)
from cryobase.store.examples import ExamplesFile
from cryobase.store.manifest import Manifest, load, manifest_path, versions
from cryobase.store.pool import Pool
from cryobase.store.publish import remove
from cryobase.store.reader import FeatureSet
from cryobase.store.repair import examine, salvaged, told_spec
from cryobase.store.spec import FeatureSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mended:
    """What became of a feature set.

    Attributes:
        damage: What was wrong, a line each; nothing where the set was sound.
        rows: How many of its rows the pool took over.
        whole: Whether the set is there, and sound now.
    """

    damage: tuple[str, ...]
    rows: int
    whole: bool


def repair_set(root: Path, directory: Path, *, output: Path | None = None) -> Mended:
    """Take the sound rows of a damaged set into their pool, and publish it anew if that is enough.

    Args:
        root: The directory of all pools.
        directory: The feature set.
        output: Where to publish it, if not there.
    """
    try:
        _, manifest = load(directory)
    except StoreNotFoundError:
        return Mended((), 0, whole=False)
    except NewerSchemaError:
        raise
    except IntegrityError as error:
        return _without_manifest(root, directory, str(error))
    try:
        FeatureSet(directory, manifest, full=True).close()
    except (IntegrityError, MissingFileError) as error:
        error.mend = ""
        damage = str(error)
    else:
        return Mended((), 0, whole=True)
    if all(info.is_sound(directory) for info in manifest.files):
        return Mended((damage,), 0, whole=False)  # the manifest itself is wrong
    shards, bad = examine(directory, manifest)
    pool = Pool(root, manifest.spec)
    rows = take(pool, directory, shards, canary=manifest.canary)
    reasons = tuple(dict.fromkeys([*(one.reason for one in bad), damage]))
    return Mended(reasons, rows, whole=_is_published(pool, directory, manifest, output))


def withdraw(directory: Path) -> None:
    """Remove the manifests of a damaged set that is about to be published anew.

    Publishing keeps a manifest that states the same content, also one that is wrong otherwise.
    """
    for version in versions(directory):
        remove(manifest_path(directory, version))


def find_pools(root: Path, known: Callable[[], Iterable[FeatureSpec]]) -> Iterator[Pool]:
    """All pools, those too whose manifest is damaged; what no spec can be found for is laid aside.

    Args:
        root: The directory of all pools.
        known: Specs that a pool may have whose manifests tell none.
    """
    for path in sorted(path for path in Path(root).glob("*") if versions(path)):
        try:
            spec = _spec(path) or _of_fingerprint(path.name, known())
        except NewerSchemaError as error:
            log.warning("%s", error)
            continue
        if spec:
            yield Pool(root, spec)
            continue
        log.warning("%s: nothing tells which rows these are; they are not used any more", path)
        withdraw(path)


def _spec(path: Path) -> FeatureSpec | None:
    """The spec of a pool's directory, which is called by its fingerprint."""
    try:
        found = [load(path)[1].spec]
    except NewerSchemaError:
        raise
    except IntegrityError:
        found = [
            spec
            for version in versions(path)
            if (spec := told_spec(manifest_path(path, version))[0])
        ]
    return _of_fingerprint(path.name, found)


def _of_fingerprint(name: str, specs: Iterable[FeatureSpec]) -> FeatureSpec | None:
    return next((spec for spec in specs if spec.fingerprint == name), None)


def _without_manifest(root: Path, directory: Path, damage: str) -> Mended:
    """Save the rows of a set of which the manifest tells no more than the spec."""
    spec, fingerprint = told_spec(manifest_path(directory, versions(directory)[-1]))
    if spec is None or spec.fingerprint != fingerprint:
        return Mended((damage,), 0, whole=False)
    manifest = salvaged(directory, spec)
    shards = distinct(examine(directory, manifest)[0])
    return Mended((damage,), take(Pool(root, spec), directory, shards, canary=None), whole=False)


def _is_published(pool: Pool, directory: Path, manifest: Manifest, output: Path | None) -> bool:
    """Publish a set anew from its own examples, if these are sound and the pool has all rows."""
    published = manifest.published
    assert published
    try:
        examples = ExamplesFile(directory, published.examples, published.classes, full=True).read()
    except StoreError:
        return False
    wanted = examples.digests[~examples.quarantined]
    if len(examples) != published.count or len(pool.missing(wanted, published.views)[0]):
        return False
    pool.publish(output or directory, examples, published.views)
    return True
