"""What computing a feature set would take, judged by how fast its spec's rows came last time."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryobase.stages.backbones.plan import Images, pooled_bytes
from cryobase.store.pool import Pool
from cryobase.store.publish import replacing, write
from cryobase.store.spec import FeatureSpec
from cryobase.store.text import read_json

FILE = "rates.json"
MAX_RATES, MAX_BYTES = 1000, 1 << 20


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


def estimate(
    spec: FeatureSpec, views: int, *, raw: Path, pool: Path, lender: Path | None = None
) -> Estimate:
    """What a set of the images of `raw` needs; nothing is computed, and no Keras is loaded."""
    images, rows = Images(raw), Pool(pool, spec)
    other = Pool(lender, spec) if lender else None
    plans = [rows.plan(images.raw.digests(block), views, other) for block in images.blocks()]
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
    newest = {fingerprint: round(rows / max(seconds, 1e-3), 3)}
    rates = dict([*_read(pool).items()][-MAX_RATES:]) | newest
    with suppress(OSError), replacing(pool / FILE) as partial:
        write(partial, json.dumps(rates).encode(), mode=0o666)


def seconds(pool: Path, fingerprint: str, rows: int) -> float | None:
    """An estimate for some rows; None where none of the spec was ever computed here."""
    rate = _read(pool).get(fingerprint)
    if not isinstance(rate, int | float) or not 1e-6 < rate < 1e9:
        return None
    return rows / rate


def _read(pool: Path) -> dict[str, Any]:
    """The rates that are kept; whoever shares the pool may have written anything."""
    try:
        found = read_json(pool / FILE, MAX_BYTES)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
