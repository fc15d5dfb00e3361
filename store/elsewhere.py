"""Features that were computed elsewhere: what their spec is, and the set that rows in hand become.

A pool shares rows by what decides their values. Of foreign features nobody here can say that, so
their spec holds what their owner says computed them and, in place of the weights, the digest of the
rows themselves: other values never share a fingerprint. They go to no pool. See docs/adr/0025.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from cryobase.store.errors import ConflictError, IntegrityError, SpecError
from cryobase.store.examples import Examples
from cryobase.store.manifest import versions
from cryobase.store.pool import Pool
from cryobase.store.publish import TEMPORARY_PREFIX, make_directory, storage_errors
from cryobase.store.reader import FeatureSet
from cryobase.store.shard import Digests
from cryobase.store.spec import FeatureSpec

FOREIGN = "foreign"
ORIGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}@[0-9a-f]{7,64}", re.ASCII)
ORIGIN_IS = (
    "MODEL@DIGEST, such as dinov2-small@3f2a91c: letters, digits and ._/- in the name, then 7 to 64"
    " hex digits of a commit, or of the SHA-256 of the weights"
)

Part = tuple[NDArray[Any], Digests, NDArray[Any]]


def foreign_spec(origin: str, content: str, dtype: str) -> FeatureSpec:
    """The spec of features that were computed elsewhere.

    Args:
        origin: What computed them, `MODEL@DIGEST`.
        content: The digest of all rows, 64 hex digits (docs/format.md, Digests).
        dtype: "float16" or "float32".

    Raises:
        SpecError: the origin is not written like that.
    """
    if not ORIGIN.fullmatch(origin):
        raise SpecError(f"{origin[:80]!r}: expected {ORIGIN_IS}")
    return FeatureSpec(
        backbone=f"{FOREIGN}: {origin}",
        weights_sha256=content,
        image_size=1,  # nobody knows; the others say so in words
        resize=FOREIGN,
        aspect=FOREIGN,
        decode=FOREIGN,
        preprocessing=FOREIGN,
        output=FOREIGN,
        dtype=dtype,
        augmentation=None,
        extractor_version=1,
    )


def is_foreign(spec: FeatureSpec) -> bool:
    """Whether features were computed elsewhere, so that no base is known to graft a head onto."""
    return spec.backbone.startswith(f"{FOREIGN}: ")


def create_set(
    directory: Path,
    spec: FeatureSpec,
    examples: Examples,
    rows: Iterable[Part],
    views: int = 0,
    *,
    digest: str | None = None,
) -> FeatureSet:
    """Publish a feature set of rows that are at hand, without a pool.

    Args:
        directory: Where it goes; it has no manifest yet.
        spec: Of the rows.
        examples: Ids, digests, labels; those outside of quarantine need rows of all views.
        rows: Parts of them: features (n, …), digests (n, 32) and views (n,), each key once.
        views: The highest view.
        digest: What the set's must be; any if None.

    Raises:
        ConflictError: there is a feature set already.
        IntegrityError: the set would have another digest; nothing is published.
        FeaturesError: a value is not finite, or a shape is wrong.
        MissingRowsError: an example outside of quarantine has no row.
        StorageError: the disk is full or fails, or permissions forbid it.
    """
    directory = Path(directory)
    if versions(directory):
        raise ConflictError(f"{directory}: has a manifest already; choose another name")
    parent = directory.absolute().parent
    make_directory(parent)
    with (
        storage_errors(parent),
        TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=parent) as scratch,
    ):
        pool = Pool(Path(scratch, "pool"), spec)
        with pool.writer() as writer:
            for features, digests, numbers in rows:
                writer.append(features, digests, numbers)
        if digest is not None:
            found = pool.publish(Path(scratch, "set"), examples, views).published
            if found is None or found.digest != digest:
                raise IntegrityError(f"{directory}: would not have the digest {digest[:12]}…")
        pool.publish(directory, examples, views)
    return FeatureSet.open(directory)
