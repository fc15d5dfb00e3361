"""Foreign features, which another program computed: their spec, and publishing them as a set.

A pool shares rows that have the same spec, so a spec must decide their values. For foreign features
that cannot be checked. Their spec has the origin that their owner states and, in place of the
weights' digest, the digest of the rows themselves. So different values never share a fingerprint.
Foreign features never enter a shared pool. See docs/adr/0025.
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
        origin: The model that computed them, `MODEL@DIGEST`.
        content: The digest of all rows, 64 hex digits (docs/format.md, Digests).
        dtype: "float16" or "float32".

    Raises:
        SpecError: the origin does not have this form.
    """
    if not ORIGIN.fullmatch(origin):
        raise SpecError(f"{origin[:80]!r}: expected {ORIGIN_IS}")
    return FeatureSpec(
        backbone=f"{FOREIGN}: {origin}",
        weights_sha256=content,
        image_size=1,  # unknown, but the field must be a positive integer
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
    """Whether features are foreign; then there is no base to graft a head onto."""
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
    """Publish a feature set of given rows, without a shared pool.

    Args:
        directory: The set's directory; it must not have a manifest.
        spec: The spec of the rows.
        examples: Ids, digests, labels. Each example outside of quarantine needs a row of each view.
        rows: Parts, each of features (n, …), digests (n, 32) and views (n,). Each key occurs once.
        views: The highest view.
        digest: The digest that the set must have; if None, it is not checked.

    Raises:
        ConflictError: the directory has a manifest already.
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
            trial = pool.publish(Path(scratch, "set"), examples, views).published
            if trial is None or trial.digest != digest:
                raise IntegrityError(f"{directory}: would not have the digest {digest[:12]}…")
        pool.publish(directory, examples, views)
    return FeatureSet.open(directory)
