"""What computing a feature set would take, judged by how fast its spec's rows came last time."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from stages.backbones.plan import Images, pooled_bytes
from store.pool import Pool
from store.spec import FeatureSpec

FILE = "rates.json"


@dataclass(frozen=True)
class Estimate:
    """What `extract` would do.

    Attributes:
        existing: rows that the pool has.
        missing: rows to compute.
        bytes: that they take; None where neither a row nor the table says how wide one is.
        seconds: that they take; None where none of the spec was ever computed here.
    """

    existing: int
    missing: int
    bytes: int | None
    seconds: float | None


def estimate(spec: FeatureSpec, views: int, *, raw: Path, pool: Path) -> Estimate:
    """What a set of the images of `raw` needs; nothing is computed, and no Keras is loaded."""
    images, rows = Images(raw), Pool(pool, spec)
    plans = [rows.plan(images.raw.digests(block), views) for block in images.blocks()]
    row_bytes = plans[0].row_bytes or pooled_bytes(spec)
    missing = sum(plan.missing for plan in plans)
    return Estimate(
        existing=sum(plan.existing for plan in plans),
        missing=missing,
        bytes=None if row_bytes is None else row_bytes * missing,
        seconds=seconds(pool, spec.fingerprint, missing),
    )


def remember(pool: Path, fingerprint: str, rows: int, seconds: float) -> None:
    """Keep the rows per second of a run, start-up included, if the pool can be written."""
    rates = _read(pool) | {fingerprint: round(rows / max(seconds, 1e-3), 3)}
    partial = pool / f".{FILE}.{os.getpid()}"
    try:
        partial.write_text(json.dumps(rates, sort_keys=True), encoding="utf-8")
        partial.replace(pool / FILE)
    except OSError:
        partial.unlink(missing_ok=True)


def seconds(pool: Path, fingerprint: str, rows: int) -> float | None:
    """An estimate for some rows; None where none of the spec was ever computed here."""
    rate = _read(pool).get(fingerprint)
    return rows / rate if rate else None


def _read(pool: Path) -> dict[str, float]:
    try:
        found = json.loads((pool / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
